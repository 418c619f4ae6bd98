"""One fault of each kind, planted in a run that was clean when it was accepted: caught, blamed, and seen everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_plugin.inner import Shown, Suite

SUITE = """
    COUNTS = (8, 16, 24, 32)
    CASES = [
        EditCase(
            request=request(f"S{n}"),
            probes=(
                Probe(property="locality", kind="neighbour", prompt=f"fragile {n}?"),
                Probe(property="locality", kind="relation", prompt=f"worn {n}?"),
            ),
        )
        for n in range(32)
    ]
    TASKS = [
        Probe(property="other_tasks", kind="sums", prompt=f"{task} {n}?", answers=("old",))
        for task in ("fragile", "sound") for n in range(10)
    ]
    pytestmark = pytest.mark.edit_sequence(CASES, checkpoints=COUNTS)

    def test_tasks(edited, baseline):
        baseline.check(edited.other_tasks(TASKS))

    def test_neighbours(edited, baseline):
        baseline.check(edited.locality("neighbour"))

    def test_relations(edited, baseline):
        baseline.check(edited.locality("relation"))

    def test_relations_over_all_edits(edited, baseline):
        baseline.check(edited.curve("locality", "relation"))
"""


def shown_by(suite: Suite, folder: Path, *arguments: str) -> Shown:
    return Shown(lambda *more: suite.run("--editguard-methods=toy", *arguments, *more), folder)


@pytest.fixture
def accepted(suite: Suite, tmp_path: Path) -> Suite:
    """A suite whose clean run was accepted, and is clean when it is repeated."""
    suite.file(SUITE)
    suite.run("--editguard-methods=toy", "--editguard-baseline=create").assert_outcomes(passed=16)
    again = shown_by(suite, tmp_path)
    again.result.assert_outcomes(passed=16)
    assert "regressed" not in again.terminal.replace("0 of 16 checks regressed", "")
    assert not again.failed
    return suite


def test_an_edit_that_breaks_one_task(accepted: Suite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOY_TOGETHER", "S12")
    shown = shown_by(accepted, tmp_path, "-k", "tasks")
    assert shown.failed == {"test_tasks[toy-16]", "test_tasks[toy-24]", "test_tasks[toy-32]"}
    for test in shown.failed:
        shown.everywhere(test, "other_tasks", "1 of ", " edits is to blame", "S12", "fragile 0?", "broken")
    assert "sound" not in shown.junit("test_tasks[toy-16]")


def test_a_pair_that_breaks_it_together(accepted: Suite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOY_TOGETHER", "S3+S12")
    shown = shown_by(accepted, tmp_path, "-k", "tasks or neighbours")
    assert {name.partition("-")[0] for name in shown.failed} == {"test_tasks[toy", "test_neighbours[toy"}
    assert {name.partition("-")[2] for name in shown.failed} == {"16]", "24]", "32]"}
    for test in shown.failed:
        shown.everywhere(test, "2 of ", " edits are to blame together", "edit 4, ", "edit 13, ", "S3", "S12")


def test_a_drift_too_slow_for_any_checkpoint(accepted: Suite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOY_WORN", "8,16,24,32")
    shown = shown_by(accepted, tmp_path, "-k", "relations", "--editguard-blame=0")  # most edits have a part in it
    assert shown.failed == {"test_relations_over_all_edits[toy-32]"}
    shown.everywhere("test_relations_over_all_edits[toy-32]", "locality curve", "regressed", "after 16 edits: worn 2?")
    assert "7 held" not in shown.terminal  # no checkpoint alone can say that nothing is lost
    assert " undecided" in shown.terminal


def test_a_method_whose_rollback_leaks(accepted: Suite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOY_LEAK", "2.weight")
    shown = shown_by(accepted, tmp_path, "-k", "tasks")
    assert shown.failed == {"test_tasks[toy-32]"}  # the last of its group, when its edits have been taken off
    shown.everywhere("test_tasks[toy-32]", "the edits of toy are taken off", "2.weight changed", "the method itself")
    assert "0 of 4 checks regressed" in shown.summary
    assert shown.result.ret == 1
