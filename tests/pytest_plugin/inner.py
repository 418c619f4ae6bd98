"""Inner pytest runs on a toy model."""

from __future__ import annotations

import json
import textwrap
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

PLUGIN = "editguard.pytest_plugin.plugin"
CONFTEST = """
import sys
sys.path.insert(0, {here!r})
import toy
_put_back = toy.install()

def pytest_unconfigure(config):
    _put_back()
"""
HEAD = """
import pytest
from editguard import EditCase, EditRequest, Probe

def request(subject, target="Oskar"):
    return EditRequest(prompt="The capital of {} is", subject=subject, target=target)

ONE = request("Velloria")
"""


def plugin_arguments() -> list[str]:
    """How an inner run gets the plugin: by itself when the package is installed, by name otherwise."""
    installed = any(point.value == PLUGIN for point in entry_points(group="pytest11"))
    return [] if installed else ["-p", PLUGIN]


class Suite:
    """A suite in a fresh directory, run on the toy model."""

    def __init__(self, pytester: pytest.Pytester, log: Path) -> None:
        self.pytester, self._log = pytester, log
        self.path = pytester.path
        pytester.makeconftest(CONFTEST.format(here=str(Path(__file__).parent)))

    def file(self, source: str, name: str = "test_suite") -> Path:
        """Write a suite file that begins with the usual imports and one request, `ONE`."""
        path = self.path / f"{name}.py"
        path.write_text(HEAD + textwrap.dedent(source), encoding="utf-8")
        return path

    def run(self, *arguments: str, model: str = "toy-model") -> pytest.RunResult:
        """Run pytest in this process."""
        return self.pytester.runpytest_inprocess(
            *plugin_arguments(), f"--editguard-model={model}", "-p", "no:randomly", *arguments
        )

    def run_apart(self, *arguments: str, model: str = "toy-model") -> pytest.RunResult:
        """Run pytest in a process of its own, as xdist needs it."""
        return self.pytester.runpytest_subprocess(
            *plugin_arguments(), f"--editguard-model={model}", *arguments, timeout=120
        )

    def events(self, event: str | None = None) -> list[dict[str, Any]]:
        """What the toy model and methods did, over all processes and runs so far."""
        if not self._log.exists():
            return []
        lines = [json.loads(line) for line in self._log.read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if event is None or line["event"] == event]

    def forget_events(self) -> None:
        """Empty the log."""
        self._log.unlink(missing_ok=True)
