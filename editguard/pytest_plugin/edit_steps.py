"""Edits that come and go while a test runs: steps on top of one another, any of which can be taken out again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from editguard.edits import EditCase, EditRequest, as_cases, refuse_conflicts

if TYPE_CHECKING:
    from editguard.edited import AppliedEdit, EditedModel
    from editguard.measurements import ModelUnderTest

Edits = EditRequest | EditCase | Iterable[EditRequest | EditCase]
Apply = Callable[["EditedModel", Sequence[EditRequest]], "EditedModel"]
UnderTest = Callable[["EditedModel", tuple[EditCase, ...]], "ModelUnderTest"]


def batch_of(edits: Iterable[Edits]) -> tuple[EditCase, ...]:
    """The cases of one batch.

    Raises: InvalidEdit, ConflictingEdits: they cannot be applied together.
    """
    single = (EditRequest, EditCase)
    cases = as_cases([one for edit in edits for one in ((edit,) if isinstance(edit, single) else edit)])
    refuse_conflicts([case.request for case in cases])
    return cases


@dataclass(frozen=True, eq=False)
class Step:
    """Cases that were applied together, and what that left behind."""

    cases: tuple[EditCase, ...]
    edits: tuple[AppliedEdit, ...]


class EditSteps:
    """What `editor.steps()` hands out: `add` edits, `withdraw` them, and ask `edited`.

    Steps are numbered from 1 on as they are added, and keep their numbers.
    """

    def __init__(self, base: EditedModel, apply: Apply, under_test: UnderTest) -> None:
        """Edit on top of `base`."""
        self._base, self._apply, self._under_test = base, apply, under_test
        self._steps: dict[int, Step] = {}
        self._count = 0
        self._asked: ModelUnderTest | None = None

    @property
    def in_force(self) -> tuple[Step, ...]:
        """The steps in force, in the order of their application."""
        return tuple(self._steps.values())

    @property
    def edited(self) -> ModelUnderTest:
        """The model with all steps in force."""
        if self._asked is None:
            cases = tuple(case for step in self._steps.values() for case in step.cases)
            self._asked = self._under_test(self._chain(self._steps.values()), cases)
        return self._asked

    def copy(self) -> EditSteps:
        """The same steps; what happens to the one does not happen to the other."""
        other = EditSteps(self._base, self._apply, self._under_test)
        other._steps, other._count = dict(self._steps), self._count
        return other

    def add(self, *edits: Edits) -> ModelUnderTest:
        """Apply edits together, on top of those in force.

        Raises: InvalidEdit, ConflictingEdits: they cannot be applied together. MethodRefused: the method cannot do it.
        """
        cases = batch_of(edits)
        step = self._applied(self._steps.values(), cases)
        self._count += 1
        self._steps[self._count] = step
        self._asked = None
        return self.edited

    def withdraw(self, number: int) -> ModelUnderTest:
        """Take a step out.

        What later steps left behind stays as it is, where it does not build on what is taken out: updates of weights,
        added neurons. Otherwise they are applied anew.

        Raises: ValueError: no such step is in force. MethodRefused: as for `add`.
        """
        from editguard.blame import separable

        if number not in self._steps:
            numbers = ", ".join(map(str, self._steps)) or "none"
            raise ValueError(f"no step {number} is in force; in force: {numbers}.")
        later = {place: step for place, step in self._steps.items() if place > number}
        kept = {place: step for place, step in self._steps.items() if place < number}
        for place, step in later.items():
            stays = all(separable(edit) for edit in step.edits)
            kept[place] = step if stays else self._applied(kept.values(), step.cases)
        self._steps, self._asked = kept, None
        return self.edited

    def _applied(self, before: Iterable[Step], cases: tuple[EditCase, ...]) -> Step:
        chain = self._chain(before)
        chain.activate()
        edited = self._apply(chain, [case.request for case in cases])
        return Step(cases, edited.edits[len(chain.edits) :])

    def _chain(self, steps: Iterable[Step]) -> EditedModel:
        chain = self._base
        for step in steps:
            for edit in step.edits:
                chain = chain.extended(edit)
        return chain
