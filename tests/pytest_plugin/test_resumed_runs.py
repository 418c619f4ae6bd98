"""Runs by several processes, and runs that were killed, end with what one undisturbed process gives."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from typing import Any

import pytest
from pytest_plugin.inner import Suite
from pytest_plugin.test_resuming import SUITE, applied, checks, journals, kept

from editguard.history import RunHistory
from editguard.pytest_plugin.journal import parts_of

MODE = "--editguard-baseline=create"


def end_of(suite: Suite, result: pytest.RunResult) -> dict[str, Any]:
    """What a run has left behind and told, but for times and the number of workers; the baselines go."""
    folder = suite.path / "baselines"
    run = RunHistory(suite.path / ".editguard" / "history.sqlite").runs()[-1]
    end = {
        "status": (result.ret, run.exit_status, run.complete),
        "outcomes": result.parseoutcomes(),
        "baselines": {path.name: path.read_bytes() for path in folder.glob("*.json")},
        "checks": checks(suite),
        "environments": run.environments,
        "methods": run.methods,
        "failed": sorted(line for line in result.outlines if line.startswith(("FAILED ", "ERROR "))),
        "verdicts": sorted(line for line in result.outlines if "baseline check" in line or " missing: " in line),
    }
    assert end["baselines"]
    assert end["checks"]
    shutil.rmtree(folder)
    return end


def forget_journals(suite: Suite) -> None:
    shutil.rmtree(journals(suite), ignore_errors=True)


@pytest.mark.slow
def test_a_run_by_two_workers_that_is_killed_goes_on_in_one_process(
    toy: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xdist")
    toy.file(SUITE)
    expected = end_of(toy, toy.run(MODE, "--editguard-threads=1"))
    forget_journals(toy)
    monkeypatch.setenv("TOY_STOP", "kill editor")
    assert toy.run_apart("-n2", MODE, "--editguard-threads=1").ret == -signal.SIGKILL
    done = kept(toy)
    monkeypatch.delenv("TOY_STOP")
    toy.forget_events()
    result = toy.run(MODE, "--editguard-threads=1", "--editguard-resume")
    result.stdout.fnmatch_lines([f"resumed: * of {len(done)} group* taken*"])
    assert end_of(toy, result) == expected
    assert len(applied(toy)) < 4 * 2 + 2 * 2 + 1 + 2


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_and_goes_on_where_another_number_stopped(
    toy: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xdist")
    toy.file(SUITE)
    one = "--editguard-threads=1"
    for mode in (MODE, "--editguard-baseline=update"):
        expected = end_of(toy, toy.run(mode, one))
        for workers in (2, 4):
            assert end_of(toy, toy.run_apart(f"-n{workers}", mode, one)) == expected
        forget_journals(toy)
    monkeypatch.setenv("TOY_STOP", "kill editor")
    assert toy.run_apart(mode, one).ret == -signal.SIGKILL
    done = kept(toy)
    monkeypatch.delenv("TOY_STOP")
    result = toy.run_apart("-n2", mode, one, "--editguard-resume")
    result.stdout.fnmatch_lines([f"resumed: * of {len(done)} groups taken*"])
    assert end_of(toy, result) == expected
    toy.forget_events()
    result = toy.run_apart("-n2", mode, "--editguard-resume")
    assert applied(toy) == []
    assert end_of(toy, result) == expected


@pytest.mark.slow
def test_the_group_of_a_crashed_worker_is_not_in_the_journal(toy: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xdist")
    toy.file(
        """
        import os

        @pytest.mark.edit(request("Other"))
        def test_before(edited): pass

        @pytest.mark.edit(ONE)
        class TestOne:
            def test_first(self, edited): pass
            def test_crashing(self, edited):
                if os.environ.get("TOY_STOP"):
                    os._exit(9)
            def test_last(self, edited): pass
        """
    )
    arguments = ("--editguard-methods=toy", "--editguard-threads=1")
    monkeypatch.setenv("TOY_STOP", "1")
    toy.run_apart("-n1", *arguments).assert_outcomes(passed=3, failed=1)
    assert [len(each.tests) for each in kept(toy)] == [1]
    monkeypatch.delenv("TOY_STOP")
    toy.forget_events()
    toy.run(*arguments, "--editguard-resume").assert_outcomes(passed=4)
    assert applied(toy) == [("toy", "Velloria")]


# ---- killed at any moment

AGAIN = ("--editguard-baseline=update", "--editguard-blame=0")


def begun(suite: Suite, *arguments: str) -> int:
    """Run pytest in a copy of this process, which has all modules loaded; returns its number."""
    child = os.fork()
    if child:
        return child
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        suite.run(*arguments)
    finally:
        os._exit(0)


def lines(suite: Suite) -> int:
    """How many groups the newest journal holds."""
    parts = parts_of(journals(suite))
    return parts[-1].path.read_bytes().count(b"\n") if parts else 0


MANY = """
    import time

    GROUPS = [request(f"City{n}") for n in range(6)]

    def of(case):
        @pytest.mark.edit(case)
        class TestOf:
            def test_reliability(self, edited, baseline):
                baseline.check(edited.reliability())

            def test_answer(self, edited):
                time.sleep(0.005)
                assert edited.answer(case.text) == "Oskar"

        return TestOf

    for number, case in enumerate(GROUPS):
        globals()[f"TestOf{number}"] = of(case)

    @pytest.mark.edit_sequence(GROUPS, checkpoints=(3, 6))
    class TestSequence:
        def test_reliability(self, edited, baseline):
            baseline.check(edited.reliability())

        def test_answer(self, edited):
            assert edited.answer(GROUPS[0].text) == "Oskar"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="copies of the process")
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_a_run_that_is_killed_again_and_again_ends_like_one_that_is_not(toy: Suite, seed: int) -> None:
    toy.file(MANY)
    expected = end_of(toy, toy.run(*AGAIN))
    forget_journals(toy)
    moments = random.Random(seed)
    done: set[str] = set()
    for number in range(6):
        child = begun(toy, *AGAIN, "--editguard-resume")
        more = moments.randint(1, 4) if number % 3 else 0  # every third one is killed before it has done anything new
        while more and lines(toy) < len(done) + more and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02 if more else 0.4))
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it has ended
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        known = {each.group for part in parts_of(journals(toy)) for each in part.finished()[0]}
        assert known >= done, "a group that was on the disk is lost"
        done = known
        assert not (toy.path / "baselines").exists() or len(done) == 14, "written before everything had run"
    toy.forget_events()
    result = toy.run(*AGAIN, "--editguard-resume")
    again = {tuple(event["requests"]) for event in toy.events("apply") if event["on"] == 0}
    assert end_of(toy, result) == expected
    assert len(done) >= 4
    result.stdout.fnmatch_lines([f"resumed: * of {len(done)} groups taken*"])
    assert len(again) <= 14 - len(done)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="copies of the process")
def test_two_runs_at_once_keep_a_whole_journal_each(toy: Suite) -> None:
    toy.file(MANY)
    for child in [begun(toy, *AGAIN) for _ in range(2)]:
        os.waitpid(child, 0)
    parts = parts_of(journals(toy))
    assert [(len(found), damaged) for found, damaged in (part.finished() for part in parts)] == [(14, 0)] * 2
    assert not list(journals(toy).glob("*.lock"))
    toy.run(*AGAIN, "--editguard-resume").stdout.fnmatch_lines(["resumed: 32 tests of 14 groups taken*"])
