"""In the controlling process: what of a run goes to the history, and when."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from editguard import __version__
from editguard.pytest_plugin.options import Configuration, model_name

if TYPE_CHECKING:
    from editguard.comparison import Verdict
    from editguard.history import Commit, RunCheck
    from editguard.measurements import Measurement


@dataclass(frozen=True)
class Measured:
    """A measurement of a test; `verdict` is the position among those of the run, None without one."""

    measurement: Measurement
    verdict: int | None
    suite: str
    node_id: str
    location: tuple[str, int | None, str]
    environment: str | None


@dataclass
class RunNotes:
    """What the controlling process hears of a run; nothing is looked up or written where no history is kept."""

    root: Path
    configuration: Configuration
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    _told: bool = False
    _commit: Commit | None = None
    _environments: dict[str, dict[str, Any]] = field(default_factory=dict)
    _methods: set[str] = field(default_factory=set)
    _measured: dict[tuple[str, str], Measured] = field(default_factory=dict)
    _workers: int = 0
    _most_workers: int = 1

    def worker_began(self) -> None:
        """One more worker is there."""
        self._workers += 1
        self._most_workers = max(self._most_workers, self._workers)

    @property
    def most_workers(self) -> int:
        """How many processes ran tests at once at most."""
        return self._most_workers

    def worker_ended(self) -> None:
        """One fewer is."""
        self._workers -= 1

    def note(
        self,
        report: pytest.TestReport,
        told: Mapping[str, Any],
        measured: Sequence[Measurement],
        judged: Mapping[str, int],
    ) -> None:
        """Take what a phase of a test told.

        Args:
            measured: the measurements in it, as they are kept.
            judged: check -> position of its verdict among those of the run.
        """
        if self.configuration.history is None:
            return
        if not self._told:
            from editguard.history import present_commit

            self._told, self._commit = True, present_commit(self.root)
        self._methods |= {cost["method"] for cost in told.get("costs", ())}
        environment = self._class_of(told.get("environment"))
        for measurement in measured:
            key = (report.nodeid, measurement.id)
            before = self._measured.get(key)
            verdict = judged.get(measurement.id, before.verdict if before is not None else None)
            self._measured[key] = Measured(
                measurement, verdict, told["suite"], report.nodeid, report.location, environment
            )

    def write(self, verdicts: Sequence[Verdict], *, exit_status: int, complete: bool) -> None:
        """Add the run to the history, if it had tests of edits and a history is kept.

        Raises: HistoryUnreadable: it cannot be written.
        """
        if self.configuration.history is None or not self._told:
            return
        from editguard.history import RunHistory, RunRecord

        checks = [self._check(each, verdicts) for each in self._measured.values()]
        commit = self._commit
        run = RunRecord(
            id=uuid.uuid4().hex,
            began=self.began,
            ended=datetime.now(UTC),
            commit=commit.id if commit is not None else None,
            branch=commit.branch if commit is not None else None,
            dirty=commit.dirty if commit is not None else None,
            model=model_name(self.configuration),
            environments=self._environments,
            methods=tuple(sorted(self._methods | {check.method for check in checks} - {""})),
            exit_status=exit_status,
            complete=complete,
            workers=self._most_workers,
            version=__version__,
            checks=tuple(sorted(checks, key=lambda check: (check.node_id, check.title, check.check))),
        )
        RunHistory(self.configuration.history).add(run)

    def _class_of(self, environment: dict[str, Any] | None) -> str | None:
        if environment is None:
            return None
        from editguard.comparison import Environment

        name = Environment.from_json(environment).class_id
        self._environments.setdefault(name, environment)
        return name

    def _check(self, each: Measured, verdicts: Sequence[Verdict]) -> RunCheck:
        from editguard.history import RunCheck

        file, line, _ = each.location
        return RunCheck.of(
            each.measurement,
            None if each.verdict is None else verdicts[each.verdict],
            suite=each.suite,
            node_id=each.node_id,
            file=file,
            line=None if line is None else line + 1,
            environment=each.environment,
        )
