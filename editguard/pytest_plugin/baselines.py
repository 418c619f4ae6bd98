"""The fixture `baseline`: one comparison of a measurement with what was accepted for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from editguard.errors import EditguardError
from editguard.pytest_plugin import collection, options
from editguard.pytest_plugin.declarations import must_hold_ids

if TYPE_CHECKING:
    from editguard.comparison import BaselineStore, Environment, Verdict
    from editguard.measurements import Measurement
    from editguard.pytest_plugin.state import State

RECORDING = ("create", "update")
WRITING = (*RECORDING, "prune")


class Baseline:
    """Compares measurements of one test with the accepted ones. Nothing is written here, whatever the mode."""

    def __init__(self, item: pytest.Item, present: State) -> None:
        self._item, self._state = item, present
        self._store: BaselineStore | None = None

    def check(self, measurement: Measurement) -> Verdict | None:
        """Compare a measurement with its baseline.

        Returns: the verdict; None when nothing was compared because the mode is "off" or records anew.
        Raises: AssertionError: significantly worse, or a case that must hold flipped, or undecided where the
            configuration makes that a failure; the message is the whole verdict. In CI (`CI` is set) a missing
            baseline fails too.
        """
        __tracebackhide__ = True
        self._state.notes.note(measurement)
        mode = self._state.configuration.baseline
        if mode == "off":
            return None
        verdict, wrong = None, ""
        try:
            verdict = None if mode == "update" else self._verdict(measurement)
            if mode == "create" and verdict is not None and verdict.kind in ("missing", "not comparable"):
                verdict = None
            self._note(measurement, verdict)
        except EditguardError as error:
            wrong = f"{type(error).__name__}: {error}"
        if wrong:  # outside of the except clause: the report would show all that led to the error
            pytest.fail(wrong, pytrace=False)
        if verdict is None:
            return None
        if verdict.kind == "regressed" or (
            verdict.kind == "undecided" and self._state.configuration.undecided == "fail"
        ):
            raise AssertionError(str(verdict))
        if verdict.kind == "missing" and os.environ.get("CI"):
            pytest.fail(str(verdict), pytrace=False)
        return verdict

    def _verdict(self, measurement: Measurement) -> Verdict:
        from editguard.comparison import BaselineStore, judge, missing, not_comparable

        asked = self._state.configuration
        if self._store is None:
            self._store = BaselineStore(asked.baseline_dir)
        store, here = self._store, self._state.runtime.environment()
        place = suite_name(self._item), options.model_name(asked)
        accepted = store.find(*place, here, measurement.id)
        if accepted is None:
            command = recording_command(self._item)
            elsewhere = store.elsewhere(*place, here, measurement.id)
            if elsewhere:
                return not_comparable(measurement, label=self._label, command=command, here=here, recorded=elsewhere)
            known = store.of_label(*place, here, self._label)
            return missing(measurement, label=self._label, command=command, known=known)
        named = must_hold_ids(self._item.iter_markers("must_hold"))
        settings = self._state.runtime.settings_in_force(collection.cell_of(self._item))
        verdict = judge(
            accepted,
            measurement,
            alpha=asked.alpha,
            checks=max(1, self._state.planned_checks),
            minimum_effect=asked.minimum_effect,
            must_hold=True if named is None else named,
            details=moved(store.recorded(*place, here), here, accepted.settings, settings),
        )
        if self._state.policy is not None:
            verdict = self._state.policy.allowed(verdict)
        measure = self._state.notes.floors.get(measurement.id)
        return verdict if measure is None or verdict.p_value is None else replace(verdict, noise=measure())

    def _note(self, measurement: Measurement, verdict: Verdict | None) -> None:
        """Tell the controlling process of the check, with the values where it will have to write them."""
        runtime = self._state.runtime
        note: dict[str, Any] = {
            "suite": suite_name(self._item),
            "label": self._label,
            "check": measurement.id,
            "method": measurement.method,
            "planned": self._state.planned_checks,
            "environment": runtime.environment().to_json(),
            "verdict": verdict.to_json() if verdict is not None else None,
        }
        if self._state.configuration.baseline in RECORDING:
            note["measurement"] = measurement.to_json()
            note["settings"] = runtime.settings_in_force(collection.cell_of(self._item))
        self._state.notes.checks.append(note)

    @property
    def _label(self) -> str:
        return self._item.nodeid.partition("::")[2]


def moved(
    recorded: Environment | None, here: Environment, accepted: Mapping[str, Any], settings: Mapping[str, Any]
) -> list[str]:
    """How environment and settings differ from those of the accepted values, a line each."""
    from editguard.comparison import differences, explain_environment

    same = recorded is None or recorded.to_json() == here.to_json()
    lines = [] if same or recorded is None else explain_environment(recorded, here)
    if dict(accepted) != dict(settings):
        lines += [f"settings.{line}" for line in differences(accepted, settings)]
    return lines


def suite_name(item: pytest.Item) -> str:
    """The name under which a suite module's baselines are kept: its path from the root directory."""
    return "--".join(_relative(item.path, item.config.rootpath).with_suffix("").parts)


def recording_command(item: pytest.Item) -> str:
    """The command that records the baselines of an item's suite file in the present environment."""
    words = ["pytest", _relative(item.path, item.config.rootpath).as_posix(), "--editguard-baseline=create"]
    for name in ("model", "candidate", "device", "dtype", "methods"):
        value = item.config.getoption(f"editguard_{name}")
        if value is not None:
            words.append(f"--editguard-{name}={value}")
    return " ".join(words)


def _relative(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
