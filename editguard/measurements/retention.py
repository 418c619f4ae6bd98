"""What is left of earlier edits as a sequence grows: retention, retention by age, and conditional forgetting.

r_i(n) is the outcome of edit i's own probe under the model after edits 1..n, 1 or 0. A table of "sequential editing"
that asks each edit right after it was made prints the mean of r_i(i), which says nothing about the edits before it.

A request whose fact a later one states anew is expected to hold up to that one alone: from there on it is left out of
every share, and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from types import MappingProxyType
from typing import Any, Literal

from editguard.edits import EditRequest, superseded
from editguard.errors import ConfigurationError
from editguard.measurements.intervals import Interval, wilson
from editguard.measurements.record import Measurement

Outcomes = Mapping[str, bool]
"""Of one state of the model: per id of a request whether its probes passed; requests not asked are missing."""


@dataclass(frozen=True)
class Share:
    """A share of edits.

    Attributes:
        passed: how many edits are counted in it.
        edits: of how many, all with an outcome.
        superseded: positions of the sequence that were left out because a later request replaced them.
        missing: positions that would belong to it, but have no outcome.
    """

    passed: int
    edits: int
    superseded: int = 0
    missing: int = 0

    @property
    def value(self) -> float:
        """The share, in [0, 1]; NaN without edits."""
        return self.passed / self.edits if self.edits else nan

    @property
    def interval(self) -> Interval:
        """Wilson's 95 % interval over the edits; (0, 1) without any."""
        return wilson(self.passed, self.edits)


@dataclass(frozen=True)
class History:
    """The outcomes of a sequence at its checkpoints.

    Attributes:
        requests: in the order of their application, numbered from 1 as in the formulas.
        outcomes: per n, after how many requests, the outcome of each of the first n requests that was asked.

    Raises: ConfigurationError: a checkpoint lies beyond the sequence, or tells of a request that was not yet made.
    """

    requests: tuple[EditRequest, ...]
    outcomes: Mapping[int, Outcomes]
    _gone: dict[int, frozenset[int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "requests", tuple(self.requests))
        object.__setattr__(self, "outcomes", MappingProxyType({n: self.outcomes[n] for n in sorted(self.outcomes)}))
        for n, found in self.outcomes.items():
            if not 1 <= n <= len(self.requests):
                raise ConfigurationError(f"a checkpoint after {n} edits is beyond a sequence of {len(self.requests)}.")
            if unknown := sorted(set(found) - {request.id for request in self.requests[:n]}):
                raise ConfigurationError(f"the outcomes after {n} edits tell of {unknown[0]!r}, which is none of them.")

    def superseded_at(self, n: int) -> frozenset[int]:
        """Numbers, from 1, of the requests that a later one of the first n replaces."""
        if n not in self._gone:
            self._gone[n] = frozenset(place + 1 for place in superseded(self.requests[:n]))
        return self._gone[n]

    def outcome(self, i: int, n: int) -> bool | None:
        """r_i(n); None where it was not asked."""
        return self.outcomes.get(n, {}).get(self.requests[i - 1].id)


def immediate_success(history: History) -> Share:
    """Mean of r_i(i), over the edits after which the model was looked at: the number that most tables print."""
    return _share(history, [(n, n) for n in history.outcomes])


def retention(history: History) -> dict[int, Share]:
    """Return for each checkpoint n the mean of r_i(n) over i <= n: the curve of what is still there."""
    return {n: _share(history, [(i, n) for i in range(1, n + 1)]) for n in history.outcomes}


def retention_by_age(history: History) -> dict[int, Share]:
    """Return for each age a the mean of r_i(i + a) over i: the forgetting curve. Age 0 is immediate success."""
    ages: dict[int, list[tuple[int, int]]] = {}
    for n in history.outcomes:
        for i in range(1, n + 1):
            ages.setdefault(n - i, []).append((i, n))
    return {age: _share(history, ages[age]) for age in sorted(ages)}


def conditional_forgetting(history: History) -> dict[int, Share]:
    """Return for each checkpoint n the share with r_i(n) = 0 among the edits i < n with r_i(i) = 1.

    An edit that never took is not blamed. Edits after which the model was not looked at count as missing: with sparse
    checkpoints few edits are left, so that forgetting needs a checkpoint after every edit.
    """
    found = {}
    for n in history.outcomes:
        gone = history.superseded_at(n)
        earlier = [i for i in range(1, n) if i not in gone]
        known = [i for i in earlier if history.outcome(i, i) is not None and history.outcome(i, n) is not None]
        took = [i for i in known if history.outcome(i, i)]
        lost = sum(not history.outcome(i, n) for i in took)
        found[n] = Share(lost, len(took), len([i for i in gone if i < n]), len(earlier) - len(known))
    return found


def history_of(requests: Sequence[EditRequest], measurements: Iterable[Measurement]) -> History:
    """The history of a sequence from the measurements of its checkpoints, `edited.reliability()` of each.

    An edit with several probes passes where all of them do.

    Raises: ConfigurationError: a measurement is of other edits than the first ones of `requests`.
    """
    wanted = [request.id for request in requests]
    outcomes = {}
    for one in measurements:
        if list(one.edit_ids) != wanted[: one.edits]:
            raise ConfigurationError(
                f"a measurement of {one.edits} edits is not of the first {one.edits} of the sequence's {len(wanted)}."
            )
        outcomes[one.edits] = passed(one)
    return History(tuple(requests), outcomes)


def history_of_records(
    requests: Sequence[EditRequest],
    records: Mapping[int, Iterable[Mapping[str, Any]]],
    *,
    property: Literal["reliability", "generalization", "portability"] = "reliability",
) -> History:
    """The history of a sequence from a study's records, per checkpoint, of one property.

    Raises: ConfigurationError: as for `History`.
    """
    return History(
        tuple(requests),
        {
            n: _outcomes((line["case"], line["value"]) for line in lines if line["property"] == property)
            for n, lines in records.items()
        },
    )


def passed(measurement: Measurement) -> dict[str, bool]:
    """Per id of a request whether all of its probes in a measurement passed; requests not asked are missing."""
    return _outcomes((value.edit, value.value) for value in measurement.valid if value.edit)


def _outcomes(values: Iterable[tuple[str, float | None]]) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for edit, value in values:
        if value is not None:
            found[edit] = found.get(edit, True) and value >= 1.0
    return found


def _share(history: History, pairs: Sequence[tuple[int, int]]) -> Share:
    """The mean of r_i(n) over pairs (i, n)."""
    standing = [(i, n) for i, n in pairs if i not in history.superseded_at(n)]
    outcomes = [history.outcome(i, n) for i, n in standing]
    known = [outcome for outcome in outcomes if outcome is not None]
    return Share(sum(known), len(known), len(pairs) - len(standing), len(standing) - len(known))
