"""In the controlling process: gathering what tests measured, the last word on all checks, files, the summary."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from editguard.errors import EditguardError
from editguard.pytest_plugin import github, options, state
from editguard.pytest_plugin.baselines import RECORDING
from editguard.pytest_plugin.history import RunNotes
from editguard.pytest_plugin.page import PageNotes

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

    from editguard.blame import Finding
    from editguard.comparison import Breach, CheckRecord, Environment, Policy, Verdict
    from editguard.measurements import AnsweringCost, Measurement, PhaseCost
    from editguard.measurements.signals import Series, Signals
    from editguard.report.github import Annotation

TITLE = "editguard"
MOST_FAILURES = 500
"""Failed tests that are told to GitHub."""


@dataclass
class Gathered:
    """What the run's tests told, from whichever process."""

    measurements: dict[str, Measurement] = field(default_factory=dict)
    costs: list[PhaseCost] = field(default_factory=list)
    answering: dict[str, list[AnsweringCost]] = field(default_factory=dict)
    """Of each method the passes that each process has timed."""
    verdicts: list[Verdict] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    """Which baseline each check asked for, without its verdict; with values only where they are to be written."""
    signals: dict[tuple[str, str], dict[int, Signals]] = field(default_factory=dict)
    """Of each method's sequences what was read after so many edits."""
    findings: list[Finding] = field(default_factory=list)
    """Which edits are to blame for failed tests."""
    refused: dict[str, int] = field(default_factory=dict)
    """How many tests a method refused, by the reason."""
    failed: int = 0
    """Failed phases of tests; a failed test may have had more to check."""

    @property
    def complete(self) -> bool:
        """Whether every test that was to check a baseline did so; a known failure counts when it did."""
        told = {(check["suite"], check["label"]) for check in self.checks}
        return not self.failed and len(told) == max((check["planned"] for check in self.checks), default=0)


class Reporter:
    """Gathers during the run; decides, writes and prints at its end."""

    def __init__(self, config: pytest.Config, present: state.State) -> None:
        self._config, self._state = config, present
        self._gathered = Gathered()
        self._run = RunNotes(config.rootpath, present.configuration)
        self._partial = False
        self._written: list[str] = []
        self._late: list[Verdict] = []
        self._orphans: list[CheckRecord] = []
        self._notes: list[str] = []
        self._breaches: list[Breach] = []
        self._failures: list[Annotation] = []
        self._page = PageNotes(config, present.configuration)
        self._github = github.wanted(present.configuration.github)

    # ---- during the run

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what a test left on its report, so that reports stay small."""
        told: Mapping[str, Any] | None = report.__dict__.pop(state.ATTACHED, None)
        self._gathered.failed += report.failed and not hasattr(report, "wasxfail")
        told_of = (self._github or self._page.wanted) and len(self._failures) < MOST_FAILURES
        if report.failed and not hasattr(report, "wasxfail") and told_of:
            self._failures.append(github.annotation(report, self._config.rootpath))
        if report.when == "setup" and report.outcome == "skipped":
            self._note_refusal(report)
        if told is None:
            return
        self._page.note(report, told)
        from editguard.comparison import Verdict
        from editguard.measurements import AnsweringCost, Measurement, PhaseCost
        from editguard.measurements.signals import Signals

        measured: list[Measurement] = []
        for record in told.get("measurements", ()):
            measurement = _slim(Measurement.from_json(record))
            known = self._gathered.measurements.setdefault(measurement.id, measurement)
            measured.append(known if known == measurement else measurement)
        self._gathered.costs += [PhaseCost.from_json(cost) for cost in told.get("costs", ())]
        for method, cost in told.get("answering", {}).items():
            self._gathered.answering.setdefault(method, []).append(AnsweringCost.from_json(cost))
        for record in told.get("signals", ()):
            read = Signals.from_json(record["signals"])
            self._gathered.signals.setdefault((record["method"], record["group"]), {})[read.edits] = read
        for record in told.get("findings", ()):
            from editguard.blame import Finding

            self._gathered.findings.append(Finding.from_json(record))
        judged: dict[str, int] = {}
        for check in told.get("checks", ()):
            verdict = check.pop("verdict")
            if verdict is not None:
                judged[check["check"]] = len(self._gathered.verdicts)
                self._gathered.verdicts.append(Verdict.from_json(verdict))
            self._gathered.checks.append(check)
        self._run.note(report, told, measured, judged)

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """A run that leaves tests out cannot tell orphans."""
        self._partial = self._partial or bool(items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodeready(self) -> None:
        """Count the workers of pytest-xdist."""
        self._run.worker_began()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, error: object | None) -> None:
        """A run that lost a worker cannot tell orphans either."""
        self._partial = self._partial or error is not None
        self._run.worker_ended()

    def _note_refusal(self, report: pytest.TestReport) -> None:
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _, marker, rest = reason.partition(state.REFUSED)
        if marker:
            self._gathered.refused[rest] = self._gathered.refused.get(rest, 0) + 1

    # ---- at its end

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Correct for the number of checks, write baselines, look for orphans; add the run to the history."""
        if self._config.option.collectonly:
            return
        finished = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        finished = finished and not session.shouldstop and not session.shouldfail
        if self._gathered.checks:
            self._settle(session, finished)
        complete = finished and not self._partial and self._covers()
        if finished and self._state.policy is not None:
            self._hold_to(self._state.policy, session, complete)
        try:
            self._run.write(self._gathered.verdicts, exit_status=int(session.exitstatus), complete=complete)
        except EditguardError as error:
            self._notes.append(f"{error} This run's verdict stands; it is missing in the history.")
        self._write_page(int(session.exitstatus))

    def _write_page(self, exit_status: int) -> None:
        """Write the page of the run, where one is wanted."""
        told = self._gathered
        try:
            self._page.write(
                exit_status=exit_status,
                workers=self._run.most_workers,
                measurements=list(told.measurements.values()),
                verdicts=told.verdicts,
                findings=told.findings,
                sequences=self._sequences(),
                failures=self._failures,
                gated=bool(self._gate()),
                breaches=self._breaches,
                notes=[*self._found_late(), *self._notes, *filter(None, [self._state.last_error])],
                remarks=self._refusals(),
            )
        except EditguardError as error:
            self._notes.append(f"{error} This run's verdict stands; it has no page.")

    def _settle(self, session: pytest.Session, finished: bool) -> None:
        if finished:
            self._correct(session)
        try:
            self._write(finished)
            if finished and not self._partial and self._gathered.complete and self._covers():
                self._look_for_orphans()
            elif self._state.configuration.baseline == "prune":
                self._notes.append("nothing was pruned: only a complete and undisturbed run can tell orphans.")
        except EditguardError as error:
            self._fail(session, str(error))

    def _hold_to(self, policy: Policy, session: pytest.Session, complete: bool) -> None:
        """Hold the run to the gate's policy; what is missing is told of complete runs alone."""
        told = self._gathered
        if not (told.measurements or told.costs or told.refused):
            return
        found = policy.breaches(list(told.measurements.values()), told.verdicts)
        self._breaches = [breach for breach in found if complete or breach.kind != "missing"]
        if self._breaches and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = min(breach.status for breach in self._breaches)

    def _correct(self, session: pytest.Session) -> None:
        """Holm's further steps over all checks: what they find in addition turns the run red."""
        from editguard.comparison import upgrade

        final = upgrade(self._gathered.verdicts)
        self._late = [
            after
            for before, after in zip(self._gathered.verdicts, final, strict=True)
            if after.kind == "regressed" and before.kind != "regressed"
        ]
        self._gathered.verdicts = final
        if self._late and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _write(self, finished: bool) -> None:
        mode, reason = self._state.configuration.baseline, self._state.configuration.reason
        if mode not in RECORDING:
            return
        if not finished:
            self._notes.append("the run was interrupted: no baseline was written.")
            return
        from editguard.comparison import Acceptance, BaselineStore, CheckRecord
        from editguard.measurements import Measurement

        accepted = Acceptance.now(reason)
        store = BaselineStore(self._state.configuration.baseline_dir)
        for suite, environment, checks in self._by_file():
            records = [
                CheckRecord.of(
                    Measurement.from_json(check["measurement"]),
                    label=check["label"],
                    accepted=accepted,
                    settings=check["settings"],
                )
                for check in checks
            ]
            model = options.model_name(self._state.configuration)
            changed = store.accept(suite, model, environment, records, only_new=mode == "create")
            if changed:
                path = store.path(suite, model)
                self._written.append(f"{path}: {len(changed)} of {len(records)} checks written")

    def _look_for_orphans(self) -> None:
        from editguard.comparison import BaselineStore

        asked = self._state.configuration
        if asked.baseline == "off" or asked.case_limit:
            return
        store, model = BaselineStore(asked.baseline_dir), options.model_name(asked)
        methods = {*self._state.selection.methods(), *(check["method"] for check in self._gathered.checks)}
        for suite, environment, checks in self._by_file():
            seen = {check["check"] for check in checks}
            recorded = store.orphans(suite, model, environment, seen)
            kept = {record.id for record in recorded if record.method not in methods}
            if asked.baseline == "prune":
                gone = store.prune(suite, model, environment, seen | kept)
                if gone:
                    self._written.append(f"{store.path(suite, model)}: {len(gone)} orphans removed")
            else:
                self._orphans += [record for record in recorded if record.id not in kept]

    def _by_file(self) -> Iterator[tuple[str, Environment, list[dict[str, Any]]]]:
        """The run's checks by suite module and environment."""
        from editguard.comparison import Environment

        files: dict[tuple[str, str], tuple[Environment, list[dict[str, Any]]]] = {}
        for check in self._gathered.checks:
            environment = Environment.from_json(check["environment"])
            files.setdefault((check["suite"], environment.class_id), (environment, []))[1].append(check)
        for (suite, _), (environment, checks) in files.items():
            yield suite, environment, checks

    def _covers(self) -> bool:
        """Whether every collected module was collected whole: nothing was named by node id, nothing left out."""
        chosen = ("keyword", "markexpr", "lf", "stepwise", "deselect")
        return not any(self._config.getoption(name, None) for name in chosen) and not any(
            "::" in str(argument) for argument in self._config.args
        )

    def _fail(self, session: pytest.Session, message: str) -> None:
        self._notes.append(message)
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    # ---- what is printed

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """Methods and properties, regressions, counts, costs; nothing in a run without edit tests."""
        lines = list(self._lines(terminalreporter.verbosity))
        if not lines:
            return
        terminalreporter.write_sep("=", TITLE)
        for line, markup in lines:
            terminalreporter.write_line(line, **markup)
        if self._github:
            self._tell_github(terminalreporter)

    def _tell_github(self, terminalreporter: TerminalReporter) -> None:
        """Annotations are read from what is printed; the summary goes to the runner's file."""
        from editguard.report.github import commands, job_summary

        told = self._gathered
        summary = job_summary(
            failed=self._failures,
            measurements=list(told.measurements.values()),
            verdicts=told.verdicts,
            findings=told.findings,
            sequences=self._sequences(),
            notes=[*self._gate(), *self._refusals(), *self._notes, *filter(None, [self._state.last_error])],
        )
        for line in commands(self._failures):
            terminalreporter.write_line(line)
        try:
            github.write_summary(summary)
        except EditguardError as error:
            terminalreporter.write_line(str(error), red=True)

    def _found_late(self) -> list[str]:
        """What Holm's further steps have found."""
        if not self._late:
            return []
        labels = ", ".join(dict.fromkeys(verdict.label for verdict in self._late))
        return [
            f"the run fails: Holm's correction over all checks finds {len(self._late)} more "
            f"regressed, whose tests had passed: {labels}"
        ]

    def _refusals(self) -> list[str]:
        return [
            f"{count} test{'' if count == 1 else 's'} refused by {reason}"
            for reason, count in self._gathered.refused.items()
        ]

    def _gate(self) -> list[str]:
        """What the gate's policy makes of the run."""
        if self._state.policy is None or not self._gathered.measurements:
            return []
        if not self._breaches:
            return ["gate: the run fulfils the policy"]
        return [f"gate: {breach.text}" for breach in self._breaches]

    def _lines(self, verbosity: int) -> Iterator[tuple[str, dict[str, bool]]]:
        from_tests = self._gathered
        red, yellow = {"red": True}, {"yellow": True}
        if from_tests.measurements or from_tests.verdicts or from_tests.costs:
            from editguard.report import terminal

            if verbosity >= 0:
                for line in terminal.measurement_table(list(from_tests.measurements.values())):
                    yield line, {}
                for line in terminal.drift_table(self._sequences()):
                    yield line, {}
                yield from self._costs(terminal.efficiency_table(from_tests.costs, from_tests.answering))
            if from_tests.verdicts:
                yield terminal.verdict_counts(from_tests.verdicts), {}
            if verbosity >= 0:
                for line in terminal.regressions(from_tests.verdicts):
                    yield line, red
                for line in terminal.open_questions(from_tests.verdicts):
                    yield line, yellow
                if verbosity > 0:
                    for line in terminal.power_table(from_tests.verdicts):
                        yield line, {}
                told, doubts = terminal.noise_lines(from_tests.verdicts)
                yield from ((line, {}) for line in told)
                yield from ((line, yellow) for line in doubts)
            for line in terminal.findings(from_tests.findings):
                yield line, red
            command = self._prune_command()
            for line in terminal.orphan_lines(self._orphans, command):
                yield line, yellow
        for line in self._found_late():
            yield line, red
        for line in self._gate():
            yield line, red if self._breaches else {}
        for line in self._refusals():
            yield line, yellow
        for line in self._written:
            yield f"baselines: {line}", {}
        for line in self._state.told:
            yield line, yellow
        for line in self._page.lines:
            yield line, {}
        for line in (*self._notes, *filter(None, [self._state.last_error])):
            yield line, red

    def _sequences(self) -> list[Series]:
        """The signals of each sequence, by its edits."""
        from editguard.measurements.signals import Series

        return [
            Series(method, tuple(read[edits] for edits in sorted(read)))
            for (method, _), read in self._gathered.signals.items()
        ]

    def _costs(self, table: Sequence[str]) -> Iterator[tuple[str, dict[str, bool]]]:
        if table:
            yield "", {}
            for line in table:
                yield line, {}

    def _prune_command(self) -> str:
        words = [shlex.quote(str(argument)) for argument in self._config.invocation_params.args]
        kept = [word for word in words if not word.startswith("--editguard-baseline=")]
        return " ".join(["pytest", *kept, "--editguard-baseline=prune"])


def _slim(measurement: Measurement) -> Measurement:
    """The measurement without its texts: all that a table needs of it."""
    identity = measurement.id
    texts: dict[str, Any] = {"prompt": "", "expected": (), "answer": "", "original": None}
    texts |= {"tokens": (), "tokens_before": ()}
    slim = replace(measurement, values=tuple(replace(value, **texts) for value in measurement.values))
    assert slim.id == identity
    return slim
