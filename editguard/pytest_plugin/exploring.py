"""A state machine of edits: hypothesis adds, batches and withdraws them, and shrinks what breaks an invariant.

The shortest example found is told as a test that repeats it.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from editguard.edits import EditCase
from editguard.errors import ConfigurationError
from editguard.pytest_plugin.edit_steps import EditSteps

if TYPE_CHECKING:
    from editguard.measurements import ModelUnderTest

Action = tuple[str, tuple[int, ...]]
"""What was done: "add" with places of cases, or "withdraw" with the number of a step."""


def explore(
    begin: Callable[[], EditSteps],
    cases: Sequence[EditCase],
    invariant: Callable[[ModelUnderTest], None],
    *,
    steps: int,
    examples: int,
    together: int,
) -> None:
    """Run the machine; see `Editor.explore`.

    Args:
        begin: makes steps, of which none is in force yet.

    Where every edit was withdrawn the invariant, which may have nothing to ask, is not checked, but that the model has
    its own bytes again.

    Raises: ConfigurationError: there is nothing to draw from, or a number is below 1. AssertionError: an invariant was
        broken.
    """
    for name, number in (("cases", len(cases)), ("steps", steps), ("examples", examples), ("together", together)):
        if number < 1:
            raise ConfigurationError(f"explore() needs at least 1 of its {name}, not {number}.")
    from hypothesis import HealthCheck, settings
    from hypothesis import strategies as st
    from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

    known: dict[tuple[Action, ...], EditSteps] = {}
    places = st.lists(st.integers(0, len(cases) - 1), min_size=1, max_size=min(together, len(cases)), unique=True)

    class Edits(RuleBasedStateMachine):
        """What is in force, and how it came about."""

        def __init__(self) -> None:
            super().__init__()
            self.done: tuple[Action, ...] = ()
            self.in_force: dict[int, tuple[int, ...]] = {}

        @rule(places=places)
        def add(self, places: list[int]) -> None:
            used = {place for step in self.in_force.values() for place in step}
            if new := tuple(place for place in places if place not in used):
                self._do(("add", new))
                self.in_force[sum(name == "add" for name, _ in self.done)] = new

        @rule(which=st.integers(0, steps - 1))
        def withdraw(self, which: int) -> None:
            if self.in_force:
                number = list(self.in_force)[which % len(self.in_force)]
                self._do(("withdraw", (number,)))
                del self.in_force[number]

        def _do(self, action: Action) -> None:
            before, self.done = self.done, (*self.done, action)
            if self.done not in known:
                known[self.done] = _after(known.get(before), action)
            try:
                check(known[self.done])
            except AssertionError as broken:
                broken.add_note(as_test(cases, self.done, invariant))
                raise

    def check(at: EditSteps) -> None:
        if at.in_force:
            invariant(at.edited)
        elif at.edited.digest() != begin().edited.digest():
            raise AssertionError("every edit was withdrawn, and the model is another than before them.")

    def _after(before: EditSteps | None, action: Action) -> EditSteps:
        at = begin() if before is None else before.copy()
        name, numbers = action
        if name == "add":
            at.add([cases[place] for place in numbers])
        else:
            at.withdraw(*numbers)
        return at

    run_state_machine_as_test(
        Edits,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def as_test(cases: Sequence[EditCase], done: Sequence[Action], invariant: Callable[[ModelUnderTest], None]) -> str:
    """The source of a test that does the same and checks the invariant at its end."""
    lines = ["A test that repeats it:", "", "from editguard import EditCase, EditRequest, Probe", "", ""]
    lines += ["def test_counterexample(editor):"]
    try:
        source = textwrap.dedent(inspect.getsource(invariant)).rstrip()
    except (OSError, TypeError):
        source = ""
    name = getattr(invariant, "__name__", "")
    if source.startswith("def ") and name:
        lines += [textwrap.indent(source, "    "), ""]
    else:
        name = "invariant"
        lines.append(f"    # {name} is what was given to explore()")
    lines.append("    steps = editor.steps()")
    for action, numbers in done:
        if action == "add":
            added = ",\n".join(textwrap.indent(source_of(cases[place]), " " * 8) for place in numbers)
            lines.append(f"    steps.add(\n{added},\n    )")
        else:
            lines.append(f"    steps.withdraw({numbers[0]})")
    lines.append(f"    {name}(steps.edited)")
    return "\n".join(lines)


def source_of(value: Any) -> str:
    """An expression that makes an equal value, of dataclasses, tuples and plain values; defaults are left out."""
    if is_dataclass(value) and not isinstance(value, type):
        given = [
            f"{each.name}={source_of(getattr(value, each.name))}"
            for each in fields(value)
            if each.init and each.compare and (each.default is MISSING or getattr(value, each.name) != each.default)
        ]
        return f"{type(value).__name__}({', '.join(given)})"
    if isinstance(value, tuple):
        parts = [source_of(part) for part in value]
        return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
    return repr(value)
