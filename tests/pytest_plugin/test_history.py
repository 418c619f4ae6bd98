"""Every run with tests of edits is added to the history, by the controlling process, whatever becomes of the run."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import pytest
from pytest_plugin.inner import Suite

from editguard import __version__
from editguard.history import RunHistory, RunRecord

SUITE = """
    CASES = [
        EditCase(
            request=request(f"City{n}"),
            probes=(Probe(property="locality", kind="neighbour", prompt=f"What is {n}?"),),
        )
        for n in range(10)
    ]

    @pytest.mark.edit(CASES)
    class TestBatch:
        def test_reliability(self, edited, baseline):
            baseline.check(edited.reliability())

        def test_locality(self, edited):
            assert edited.locality().mean == 1.0

        def test_answer(self, edited):
            assert edited.answer("The capital of City9 is") == "Oskar"

    @pytest.mark.edit_sequence(CASES[:4], checkpoints=(2, 4))
    def test_sequence(edited, baseline):
        baseline.check(edited.reliability())
"""
TOY = "--editguard-methods=toy"


def history(suite: Suite) -> list[RunRecord]:
    return RunHistory(suite.path / ".editguard" / "history.sqlite").runs()


def told(run: RunRecord) -> Sequence[tuple[object, ...]]:
    return [(check.label, check.method, check.edits, check.mean, check.verdict) for check in run.checks]


def test_a_run_is_kept_with_all_that_its_tests_measured(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.file(SUITE)
    suite.run(TOY, "--editguard-baseline=create").assert_outcomes(passed=5)
    monkeypatch.setenv("TOY_LOST", ",".join(f"City{n}" for n in range(8)))
    suite.run(TOY).assert_outcomes(passed=4, failed=1)
    first, second = history(suite)
    label = "TestBatch::test_{}[toy]"
    assert told(first) == [
        (label.format("locality"), "toy", 10, 1.0, None),
        (label.format("reliability"), "toy", 10, 1.0, None),
        ("test_sequence[toy-2]", "toy", 2, 1.0, None),
        ("test_sequence[toy-4]", "toy", 4, 1.0, None),
    ]
    assert [(check.mean, check.verdict) for check in second.checks] == [
        (1.0, None),
        (0.2, "regressed"),
        (0.0, "undecided"),
        (0.0, "undecided"),
    ]
    assert [check.check for check in second.checks] == [check.check for check in first.checks]
    red = second.checks[1]
    assert (red.accepted, red.drop, red.lost, red.gained, red.cases) == (1.0, 0.8, 8, 0, 10)
    assert red.reason.startswith("worse by 0.800")
    assert (red.suite, red.node_id, red.file) == ("test_suite", f"test_suite.py::{red.label}", "test_suite.py")
    source = (suite.path / "test_suite.py").read_text().splitlines()
    assert "def test_reliability" in source[red.line - 1]
    assert (first.exit_status, second.exit_status) == (0, 1)
    assert (first.complete, first.workers, first.model, first.methods) == (True, 1, "toy-model", ("toy",))
    assert (second.complete, second.version, second.commit, second.dirty) == (True, __version__, None, None)
    [(name, environment)] = first.environments.items()
    assert name == first.checks[0].environment == "cpu-float32-0123456789abcdef"
    assert "torch" in environment["record"]["versions"]
    assert first.began < first.ended < second.began
    assert "*" in (suite.path / ".editguard" / ".gitignore").read_text().splitlines()


@pytest.mark.slow
def test_two_workers_keep_the_rows_of_one_process(suite: Suite) -> None:
    pytest.importorskip("xdist")
    suite.file(SUITE)
    suite.run(TOY, "--editguard-baseline=create").assert_outcomes(passed=5)
    suite.run("--editguard-methods=toy,forgetful").assert_outcomes(passed=10)
    suite.run_apart("-n2", "--editguard-methods=toy,forgetful").assert_outcomes(passed=10)
    _, alone, spread = history(suite)
    assert (alone.workers, spread.workers) == (1, 2)
    environments = [
        {name: {**found, "record": {**found["record"], "threads": None}} for name, found in run.environments.items()}
        for run in (alone, spread)
    ]
    assert environments[0] == environments[1]
    same = {field.name: getattr(alone, field.name) for field in fields(RunRecord)}
    for name in ("id", "began", "ended", "workers", "environments"):
        del same[name]
    assert replace(spread, **same).checks == spread.checks
    assert {name: getattr(spread, name) for name in same} == same
    assert {check.verdict for check in spread.checks} == {"held", "missing", None}


def test_the_last_word_of_the_run_is_what_is_kept(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.file(
        """
        CASES = [request(f"City{n}") for n in range(10)]

        @pytest.mark.edit(CASES)
        @pytest.mark.known_failure("toy", reason="loses some")
        def test_known(edited, baseline):
            assert baseline.check(edited.reliability()) is None

        @pytest.mark.edit(CASES[1:])
        def test_late(edited, baseline):
            baseline.check(edited.reliability())
        """
    )
    suite.run("--editguard-baseline=update", TOY)
    monkeypatch.setenv("TOY_LOST", ",".join(f"City{n}" for n in range(6)))
    assert suite.run(TOY).ret == 1
    latest = history(suite)[-1]
    assert [check.verdict for check in latest.checks] == ["regressed", "regressed"], (
        "Holm's correction found the second"
    )
    assert latest.exit_status == 1


@pytest.mark.parametrize(
    ("arguments", "checks"), [(("-k", "locality"), 1), (("test_suite.py::TestBatch",), 2), (("-k", "answer"), 0)]
)
def test_a_run_of_some_tests_says_so(suite: Suite, arguments: tuple[str, ...], checks: int) -> None:
    suite.file(SUITE)
    suite.run(TOY, *arguments)
    [run] = history(suite)
    assert (run.complete, run.exit_status, len(run.checks)) == (False, 0, checks)


@pytest.mark.parametrize(("arguments", "end", "status"), [(("-x",), "assert 0", 1), ((), "pytest.exit('enough')", 2)])
def test_a_run_that_was_stopped_says_so(suite: Suite, arguments: tuple[str, ...], end: str, status: int) -> None:
    suite.file(SUITE + f"\n    @pytest.mark.edit(ONE)\n    def test_stop(edited): {end}\n\n    def test_more(): pass\n")
    assert suite.run(TOY, *arguments).ret == status
    [run] = history(suite)
    assert (run.complete, run.exit_status, len(run.checks)) == (False, status, 4)


def test_what_is_kept_of_tests_that_only_assert_is_the_run(suite: Suite) -> None:
    suite.file(
        """
        @pytest.mark.edit(ONE)
        def test_it(edited): assert edited.answer(ONE.text) == "Oskar"
        """
    )
    suite.run(TOY).assert_outcomes(passed=1)
    [run] = history(suite)
    assert (run.checks, run.methods, run.complete) == ((), ("toy",), True)
    assert list(run.environments) == ["cpu-float32-0123456789abcdef"]


def test_no_history_is_kept_where_there_is_nothing_to_keep(suite: Suite) -> None:
    suite.file("def test_plain(): pass")
    suite.run().assert_outcomes(passed=1)
    suite.file(SUITE)
    suite.run(TOY, "--co")
    suite.run(TOY, "--editguard-history=off").assert_outcomes(passed=5)
    suite.pytester.makepyprojecttoml("[tool.editguard]\nhistory = false\n")
    suite.run(TOY).assert_outcomes(passed=5)
    assert not (suite.path / ".editguard").exists()


def test_another_file_can_be_named_from_the_root_directory(suite: Suite) -> None:
    suite.file(SUITE)
    suite.pytester.makepyprojecttoml('[tool.editguard]\nhistory = "kept/runs.sqlite"\n')
    suite.run(TOY).assert_outcomes(passed=5)
    assert [path.name for path in (suite.path / "kept").iterdir()] == ["runs.sqlite"]
    assert len(RunHistory(suite.path / "kept" / "runs.sqlite").runs()) == 1
    for wrong in ("kept", " "):
        result = suite.run(TOY, f"--editguard-history={wrong}")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["ERROR: editguard: --editguard-history *"])


@pytest.mark.parametrize("lost", [0, 8])
def test_a_history_that_cannot_be_written_changes_no_verdict(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    suite.file(SUITE)
    suite.run(TOY, "--editguard-baseline=create", "--editguard-history=off")
    path = suite.path / ".editguard" / "history.sqlite"
    path.parent.mkdir()
    path.write_bytes(b"no database" * 1000)
    monkeypatch.setenv("TOY_LOST", ",".join(f"City{n}" for n in range(lost)))
    result = suite.run(TOY, "--color=yes")
    assert result.ret == (1 if lost else 0)
    [line] = [line for line in result.outlines if "is damaged" in line]
    assert line.startswith("\x1b[31mthe history ")
    assert "history.sqlite" in line
    assert "move it away" in line
    assert "This run's verdict stands; it is missing in the history." in line
    assert path.read_bytes() == b"no database" * 1000


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_of_the_root_directory_is_kept(suite: Suite) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=trunk"]
        done = subprocess.run(["git", *who, *arguments], cwd=suite.path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    suite.file(SUITE)
    git("init")
    git("add", ".")
    git("commit", "-m", "First")
    suite.run(TOY).assert_outcomes(passed=5)
    assert ".editguard" not in git("status", "--porcelain"), "the folder hides itself"
    (suite.path / "test_suite.py").open("a").write("\n")
    suite.run(TOY).assert_outcomes(passed=5)
    assert [(run.commit, run.branch, run.dirty) for run in history(suite)] == [
        (git("rev-parse", "HEAD"), "trunk", False),
        (git("rev-parse", "HEAD"), "trunk", True),
    ]


def test_the_command_reads_what_runs_have_written(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from editguard.cli import main

    suite.file(SUITE)
    suite.run(TOY, "--editguard-baseline=create")
    monkeypatch.setenv("TOY_LOST", ",".join(f"City{n}" for n in range(8)))
    suite.run(TOY)
    monkeypatch.chdir(suite.path)
    monkeypatch.setenv("COLUMNS", "200")  # narrower, the columns continue in a second table
    capsys.readouterr()
    assert main(["history", "--check", "test_reliability[toy]"]) == 0
    text = capsys.readouterr().out
    [row] = [line for line in text.splitlines() if line.startswith("TestBatch::test_reliability[toy]")]
    assert "0.200" in row
    assert "regressed" in row
    assert "(was 1.000)" in row


def test_the_file_is_a_plain_database(suite: Suite) -> None:
    suite.file(SUITE)
    suite.run(TOY)
    connection = sqlite3.connect(Path(suite.path, ".editguard", "history.sqlite"))
    rows = connection.execute(
        "SELECT property, mean FROM checks JOIN runs ON run = number WHERE label LIKE '%locality%'"
    )
    assert rows.fetchall() == [("locality", 1.0)]
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
