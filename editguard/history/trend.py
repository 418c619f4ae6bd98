"""How a check went over the runs, and since which run it has been what it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Final

from editguard.history.run import RunCheck, RunRecord

SAME: Final = 1e-6
"""Means that differ by less than this part of the larger one are the same: other threads round otherwise."""
_SAYING: Final = ("regressed", "undecided", "held")
"""The verdicts that compare two runs, the worst first."""


@dataclass(frozen=True)
class Series:
    """One check over the runs that made it, the oldest first; never empty.

    Of two tests of a run that measure the same, the one with the worst verdict counts.
    """

    runs: tuple[RunRecord, ...]
    checks: tuple[RunCheck, ...]

    @property
    def latest(self) -> RunCheck:
        """What the last of the runs said."""
        return self.checks[-1]

    @property
    def means(self) -> list[float | None]:
        """Run by run."""
        return [check.mean for check in self.checks]

    @property
    def changed(self) -> int | None:
        """The position of the run since which the mean has been what it is; None where it never was another."""
        return last_change(self.means)

    @property
    def regressed(self) -> int | None:
        """The position of the run since which the check has been regressed; None where it is not."""
        return since_regressed([check.verdict for check in self.checks])


def last_change(values: Sequence[float | None]) -> int | None:
    """The position from which on all values are the last one; None where that is the first position, or none.

    Values are compared with the last one, not with their neighbours, so that many small steps do not pass for none.
    """
    start = len(values)
    while start and _same(values[start - 1], values[-1]):
        start -= 1
    return start or None


def since_regressed(verdicts: Sequence[str | None]) -> int | None:
    """The position of the first regressed verdict after the last other one; None where the last one is another.

    Runs that compared nothing (a baseline was recorded, missing or switched off) say nothing and are passed over.
    """
    since = None
    for position in reversed(range(len(verdicts))):
        if verdicts[position] == "regressed":
            since = position
        elif verdicts[position] in _SAYING:
            break
    return since


def series_of(runs: Iterable[RunRecord]) -> list[Series]:
    """The checks of all runs, each over the runs, by suite, test and property.

    A check goes on under another name of its test; another model, environment class, probe or edit is another check.

    Args:
        runs: the oldest first.
    """
    found: dict[tuple[str, str | None, str], list[tuple[RunRecord, RunCheck]]] = {}
    for run in runs:
        present: dict[tuple[str, str | None, str], RunCheck] = {}
        for check in run.checks:
            key = (run.model, check.environment, check.check)
            if key not in present or _weight(check) < _weight(present[key]):
                present[key] = check
        for key, check in present.items():
            found.setdefault(key, []).append((run, check))
    series = [Series(tuple(run for run, _ in points), tuple(check for _, check in points)) for points in found.values()]
    return sorted(series, key=_place)


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return isclose(one, other, rel_tol=SAME, abs_tol=1e-12)


def _weight(check: RunCheck) -> int:
    """Which of two tests that measure the same counts: the smaller number."""
    if check.verdict in _SAYING:
        return _SAYING.index(check.verdict)
    return len(_SAYING) + (check.verdict is None)


def _place(series: Series) -> tuple[str, ...]:
    check, run = series.latest, series.runs[-1]
    return (check.suite, run.model, check.environment or "", check.label, check.title, check.check)
