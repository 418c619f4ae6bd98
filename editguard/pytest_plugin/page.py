"""The page of a run: what the controlling process keeps for it during the run, and its writing at the end."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from editguard import __version__
from editguard.edits import PROPERTIES
from editguard.errors import EditguardError
from editguard.pytest_plugin.options import Configuration, model_name

if TYPE_CHECKING:
    from editguard.history import Commit
    from editguard.measurements import Measurement
    from editguard.pytest_plugin.state import State
    from editguard.report.cases import Cases

COUNTED = ("failed", "error", "passed", "skipped", "xfailed", "xpassed")
"""Outcomes of tests as pytest's own summary has them."""


def complete(notes: dict[str, Any], present: State) -> None:
    """Complete the cases that a test tells of for the page, or make them smaller where none is wanted.

    For a page the unedited model is asked what it answers to cases that failed, unless it was asked, and the edits
    are told in words. Without one the tokens of cases that passed are dropped.

    Args:
        notes: of a phase of a test, as `State.take_notes` gives them; their measurements are changed.
    """
    silent: dict[str, list[dict[str, Any]]] = {}
    for measurement in notes.get("measurements", ()):
        asked = measurement["name"] in PROPERTIES and measurement["edit_ids"]
        for value in measurement["values"]:
            if value["value"] == 1.0 and present.configuration.html is None:
                value["tokens"] = value["tokens_before"] = ()
            elif value["value"] != 1.0 and value["original"] is None and asked:
                silent.setdefault(value["prompt"], []).append(value)
    if present.configuration.html is None:
        return
    if "measurements" in notes:
        notes["edits"] = {each.id: f"“{each.text}” → “{each.target}”" for each in present.runtime.requests}
    if not silent:
        return
    with suppress(EditguardError):  # what cannot be asked beside the tests fails none of them
        for prompt, answer in zip(silent, present.runtime.original().answers(list(silent)), strict=True):
            for value in silent[prompt]:
                value["original"] = str(answer)


class PageNotes:
    """What the controlling process hears of a run for its page; nothing is kept where none is wanted."""

    def __init__(self, config: pytest.Config, configuration: Configuration) -> None:
        self._config, self._configuration = config, configuration
        self.wanted = configuration.html is not None
        self.lines: list[str] = []
        """What is printed of it."""
        self._began = datetime.now(UTC)
        self._commit: Commit | None = None
        self._environments: dict[str, Mapping[str, Any]] = {}
        self._cases: Cases | None = None
        self._edits: dict[str, str] = {}

    def note(self, report: pytest.TestReport, told: Mapping[str, Any]) -> None:
        """Take what a phase of a test told."""
        if not self.wanted:
            return
        from editguard.comparison import Verdict
        from editguard.measurements import Measurement

        if self._cases is None:
            self._begin()
        assert self._cases is not None
        if (environment := told.get("environment")) is not None:
            self._environments.setdefault(str(environment["fingerprint"]), environment)
        self._edits |= told.get("edits", {})
        verdicts = {check["check"]: check["verdict"] for check in told.get("checks", ())}
        for record in told.get("measurements", ()):
            measurement = Measurement.from_json(record)
            verdict = verdicts.get(measurement.id)
            self._cases.add(measurement, report.nodeid, None if verdict is None else Verdict.from_json(verdict))

    def _begin(self) -> None:
        from editguard.history import present_commit
        from editguard.report.cases import Cases

        self._cases, self._commit = Cases(), present_commit(self._config.rootpath)

    def write(self, *, workers: int, **parts: Any) -> None:
        """Write the page, if one is wanted.

        Args:
            workers: how many processes ran tests at once.
            parts: as of `editguard.report.run_page.Run`.

        Raises: CacheError: it cannot be written.
        """
        path = self._configuration.html
        if path is None:
            return
        from editguard.report.cases import Packed
        from editguard.report.run_page import Run, run_page
        from editguard.storage import write_atomically

        cases = Packed(()) if self._cases is None else Packed(self._cases.kept, self._cases.left_out, self._edits)
        facts = self._facts(parts["measurements"], workers)
        run = Run(tests=self._tests(), facts=facts, cases=cases, **parts)
        write_atomically(path, run_page(run))
        self.lines.append(f"page: {path}")

    def _tests(self) -> dict[str, int]:
        """How many tests had which outcome, as the terminal counts them."""
        terminal: Any = self._config.pluginmanager.getplugin("terminalreporter")
        stats: Mapping[str, Sequence[Any]] = {} if terminal is None else terminal.stats
        counts = {
            name: sum(getattr(report, "count_towards_summary", True) for report in stats.get(name, ()))
            for name in COUNTED
        }
        return {name: count for name, count in counts.items() if count}

    def _facts(self, measurements: Sequence[Measurement], workers: int) -> dict[str, str]:
        asked, commit = self._configuration, self._commit
        ended = datetime.now(UTC)
        facts = {
            "model": model_name(asked) + ("" if asked.revision is None else f", revision {asked.revision}"),
            "candidate": "" if asked.candidate is None else str(asked.candidate),
            "methods": ", ".join(dict.fromkeys(one.method for one in measurements)),
            "environment": "; ".join(map(_environment, self._environments.values())),
            "baselines": f"{asked.baseline}, {asked.baseline_dir.name}/",
            "commit": "",
            "date": f"{ended:%Y-%m-%d %H:%M} UTC",
            "duration": f"{(ended - self._began).total_seconds():.0f} s"
            + ("" if workers < 2 else f", {workers} processes"),
            "version": __version__,
            "command": shlex.join(["pytest", *map(str, self._config.invocation_params.args)]),
        }
        if commit is not None:
            branch = "" if commit.branch is None else f" on {commit.branch}"
            facts["commit"] = f"{commit.id[:12]}{branch}{', with uncommitted changes' if commit.dirty else ''}"
        return facts


def _environment(environment: Mapping[str, Any]) -> str:
    record = environment["record"]
    versions = record.get("versions", {})
    parts = [
        str(environment["device"]) + (f" ({record['device_name']})" if "device_name" in record else ""),
        str(environment["dtype"]),
        f"weights {environment['fingerprint']}",
        *(f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions),
        *(f"{name} {record[name]}" for name in ("python", "threads") if name in record),
    ]
    return ", ".join(parts)
