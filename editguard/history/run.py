"""A run and its checks as plain data: what is kept of them, without the texts of the cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Final, Self

from editguard.comparison.verdict import Kind, Verdict
from editguard.measurements.intervals import Interval
from editguard.measurements.record import FRACTION, Measurement, named

COLUMNS: Final[Mapping[str, str]] = {
    "check": "check_id",
    "commit": "commit_id",
    "drop": "mean_drop",
    "name": "property",
}
"""Field -> column, in the database and in exports, where the two have different names."""


@dataclass(frozen=True, kw_only=True)
class RunCheck:
    """One measurement of a test, with its verdict where it was compared with a baseline.

    Attributes:
        suite: the module's name, as baseline files have it.
        label: the test's name, and `node_id` with its file; `file` (relative to the root directory) and `line`
            (from 1 on) where the test is defined, where known.
        environment: the environment's class; values of different classes are never compared.
        check: content id of what was asked; the test's name is no part of it.
        method, mode, name (the property), kind, unit, lower_is_better, edits: as in the measurement.
        cases: how many have a value.
        mean: over them, with its 95 % interval `low` to `high`; None without a case.
        verdict: None where no baseline was compared with; `reason` is its sentence.
        accepted: the mean of the accepted run.
        drop: how much worse than accepted, with its two-sided 90 % interval `drop_low` to `drop_high`.
        p_value: one-sided.
        lost, gained: how many cases flipped; None where nothing was compared.
        smallest_drop: that so many cases could show.
    """

    suite: str
    label: str
    node_id: str
    file: str | None = None
    line: int | None = None
    environment: str | None = None
    check: str
    method: str
    mode: str
    name: str
    kind: str | None = None
    unit: str = FRACTION
    lower_is_better: bool = False
    edits: int
    cases: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: Kind | None = None
    reason: str | None = None
    accepted: float | None = None
    drop: float | None = None
    drop_low: float | None = None
    drop_high: float | None = None
    p_value: float | None = None
    lost: int | None = None
    gained: int | None = None
    smallest_drop: float | None = None

    @classmethod
    def of(
        cls,
        measurement: Measurement,
        verdict: Verdict | None,
        *,
        suite: str,
        node_id: str,
        file: str | None,
        line: int | None,
        environment: str | None,
    ) -> Self:
        """Take what is kept of a measurement and of its verdict."""
        low, high = measurement.interval if measurement.n else (None, None)
        judged: dict[str, Any] = {}
        if verdict is not None:
            drop_low, drop_high = verdict.interval or (None, None)
            judged = {
                "verdict": verdict.kind,
                "reason": verdict.reason,
                "accepted": verdict.accepted,
                "drop": verdict.drop,
                "drop_low": drop_low,
                "drop_high": drop_high,
                "p_value": verdict.p_value,
                "smallest_drop": verdict.smallest_drop,
            }
            if verdict.kind in ("held", "regressed", "undecided"):
                judged |= {"lost": len(verdict.lost), "gained": len(verdict.gained)}
        return cls(
            suite=suite,
            label=node_id.partition("::")[2],
            node_id=node_id,
            file=file,
            line=line,
            environment=environment,
            check=measurement.id,
            method=measurement.method,
            mode=measurement.mode,
            name=measurement.name,
            kind=measurement.kind,
            unit=measurement.unit,
            lower_is_better=measurement.lower_is_better,
            edits=measurement.edits,
            cases=measurement.n,
            mean=measurement.mean if measurement.n else None,
            low=low,
            high=high,
            **judged,
        )

    @property
    def title(self) -> str:
        """Property and kind of probe, with the unit where that is no share of cases."""
        return named(self.name if self.kind is None else f"{self.name}/{self.kind}", self.unit)

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval of the mean."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run of pytest that had tests of edits.

    Attributes:
        id: 32 hex digits, another for each run.
        began, ended: UTC.
        commit, branch, dirty: see `git.Commit`; None outside of git.
        model: its name in baseline files.
        environments: class -> what `Environment.to_json` says of it.
        methods: that edited, or were measured, sorted.
        exit_status: pytest's, as far as it was known when the run was recorded.
        complete: whether the run was not stopped, lost no worker, and left out no test of the files that it was given.
        workers: processes that ran tests; 1 without pytest-xdist.
        version: editguard's.
        checks: what was measured, by test.
    """

    id: str
    began: datetime
    ended: datetime
    commit: str | None = None
    branch: str | None = None
    dirty: bool | None = None
    model: str
    environments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    methods: tuple[str, ...] = ()
    exit_status: int
    complete: bool
    workers: int = 1
    version: str
    checks: tuple[RunCheck, ...] = ()

    def __post_init__(self) -> None:
        for name in ("began", "ended"):
            object.__setattr__(self, name, getattr(self, name).astimezone(UTC))

    @property
    def title(self) -> str:
        """Day, minute and commit, for people; "+" marks a commit with changes that were not committed."""
        commit = "" if self.commit is None else f" {self.commit[:7]}{'+' if self.dirty else ''}"
        return f"{self.began:%Y-%m-%d %H:%M}{commit}"


def columns(kind: type[RunCheck] | type[RunRecord]) -> dict[str, str]:
    """The fields of a record that are one value each -> their columns, in the record's order."""
    parts = ("environments", "methods", "checks")
    return {each.name: COLUMNS.get(each.name, each.name) for each in fields(kind) if each.name not in parts}


def plain(record: RunCheck | RunRecord) -> dict[str, Any]:
    """Column -> value of the fields that are one value each, times as text."""
    values = {column: getattr(record, name) for name, column in columns(type(record)).items()}
    return {
        column: value.isoformat(timespec="microseconds") if isinstance(value, datetime) else value
        for column, value in values.items()
    }
