"""The baselines that are committed here bite: enough flipped values turn exactly that check red, one fewer does not."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from editguard import load_cases
from editguard.comparison import flips_needed

ROOT = Path(__file__).parents[1]
METHOD = "ft-l"
ALPHA, MINIMUM_EFFECT = 0.05, 0.05  # the plugin's own defaults

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of its own with this one's suites and baselines."""
    for folder in ("suites", "baselines"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def run(project: Path, suite: str) -> str:
    """Run one suite under `METHOD`, and return what the user sees."""
    command = [sys.executable, "-m", "pytest", f"suites/{suite}.py", f"--editguard-methods={METHOD}", "-rN"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=300
    ).stdout


def baseline_of(project: Path, suite: str) -> tuple[Path, Any, list[Any]]:
    """The suite's baseline file, its content, and the checks of `METHOD` within."""
    [path] = (project / "baselines").glob(f"suites--{suite}.*.json")
    content = json.loads(path.read_text())
    [recorded] = content["environments"].values()
    return path, content, [check for check in recorded["checks"].values() if check["method"] == METHOD]


def lose(project: Path, suite: str, label: str, flips: int, edit: str | None = None) -> None:
    """Let the accepted run of a check have answered more cases (of one edit) than this one does."""
    path, content, checks = baseline_of(project, suite)
    [check] = [check for check in checks if check["label"] == label]
    failed = [value for value in check["values"].values() if value[0] == 0 and edit in (None, value[4])][:flips]
    assert len(failed) == flips, f"{label} has fewer cases that fail than the {flips} flips of this test"
    for value in failed:
        value[:3] = [1, "exact", 1]
    path.write_text(json.dumps(content))


def test_enough_flips_turn_exactly_that_check_red(project: Path) -> None:
    suite, label = "test_batch_of_edits", f"test_reliability[{METHOD}]"
    checks = baseline_of(project, suite)[2]
    [cases] = [len(check["values"]) for check in checks if check["label"] == label]
    enough = flips_needed(cases, alpha=ALPHA, checks=len(checks), minimum_effect=MINIMUM_EFFECT)
    assert enough is not None
    lose(project, suite, label, enough - 1)
    assert " regressed" not in run(project, suite)
    lose(project, suite, label, 1)
    shown = run(project, suite)
    assert f"{len(checks)} baseline checks: {len(checks) - 1} held, 1 regressed" in shown
    assert f"lost {enough}:" in shown
    assert f"{enough} lost cases and none gained would be enough to turn this check red" in shown


def test_one_flipped_case_that_must_hold_turns_its_check_red(project: Path) -> None:
    suite, label = "test_cases_from_file", f"test_generalization[{METHOD}]"
    assert "3 baseline checks: 3 held" in run(project, suite)
    first = load_cases("cases/relocations.jsonl", base=ROOT / "suites" / f"{suite}.py")[0]
    lose(project, suite, label, 1, edit=first.request.id)
    shown = run(project, suite)
    assert "3 baseline checks: 2 held, 1 regressed" in shown
    assert "regressed: 1 case that must hold flipped" in shown
