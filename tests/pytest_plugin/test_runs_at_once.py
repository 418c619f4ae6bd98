"""Two runs at once that keep the same baselines and the same history."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pytest_plugin.inner import Suite, plugin_arguments

from editguard.history import RunHistory

CHECKS = """
    @pytest.mark.edit(*[request(f"{n} of MODULE") for n in range(3)])
    def test_reliability(edited, baseline):
        baseline.check(edited.reliability())
"""
MODULES = ("first", "second", "shared")


@pytest.mark.slow
def test_both_are_kept_whole(suite: Suite) -> None:
    """Each records the checks of its own module, and both those of a third."""
    for name in MODULES:
        suite.file(CHECKS.replace("MODULE", name), f"test_{name}")
    arguments = ["--editguard-model=toy-model", "--editguard-methods=toy,forgetful", "-p", "no:cacheprovider"]
    arguments += [f"--editguard-history={suite.path / 'history.sqlite'}", "--editguard-baseline=update"]
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "pytest", *plugin_arguments(), f"test_{name}.py", "test_shared.py", *arguments],
            cwd=suite.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in MODULES[:2]
    ]
    told = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], "\n".join(told)
    kept = RunHistory(suite.path / "history.sqlite").runs()
    assert sorted(tuple(sorted({check.suite for check in run.checks})) for run in kept) == [
        ("test_first", "test_shared"),
        ("test_second", "test_shared"),
    ]
    again = suite.run(*arguments[1:-1])
    again.assert_outcomes(passed=6)
    again.stdout.fnmatch_lines(["6 baseline checks: 6 held"])
