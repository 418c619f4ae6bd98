"""Edits that come and go: what is in force, and the state machine that looks for a broken invariant."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import zoo
from pytest_plugin.inner import Suite

from editguard.edited import AppliedEdit, EditedModel, WeightDelta
from editguard.edits import EditCase, EditRequest, Probe
from editguard.models.weights import Total
from editguard.pytest_plugin.edit_steps import EditSteps
from editguard.pytest_plugin.exploring import as_test, explore, source_of

MACHINE = """
    CASES = [
        EditCase(
            request=request(f"S{n}"),
            probes=(Probe(property="locality", kind="neighbour", prompt=f"fragile {n}?"),),
        )
        for n in range(8)
    ]

    def test_machine(editor):
        def nothing_else_moves(edited):
            assert edited.locality().mean == 1.0

        editor.explore(CASES, nothing_else_moves, steps=5, examples=40)
"""


def test_steps_can_be_taken_out_in_any_order(suite: Suite) -> None:
    suite.file(
        """
        def test_steps(editor, original):
            steps = editor.steps()
            assert steps.edited.digest() == original.digest()
            alone = editor.steps()
            alone.add(request("B", "Ona"))
            edited = steps.add(ONE, request("A"))
            assert edited.answer(ONE.text) == "Oskar"
            edited = steps.add(request("B", "Ona"))
            assert (edited.answer(ONE.text), edited.answer(request("B").text), edited.edits) == ("Oskar", "Ona", 3)
            edited = steps.withdraw(1)
            assert (edited.answer(ONE.text), edited.answer(request("B").text), edited.edits) == ("old", "Ona", 1)
            with pytest.raises(ValueError, match="no step 1 is in force; in force: 2"):
                steps.withdraw(1)
            assert steps.add(ONE).edits == 2
            assert [case.request.subject for step in steps.in_force for case in step.cases] == ["B", "Velloria"]
            steps.withdraw(3)
            assert steps.withdraw(2).digest() == original.digest()
        """
    )
    suite.run("--editguard-methods=toy").assert_outcomes(passed=1)


def test_the_machine_finds_a_pair_and_shrinks_to_it(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_TOGETHER", "S3+S6")
    suite.file(MACHINE)
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(failed=1)
    printed = result.stdout.str().partition("A test that repeats it:")[2].partition("You can reproduce")[0]
    lines = [line.removeprefix("E").removeprefix("   ") for line in printed.splitlines()]
    start = next(place for place, line in enumerate(lines) if "def test_counterexample" in line)
    end = next(place for place, line in enumerate(lines) if "nothing_else_moves(steps.edited)" in line)
    margin = len(lines[start]) - len(lines[start].lstrip())
    source = "\n".join(line[margin:] for line in lines[start : end + 1])
    subjects = [name for name in (f"S{n}" for n in range(8)) if f"subject='{name}'" in source]
    assert subjects == ["S3", "S6"]
    assert "withdraw" not in source
    suite.file("", "test_suite")
    (suite.path / "test_pasted.py").write_text(
        f"from editguard import EditCase, EditRequest, Probe\n\n\n{source}\n", encoding="utf-8"
    )
    suite.run("--editguard-methods=toy", "test_pasted.py").assert_outcomes(failed=1)
    monkeypatch.delenv("TOY_TOGETHER")
    suite.run("--editguard-methods=toy", "test_pasted.py").assert_outcomes(passed=1)


def test_a_machine_without_a_fault_passes_and_leaves_the_model_as_it_was(suite: Suite) -> None:
    suite.file(
        MACHINE
        + """
    def test_after(original, editor):
        assert original.answer(CASES[0].request.text) == "old"
        with pytest.raises(ValueError, match="at least 1 of its examples"):
            editor.explore(CASES, print, examples=0)
"""
    )
    suite.run("--editguard-methods=toy").assert_outcomes(passed=2)


def test_a_source_makes_an_equal_value() -> None:
    case = EditCase(
        request=EditRequest(prompt="The {} is", subject="x'y\n", target="z", relation="r"),
        probes=(
            Probe(property="locality", kind="a", prompt="p"),
            Probe(property="portability", kind="b", prompt="q", answers=("one", "two"), knows=(("k", "v"),)),
        ),
    )
    names = {"EditCase": EditCase, "EditRequest": EditRequest, "Probe": Probe}
    assert eval(source_of(case), names) == case
    assert "choices" not in source_of(case)


def test_an_invariant_without_a_source_is_named_in_the_test() -> None:
    case = EditCase(request=EditRequest(prompt="The {} is", subject="x", target="z"))
    source = as_test([case], [("add", (0,)), ("withdraw", (1,))], len)  # type: ignore[arg-type]
    compile(source.partition("\n")[2], "pasted", "exec")
    assert "steps.withdraw(1)\n    invariant(steps.edited)" in source


def test_a_step_that_builds_on_the_one_taken_out_is_applied_anew() -> None:
    """What is left behind is a sum of all before it, as a memory of edits is."""
    model = zoo.tiny("gpt2")
    matrix = model.anatomy.down_projection(1)

    def apply(edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
        total = Total(torch.full(matrix.shape, 0.5 * (len(edited.edits) + 1)))
        return edited.extended(AppliedEdit("sums", tuple(requests), (WeightDelta({matrix.name: total}),)))

    def steps(*subjects: str) -> EditSteps:
        made = EditSteps(EditedModel.original(model), apply, lambda edited, _: cast(Any, edited))
        for subject in subjects:
            made.add(EditRequest(prompt="The {} is", subject=subject, target="z"))
        return made

    def digest(made: EditSteps) -> str:
        cast(Any, made.edited).activate()
        return model.weights.digest()

    both = steps("x", "y")
    both.withdraw(1)
    assert digest(both) == digest(steps("y")) != digest(steps("x", "y"))


def test_a_model_that_keeps_something_of_withdrawn_edits_breaks_the_machine() -> None:
    class Leaking:
        """Steps whose model is never again what it was."""

        def __init__(self, done: int = 0, in_force: int = 0) -> None:
            self.done, self.in_force = done, (0,) * in_force

        @property
        def edited(self) -> Any:
            return SimpleNamespace(digest=lambda: str(self.done))

        def copy(self) -> Leaking:
            return Leaking(self.done, len(self.in_force))

        def add(self, *_: object) -> None:
            self.done, self.in_force = self.done + 1, (*self.in_force, 0)

        def withdraw(self, _: int) -> None:
            self.in_force = self.in_force[1:]

    case = EditCase(request=EditRequest(prompt="The {} is", subject="x", target="z"))
    with pytest.raises(AssertionError, match="every edit was withdrawn, and the model is another") as found:
        explore(lambda: cast(Any, Leaking()), [case], lambda _: None, steps=4, examples=50, together=1)
    assert "steps.withdraw(1)" in "".join(found.value.__notes__)
