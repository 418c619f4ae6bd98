"""The cases of a run, one by one, with what was asked and answered: kept within bounds, and packed for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

from editguard.comparison.verdict import Flip, Verdict
from editguard.measurements.record import FRACTION, CaseValue, Measurement, Tokens, named

MOST_PASSING: Final = 10_000
"""Cases that did not fail, with their texts; failing ones are kept whatever their number."""
COLUMNS: Final = (
    *("prompt", "expected", "before", "after", "accepted", "outcome", "value", "property", "kind", "method", "mode"),
    *("edits", "test", "edit", "failing", "lost", "must_hold", "tokens", "tokens_before"),
)
"""Of a packed row, in its order."""


@dataclass(frozen=True)
class Case:
    """One case of a measurement.

    Attributes:
        measured: what it belongs to, without its values; `check` is that measurement's id.
        test: the node id of the test that took it first.
        value: what was asked and answered.
        flip: how it was lost against the baseline; None where it was not.
    """

    measured: Measurement
    check: str
    test: str
    value: CaseValue
    flip: Flip | None = None

    @property
    def failing(self) -> bool:
        """Whether it is not right, as far as values are shares, or lost; of the unedited model lost ones alone fail."""
        wrong = self.measured.unit == FRACTION and self.measured.edits > 0 and self.value.value != 1.0
        return wrong or self.flip is not None

    @property
    def must_hold(self) -> bool:
        """Whether losing it is a regression by itself."""
        return self.value.must_hold or (self.flip is not None and self.flip.must_hold)


class Cases:
    """Gathers the cases of measurements: all that fail, and of the others so many."""

    def __init__(self, most_passing: int = MOST_PASSING) -> None:
        self._most = most_passing
        self._kept: dict[tuple[str, str], Case] = {}
        self._seen: set[str] = set()
        self._passing = 0
        self.left_out = 0
        """Cases that did not fail and of which nothing is kept."""

    def add(self, measurement: Measurement, test: str, verdict: Verdict | None = None) -> None:
        """Take a measurement's cases, with the verdict on it where there is one; a measurement counts once."""
        check = measurement.id
        flips = {} if verdict is None else {flip.probe: flip for flip in verdict.lost}
        if check in self._seen:
            self._lose(check, flips)
            return
        self._seen.add(check)
        bare = replace(measurement, values=(), excluded_probes=())
        for value in measurement.values:
            case = Case(bare, check, test, value, flips.get(value.probe))
            if not case.failing:
                if self._passing >= self._most:
                    self.left_out += 1
                    continue
                self._passing += 1
            self._kept[check, value.probe] = case

    def _lose(self, check: str, flips: Mapping[str, Flip]) -> None:
        for probe, flip in flips.items():
            if (case := self._kept.get((check, probe))) is not None:
                self._kept[check, probe] = replace(case, flip=flip)

    @property
    def kept(self) -> list[Case]:
        """The cases with the worst first: lost ones that must hold, other lost ones, failing ones, the others."""
        return sorted(self._kept.values(), key=lambda case: (case.flip is None, not case.must_hold, not case.failing))


@dataclass(frozen=True)
class Packed:
    """Cases as plain data in which every text stands once.

    Attributes:
        cases: in the order in which they are shown.
        left_out: how many others there were.
        edits: id of a request -> the edit in words.
    """

    cases: Sequence[Case]
    left_out: int = 0
    edits: Mapping[str, str] = field(default_factory=dict)

    @property
    def failing(self) -> int:
        """How many cases fail."""
        return sum(case.failing for case in self.cases)

    @property
    def lost(self) -> int:
        """How many were lost against the baseline."""
        return sum(case.flip is not None for case in self.cases)

    @cached_property
    def data(self) -> dict[str, Any]:
        """Plain data: the texts, and rows of `COLUMNS` that name a text by its place, -1 where there is none."""
        texts: dict[str, int] = {}

        def place(text: str | None) -> int:
            return -1 if text is None else texts.setdefault(text, len(texts))

        def placed(tokens: Tokens) -> list[list[float]]:
            return [[place(text), chance] for text, chance in tokens]

        rows = []
        for case in self.cases:
            value, measured = case.value, case.measured
            rows.append(
                [
                    place(value.prompt),
                    [place(text) for text in value.expected],
                    place(value.original),
                    place(value.answer),
                    place(None if case.flip is None else case.flip.accepted_answer),
                    place(value.outcome),
                    None if value.value is None else round(value.value, 6),
                    place(named(measured.title, measured.unit)),
                    place(value.kind),
                    place(measured.method),
                    place(measured.mode),
                    measured.edits,
                    place(case.test),
                    place(self.edits.get(value.edit, value.edit)),
                    int(case.failing),
                    int(case.flip is not None),
                    int(case.must_hold),
                    placed(value.tokens),
                    placed(value.tokens_before),
                ]
            )
        return {"columns": list(COLUMNS), "texts": list(texts), "rows": rows}
