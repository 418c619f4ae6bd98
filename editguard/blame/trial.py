"""A check that can be asked with any part of its edits in force, and the search through it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from editguard.blame.counterfactual import Counterfactual
from editguard.blame.finding import Confirmed, Finding, LostProbe, NamedEdit
from editguard.blame.nearest import nearest_pairs
from editguard.blame.replay import Replay
from editguard.blame.search import OutOfTime, Search, Subset
from editguard.edits import EditCase, Probe
from editguard.measurements import CaseValue, Measurement, ModelUnderTest

if TYPE_CHECKING:
    from editguard.edited import EditedModel

Ask = Callable[[ModelUnderTest], bool]
"""Puts a check to a model; whether it fails. Other mistakes than a failed assertion are raised."""


@dataclass(frozen=True)
class Outcome:
    """What a check said of a model, and of which measurements."""

    fails: bool
    model: Counterfactual

    @property
    def seen(self) -> list[Measurement]:
        return self.model.seen


class Trial:
    """One failing check of one group of edits."""

    def __init__(
        self,
        ask: Ask,
        replay: Replay,
        *,
        edited: ModelUnderTest,
        original: ModelUnderTest,
        cases: Sequence[EditCase],
        tasks: Sequence[Probe] = (),
    ) -> None:
        """Prepare to ask.

        Args:
            ask: puts the check to a model.
            replay: the edits of `cases`, any of which can be left out.
            edited: the model with all of them, of which the check failed; what it was asked is not asked again.
            original: the model without any.
            cases: what was applied, in order.
            tasks: probes of other tasks, as `edited` has them.
        """
        self._ask = ask
        self._replay = replay
        self._edited, self._original = edited, original
        self._cases = tuple(cases)
        self._tasks = tuple(tasks)
        self._in_time: Callable[[], None] = lambda: None

    def find(self, test: str, *, seconds: float | None = None) -> Finding:
        """Search for the edits to blame.

        Args:
            test: what the check is called.
            seconds: for the whole search; when they are over, the smallest set found so far is named.

        Raises: what the check raises besides a failure.
        """
        begun = time.monotonic()

        def left() -> float | None:
            return None if seconds is None else seconds - (time.monotonic() - begun)

        def told(finding: Finding) -> Finding:
            return replace(finding, seconds=round(time.monotonic() - begun, 2))

        known = Finding(test=test, method=self._edited.method, edits=len(self._cases), recorded=self._replay.recorded)
        everything = tuple(range(len(self._cases)))
        full = self._outcome(everything, self._replay.model(everything), lambda model: model.answers_of(self._edited))
        if not full.fails:
            return told(replace(known, reason="asked once more, the check holds"))
        none = self._outcome((), self._replay.model(()), lambda model: model.answers_of(self._original))
        if none.fails:
            return told(replace(known, reason="the check fails without any edit, too"))
        anew = asked_anew(full, none)

        def outcome(subset: Subset, edited: EditedModel) -> Outcome:
            return self._outcome(subset, edited, lambda model: model.remembering(full.model, anew=anew))

        failing = everything, full, self._replay.model(everything)

        def fails(subset: Subset) -> bool:
            nonlocal failing
            edited = self._replay.model(subset, self._in_time)
            found = outcome(subset, edited)
            if found.fails:
                failing = subset, found, edited
            return found.fails

        search = Search(fails, seconds=left())
        self._in_time = search.check_time
        suspects = search.run(len(self._cases))
        blamed, alone, edited = failing
        assert blamed == suspects.edits  # whatever fails is a part of what failed before, and becomes the set so far
        lost = self._lost(alone, none, blamed)
        confirmed: Confirmed = "not tried"
        scratch: int | None = None
        if not self._replay.recorded:
            confirmed, scratch = "same", len(lost)
        else:
            with suppress(OutOfTime):
                again = outcome(blamed, self._replay.anew(blamed, self._in_time))
                lost_again = self._lost(again, none, blamed)
                scratch = len(lost_again)
                confirmed = "no" if not again.fails else "same" if _named(lost_again) == _named(lost) else "other"
        return told(
            replace(
                known,
                first=None if suspects.first is None else self._named_edit(suspects.first),
                blamed=tuple(map(self._named_edit, blamed)),
                minimal=suspects.minimal,
                confirmed=confirmed,
                lost=lost,
                lost_from_scratch=scratch,
                near=nearest_pairs(
                    edited.model,
                    edited,
                    {place + 1: self._cases[place].request for place in blamed},
                    [probe.prompt for probe in lost],
                    own={(probe.number, probe.prompt) for probe in lost if probe.number is not None},
                ),
                tried=search.tried + 2,
            )
        )

    def _outcome(
        self, subset: Subset, edited: EditedModel, knowing: Callable[[Counterfactual], Counterfactual]
    ) -> Outcome:
        seen: list[Measurement] = []
        model = knowing(self._with(subset, edited, len(self._cases), seen))
        model.growing(lambda: [self._at(earlier.edits, subset, seen) for earlier in self._edited.earlier()])
        return Outcome(self._ask(model), model)

    def _at(self, edits: int, subset: Subset, seen: list[Measurement]) -> Counterfactual:
        """The sequence at an earlier checkpoint, with those of the edits that were made by then."""
        part = tuple(place for place in subset if place < edits)
        return self._with(part, self._replay.model(part, self._in_time), edits, seen)

    def _with(self, subset: Subset, edited: EditedModel, edits: int, seen: list[Measurement]) -> Counterfactual:
        """A model that is asked all probes of the first `edits` cases."""
        model = Counterfactual(
            edited,
            original=self._original,
            cases=self._cases[:edits],
            method=self._edited.method,
            mode=self._edited.mode,
            model=self._edited.model,
            tasks=self._tasks,
        )
        return model.with_edits([self._cases[place].request.id for place in subset], seen=seen)

    def _named_edit(self, place: int) -> NamedEdit:
        request = self._cases[place].request
        return NamedEdit(number=place + 1, request=request.id, text=request.text, target=request.target)

    def _lost(self, outcome: Outcome, none: Outcome, blamed: Subset) -> tuple[LostProbe, ...]:
        """Probes that were better without any edit."""
        numbers = {case.request.id: place + 1 for place, case in enumerate(self._cases)}
        culprits = {place + 1 for place in blamed}
        lost = []
        for found, before, after in _pairs(outcome, none):
            if not _worse(found, before, after):
                continue
            number = numbers.get(after.edit)
            lost.append(
                LostProbe(
                    property=found.name,
                    kind=after.kind,
                    prompt=after.prompt,
                    expected=after.expected[0] if after.expected else "",
                    before=before.answer if after.original is None else after.original,
                    after=after.answer,
                    number=number,
                    own=number in culprits,
                )
            )
        return tuple(lost)


def asked_anew(full: Outcome, none: Outcome) -> Collection[str]:
    """Prompts that have to be asked of each part of the edits: those that all of them answer otherwise than none.

    What was asked beside measurements is among them. The others stay as they are with all edits: the search is for what
    was lost.
    """
    settled: set[str] = set()
    changed: set[str] = set()
    for _, before, after in _pairs(full, none):
        (settled if before.value == after.value else changed).add(after.prompt)
    return frozenset((full.model.asked() | none.model.asked()) - settled | changed)


def _pairs(outcome: Outcome, none: Outcome) -> list[tuple[Measurement, CaseValue, CaseValue]]:
    """The same probe of the same measurement, without any edit and with some; each measurement once."""
    before = {found.id: {value.probe: value for value in found.values} for found in none.seen}
    unique = {found.id: found for found in outcome.seen}
    return [
        (found, before[found.id][value.probe], value)
        for found in unique.values()
        if found.id in before
        for value in found.values
    ]


def _worse(found: Measurement, before: CaseValue, after: CaseValue) -> bool:
    if before.value is None or after.value is None:
        return before.value is not None
    return after.value > before.value if found.lower_is_better else after.value < before.value


def _named(lost: Sequence[LostProbe]) -> set[tuple[str, str, str]]:
    return {(probe.property, probe.kind, probe.prompt) for probe in lost}
