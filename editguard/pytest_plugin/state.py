"""What the plugin keeps on pytest's config for the length of a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from editguard.pytest_plugin.collection import Selection
from editguard.pytest_plugin.options import Configuration
from editguard.pytest_plugin.runtime import Runtime

if TYPE_CHECKING:
    from editguard.comparison.policy import Policy
    from editguard.measurements import Measurement, NoiseFloor
    from editguard.pytest_plugin.resuming import Resuming

REFUSED = "refused by "
"""How the reason of a skip begins when a method cannot do what a test wants."""

ATTACHED = "editguard"
"""Name of the report's attribute that holds plain data for the controlling process."""


@dataclass
class Notes:
    """What the present test left to be told: plain data that crosses to the controlling process with its report."""

    measurements: dict[str, dict[str, Any]] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)
    """Which edits are to blame."""
    floors: dict[str, Callable[[], NoiseFloor]] = field(default_factory=dict)
    """Of each measurement, where A/A comparisons are wanted, what makes them; stays in this process."""

    def note(self, measurement: Measurement) -> None:
        """Keep a measurement for the summary; one taken twice is kept once."""
        self.measurements[measurement.id] = measurement.to_json()


@dataclass
class State:
    """The plugin's state in one process.

    Attributes:
        policy: of the gate, that the run as a whole is held to.
        planned_checks: how many tests of the run compare with a baseline, fixed before the first of them runs.
        edit_tests: how many tests of the run have to do with editguard.
        notes: of the test that is running.
        blame_spent: seconds spent on finding the edits to blame.
        last_error: what went wrong when the last group was left, after the last test.
        began: of this process, in ns since the epoch.
        resuming: what is taken from journals, in a process that runs tests and keeps one.
        told: of journals, for the summary.
    """

    configuration: Configuration
    selection: Selection
    runtime: Runtime
    policy: Policy | None = None
    planned_checks: int = 0
    edit_tests: int = 0
    notes: Notes = field(default_factory=Notes)
    blame_spent: float = 0.0
    last_error: str = ""
    began: int = field(default_factory=time.time_ns)
    resuming: Resuming | None = None
    told: list[str] = field(default_factory=list)

    def take_notes(self) -> dict[str, Any]:
        """What happened since the last call, for the report of the phase that ends; empty when nothing did."""
        notes, self.notes = self.notes, Notes()
        taken = {
            "measurements": list(notes.measurements.values()),
            "checks": notes.checks,
            "findings": notes.findings,
            "costs": self.runtime.take_costs(),
            "answering": self.runtime.take_answering(),
            "signals": self.runtime.take_signals(),
        }
        told: dict[str, Any] = {name: value for name, value in taken.items() if value}
        if told and (environment := self.runtime.known_environment) is not None:
            told["environment"] = environment.to_json()
        return told


KEY = pytest.StashKey[State]()


def of(config: pytest.Config) -> State:
    """The state that `pytest_configure` put on the config."""
    return config.stash[KEY]
