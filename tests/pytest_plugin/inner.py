"""Inner pytest runs on a toy model."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from html import unescape
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

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
            *plugin_arguments(), f"--editguard-model={model}", *arguments, timeout=600
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


class Shown:
    """What a run shows, by the place where somebody looks."""

    def __init__(self, run: Callable[..., pytest.RunResult], folder: Path) -> None:
        """Run with a report of each kind, written into a folder."""
        summary, junit, page = folder / "summary.md", folder / "junit.xml", folder / "page.html"
        summary.unlink(missing_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GITHUB_STEP_SUMMARY", str(summary))
            files = [f"--junitxml={junit}", "--editguard-github=on", f"--editguard-html={page}"]
            self.result = run("--tb=short", *files)
        self.terminal = self.result.stdout.str()
        self.summary = summary.read_text(encoding="utf-8").replace("\\", "")  # Markdown's escapes
        self.page = unescape(page.read_text(encoding="utf-8"))
        self.cases = {case.get("name") or "": case for case in ElementTree.parse(junit).iter("testcase")}

    @property
    def failed(self) -> set[str]:
        """Names of the tests that JUnit has as failures or errors."""
        return {name for name, case in self.cases.items() if {child.tag for child in case} & {"failure", "error"}}

    def junit(self, name: str) -> str:
        """All that JUnit says of a test."""
        return ElementTree.tostring(self.cases[name], encoding="unicode")

    def everywhere(self, test: str, *texts: str) -> None:
        """Assert that each of the texts is told of the test wherever somebody may look."""
        places = {"terminal": self.terminal, "summary": self.summary, "junit": self.junit(test), "page": self.page}
        for place, told in places.items():
            for text in (test.partition("[")[0], *texts):
                assert text in told, f"{text!r} is not in the {place}:\n{told}"
