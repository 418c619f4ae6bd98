"""Suites that `editguard import` writes, collected and run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from published_records import COUNTERFACT, KNOWEDIT_COUNTERFACT, KNOWEDIT_RECENT, MQUAKE, OWN, PIQA, ZSRE
from pytest_plugin.inner import Suite

from editguard.cli import main
from editguard.datasets import instances, load_cases, load_tasks


def file(tmp_path: Path, *records: Any, name: str) -> Path:
    path = tmp_path / name
    path.write_text(json.dumps(records))
    return path


def run(path: Path, out: Path) -> int:
    return main(["import", str(path), "--out", str(out)])


def test_every_instance_is_a_class_of_its_own(tmp_path: Path, suite: Suite) -> None:
    run(file(tmp_path, MQUAKE, {**MQUAKE, "case_id": 4}, name="hops.json"), suite.path)
    assert len(instances(load_cases(suite.path / "cases" / "hops.jsonl"))) == 2
    result = suite.run("--collect-only", "-q", "test_hops.py", "--editguard-methods", "toy")
    result.stdout.fnmatch_lines(
        ["test_hops.py::TestInstance1::test_portability?toy?", "test_hops.py::TestInstance2::test_reliability?toy?"]
    )


def test_items_of_other_tasks_get_a_suite_with_an_edit_to_replace(tmp_path: Path, suite: Suite) -> None:
    run(file(tmp_path, PIQA, name="piqa.json"), suite.path)
    assert len(load_tasks(suite.path / "cases" / "piqa.jsonl")) == 1
    result = suite.run("test_piqa.py", "--editguard-methods", "toy")
    result.assert_outcomes(passed=1)


def test_imported_suites_run(tmp_path: Path, suite: Suite) -> None:
    for name, records in {
        "counterfact": (COUNTERFACT,),
        "knowedit": (KNOWEDIT_COUNTERFACT, KNOWEDIT_RECENT),
        "mquake": (MQUAKE,),
        "own": (OWN,),
        "zsre": (ZSRE, {**ZSRE, "alt": "Norn City"}),
    }.items():
        assert run(file(tmp_path, *records, name=f"{name}.json"), suite.path) == 0
    result = suite.run("--editguard-methods", "toy")
    outcomes = result.parseoutcomes()
    assert set(outcomes) <= {"passed", "warnings"}
    assert outcomes["passed"] > 15
