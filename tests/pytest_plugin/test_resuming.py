"""A run that takes finished groups from a journal ends as one that was not disturbed."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from pytest_plugin.inner import Suite

from editguard.history import RunCheck, RunHistory
from editguard.pytest_plugin import collection, options
from editguard.pytest_plugin.journal import Finished, parts_of
from editguard.pytest_plugin.progress import Progress
from editguard.pytest_plugin.runtime import Runtime

SUITE = """
    import os, signal, time
    from pathlib import Path

    CASES = [request(f"City{n}") for n in range(4)]

    def stop(here):
        if os.environ.get("TOY_STOP") == here:
            pytest.exit("stopped")
        if os.environ.get("TOY_STOP") == "kill " + here:
            while not any(Path(".editguard").glob("journal/*.jsonl")):
                time.sleep(0.01)
            worker = os.environ.get("PYTEST_XDIST_WORKER")
            os.kill(os.getppid() if worker else os.getpid(), signal.SIGKILL)

    @pytest.mark.edit_sequence(CASES, checkpoints=(2, 4))
    class TestSequence:
        def test_retention(self, edited, baseline):
            baseline.check(edited.reliability())

        def test_answer(self, edited):
            assert edited.answer("The capital of City0 is") == "Oskar"

    @pytest.mark.edit(ONE, methods=["toy", "forgetful", "refusing"])
    class TestOne:
        @pytest.mark.xfail
        def test_known(self, edited):
            assert edited.answer(ONE.text) == "Tamrin"

        @pytest.mark.xfail
        def test_better(self, edited):
            assert edited.answer(ONE.text) == "Oskar"

        def test_skipped(self, edited):
            pytest.skip("not today")

        def test_setup(self, broken, edited): pass

        def test_reliability(self, edited, baseline, record_property):
            record_property("pair", "value")
            print("said by the test")
            baseline.check(edited.reliability())

    @pytest.fixture
    def broken():
        raise OSError("no such thing")

    def test_plain(): pass

    @pytest.mark.edit(CASES)
    def test_batch(edited, baseline):
        stop("batch")
        baseline.check(edited.reliability())

    def test_with_editor(editor):
        stop("editor")
        with editor(ONE) as edited:
            assert edited.answer(ONE.text) == "Oskar"

    def test_original(original, baseline):
        assert original.answer(ONE.text) == "old"
"""
ALL = {"passed": 15, "failed": 1, "xfailed": 2, "xpassed": 2, "skipped": 8, "errors": 2}


def journals(suite: Suite) -> Path:
    return suite.path / ".editguard" / "journal"


def kept(suite: Suite) -> list[Finished]:
    """The groups in the newest journal."""
    return parts_of(journals(suite))[-1].finished()[0]


def checks(suite: Suite) -> tuple[RunCheck, ...]:
    """What the history has of the last run."""
    return RunHistory(suite.path / ".editguard" / "history.sqlite").runs()[-1].checks


def applied(suite: Suite) -> list[tuple[str, str]]:
    return [(event["method"], "+".join(event.get("requests", ()))) for event in suite.events("apply")]


def undisturbed(result: pytest.RunResult) -> list[str]:
    """What a run printed, but for times and what it says of journals."""
    lines = [line for line in result.outlines if not line.startswith(("editguard: ", "resumed: "))]
    start = next(number for number, line in enumerate(lines) if "test session starts" in line)
    told = [re.sub(r"in [0-9.]+s(?: \(.*?\))?| at 0x\w+|(first|second)(?=.xml)", "", line) for line in lines[start:]]
    costs = [number for number, line in enumerate(told) if re.match(r"method +(prepare s|phase)", line)]
    if costs:
        after = re.compile(r"\d+ baseline check|baselines: |=====")
        end = next(number for number in range(costs[-1], len(told)) if after.match(told[number]))
        del told[costs[0] : end]
    return told


def test_a_finished_run_is_reported_again_as_it_was_without_loading_a_model(toy: Suite) -> None:
    toy.file(SUITE)
    told = ("-rA", "-o", "junit_family=legacy")
    first = toy.run(*told, "--junitxml=first.xml")
    before = checks(toy)
    toy.forget_events()
    second = toy.run(*told, "--junitxml=second.xml", "--editguard-resume", "-k", "not original")
    second.stdout.fnmatch_lines(["resumed: no group taken*number of baseline checks*"])
    toy.forget_events()
    second = toy.run(*told, "--junitxml=second.xml", "--editguard-resume")
    assert applied(toy) == []
    first.assert_outcomes(**first.parseoutcomes() | {"xpassed": 2})
    assert second.parseoutcomes() == first.parseoutcomes()
    assert second.ret == first.ret == pytest.ExitCode.TESTS_FAILED
    assert undisturbed(second) == undisturbed(first)
    assert checks(toy) == before
    assert reported(toy.path / "second.xml") == reported(toy.path / "first.xml")
    second.stdout.fnmatch_lines(["resumed: 27 tests of 9 groups taken from .editguard/journal/*"])


def test_nothing_is_loaded_where_everything_is_taken(toy: Suite) -> None:
    toy.file("@pytest.mark.edit(ONE)\ndef test_one(edited): pass")
    toy.run()
    toy.forget_events()
    toy.run("--editguard-resume").assert_outcomes(passed=2)
    assert toy.events() == []


def reported(path: Path) -> list[Any]:
    """The test cases of a JUnit report with all that is in them, but for times."""
    found = []
    for case in ElementTree.parse(path).iter("testcase"):
        inside = [(part.tag, sorted(part.items()), part.text) for part in case.iter() if part is not case]
        found.append((case.get("classname"), case.get("name"), inside))
    return found


@pytest.mark.parametrize("stop", ["batch", "editor"])
@pytest.mark.parametrize("mode", ["create", "update"])
def test_an_interrupted_run_goes_on_and_ends_like_an_undisturbed_one(
    toy: Suite, monkeypatch: pytest.MonkeyPatch, stop: str, mode: str
) -> None:
    toy.file(SUITE)
    accept = f"--editguard-baseline={mode}"
    whole = toy.run("-rA", accept)
    [path] = (toy.path / "baselines").iterdir()
    baselines, rows, edits = path.read_bytes(), checks(toy), applied(toy)
    path.unlink()
    for part in parts_of(journals(toy)):
        part.path.unlink()
    toy.forget_events()
    monkeypatch.setenv("TOY_STOP", stop)
    stopped = toy.run(accept)
    assert stopped.ret == pytest.ExitCode.INTERRUPTED
    assert not path.exists()
    done = kept(toy)
    assert 0 < len(done) < 9
    early = applied(toy)
    toy.forget_events()
    monkeypatch.delenv("TOY_STOP")
    result = toy.run("-rA", accept, "--editguard-resume")
    tests = sum(len(each.tests) for each in done)
    result.stdout.fnmatch_lines([f"resumed: {tests} tests of {len(done)} groups taken*; * run again*not finished*"])
    assert path.read_bytes() == baselines
    assert checks(toy) == rows
    assert undisturbed(result) == undisturbed(whole)
    assert result.ret == whole.ret
    again = applied(toy)
    assert again
    assert len(early) + len(again) <= len(edits) + 1  # the group that was cut off is applied twice
    assert {each.group for each in kept(toy)} >= {each.group for each in done}
    assert len(kept(toy)) == 9


def test_a_torn_journal_costs_its_last_group_and_says_so(toy: Suite) -> None:
    toy.file(SUITE)
    toy.run()
    [part] = parts_of(journals(toy))
    part.path.write_bytes(part.path.read_bytes()[:-40])
    toy.forget_events()
    result = toy.run("--editguard-resume")
    result.stdout.fnmatch_lines(["resumed: * of 8 groups taken*1 group run again*", "*1 line of*cut short or damaged*"])


CHANGES: dict[str, tuple[Callable[[Suite], object], str]] = {
    "the module": (lambda suite: append(suite.path / "test_suite.py", "\n# more\n"), "test_suite.py changed"),
    "a conftest": (lambda suite: append(suite.path / "conftest.py", "\n# more\n"), "conftest.py changed"),
    "a new conftest": (lambda suite: (suite.path.parent / "conftest.py").write_text(""), "conftest.py changed"),
    "a helper": (
        lambda suite: append(suite.path / "helper.py", "\n# more\n"),
        "a module that the suites import changed",
    ),
    "another suite that is imported": (
        lambda suite: append(suite.path / "test_other.py", "\n# more\n"),
        "test_other.py changed",
    ),
    "the model": (lambda suite: (suite.path / "toy-model" / "more.txt").write_text(""), "the model changed"),
    "the baselines": (
        lambda suite: (suite.path / "baselines" / "test_suite.toy-model.json").write_text("{}"),
        "baselines/test_suite.toy-model.json changed",
    ),
    "a probe in a data file": (lambda suite: (suite.path / "probe.txt").write_text("Where?"), "the cases changed"),
    "what a setting names": (lambda suite: append(suite.path / "artefact", "more"), "the settings of toy changed"),
    "a parameter": (lambda suite: (suite.path / "parameter.txt").write_text("9"), "the tests of the group*changed"),
    "a mark": (lambda suite: (suite.path / "mark.txt").write_text("9"), "the tests of the group*changed"),
    "the policy": (lambda suite: append(suite.path / "gate.toml", "allowed-losses = 1\n"), "the gate's policy changed"),
    "the ini file": (lambda suite: append(suite.path / "pytest.ini", "# more\n"), "the ini file changed"),
    "the corpus": (lambda suite: append(suite.path / "corpus.txt", "More.\n"), "--editguard-corpus changed"),
    "another check": (
        lambda suite: (suite.path / "test_more.py").write_text("def test_more(baseline): pass\n"),
        "the number of baseline checks: 3 then, 4 now",
    ),
}
OPTIONS = {
    "--editguard-seed=3": "--editguard-seed: 0 then, 3 now",
    "--editguard-batch-size=7": "--editguard-batch-size: 32 then, 7 now",
    "--editguard-alpha=0.01": "--editguard-alpha: 0.05 then, 0.01 now",
    "--editguard-undecided=fail": "--editguard-undecided: pass then, fail now",
    "--editguard-baseline=off": "--editguard-baseline: check then, off now",
    "--editguard-blame=0": "--editguard-blame: 60 then, 0 now",
    "--editguard-dtype=bfloat16": "--editguard-dtype: auto then, bfloat16 now",
    "--runxfail": "pytest's option runxfail: False then, True now",
    "--setup-only": "pytest's option setuponly: False then, True now",
    "--junitxml=a.xml": "whether there is a JUnit report: False then, True now",
    "-Werror": "pytest's option pythonwarnings: None then, ['error'] now",
}
KEYED = """
    from pathlib import Path
    from helper import Thing
    import test_other

    HERE = Path(__file__).parent
    PROBE = Probe(property="locality", kind="neighbour", prompt=(HERE / "probe.txt").read_text())
    CASE = EditCase(request=ONE, probes=(PROBE,))

    @pytest.mark.edit(CASE, settings={"toy": {"name": "artefact"}})
    class TestOne:
        @pytest.mark.parametrize("thing", [Thing((HERE / "parameter.txt").read_text())], ids=["thing"])
        def test_one(self, edited, thing, baseline): pass

        @pytest.mark.of_thing((HERE / "mark.txt").read_text())
        def test_two(self, edited, baseline): pass

    def test_original(original, baseline): pass
"""


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def keyed(suite: Suite) -> list[str]:
    """Write a suite that depends on many files; returns the run's arguments."""
    suite.file(KEYED)
    (suite.path / "helper.py").write_text(
        "class Thing:\n    def __init__(self, text): self.text = text\n    def __repr__(self): return self.text\n"
    )
    (suite.path / "test_other.py").write_text("def test_other(): pass\n")
    for name, text in (("probe.txt", "What?"), ("parameter.txt", "1"), ("mark.txt", "1"), ("corpus.txt", "Text.\n")):
        (suite.path / name).write_text(text)
    (suite.path / "artefact").write_text("weights")
    (suite.path / "gate.toml").write_text('required = ["toy"]\n')
    (suite.path / "pytest.ini").write_text("[pytest]\nmarkers = of_thing\n")
    (suite.path / "baselines").mkdir()
    return ["--editguard-methods=toy", "--editguard-corpus=corpus.txt", "--editguard-gate=gate.toml"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_group_is_run_again_when_something_has_changed_that_it_depends_on(toy: Suite, change: str) -> None:
    arguments = keyed(toy)
    toy.run(*arguments)
    assert len(kept(toy)) == 1
    toy.run(*arguments, "--editguard-resume").stdout.fnmatch_lines(["resumed: 2 tests of 1 group taken*"])
    act, reason = CHANGES[change]
    act(toy)
    result = toy.run(*arguments, "--editguard-resume")
    result.stdout.fnmatch_lines([f"resumed: no group taken from a journal; 1 group run again (1: *{reason})"])
    (toy.path.parent / "conftest.py").unlink(missing_ok=True)


def test_a_group_is_run_again_under_other_options_and_not_under_those_that_only_show(
    toy: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = keyed(toy)
    toy.run(*arguments)
    for option, reason in OPTIONS.items():
        result = toy.run(*arguments, option, "--editguard-resume", "--editguard-journal=.editguard/journal")
        told = [line for line in result.outlines if "run again (1: " in line and line.startswith("resumed: no group")]
        assert told, option
        assert told[-1].endswith(f"(1: {reason})") or "not finished" in told[-1], (option, told)
        for part in parts_of(journals(toy))[1:]:
            part.path.unlink()
    shown = ["-vv", "-x", "--tb=auto", "--maxfail=3", "--durations=2", "-p", "no:cacheprovider", "-rA"]
    result = toy.run(*arguments, *shown, "--editguard-history=off", "--editguard-resume")
    result.stdout.fnmatch_lines(["resumed: 2 tests of 1 group taken*"])
    monkeypatch.setenv("CI", "1")
    result = toy.run(*arguments, "--editguard-resume")
    result.stdout.fnmatch_lines(["resumed: no group taken*the variable CI: False then, True now*"])


def test_a_model_whose_files_are_not_known_is_asked_again(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.file("@pytest.mark.edit(ONE)\ndef test_one(edited): pass")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    suite.run("--editguard-methods=toy")
    result = suite.run("--editguard-methods=toy", "--editguard-resume")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["resumed: no group*toy-model may have moved on the hub; --editguard-offline*"])
    result = suite.run("--editguard-methods=toy", "--editguard-resume", "--editguard-offline")
    result.stdout.fnmatch_lines(["resumed: no group*toy-model is neither a folder nor whole in the hub's local cache*"])
    assert not parts_of(journals(suite))


def test_a_suite_that_is_written_while_the_run_goes_on_is_run_again(
    toy: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.file(
        """
        import os, time

        @pytest.mark.edit(ONE)
        def test_one(edited):
            if os.environ.get("TOY_STOP"):
                os.utime(__file__)

        @pytest.mark.edit(request("Other"))
        def test_other(edited): pass
        """
    )
    monkeypatch.setenv("TOY_STOP", "1")
    toy.run("--editguard-methods=toy")
    assert not parts_of(journals(toy))
    monkeypatch.delenv("TOY_STOP")
    toy.run("--editguard-methods=toy")
    assert len(kept(toy)) == 2


def test_a_known_failure_that_has_ended_meanwhile_is_run_again(toy: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.file(
        """
        @pytest.mark.edit(ONE)
        @pytest.mark.known_failure("toy", reason="so far", until="2999-01-31")
        def test_one(edited):
            assert not edited.edits
        """
    )
    toy.run("--editguard-methods=toy").assert_outcomes(xfailed=1)
    toy.run("--editguard-methods=toy", "--editguard-resume").assert_outcomes(xfailed=1)

    class Later(date):
        @classmethod
        def today(cls) -> date:
            return date(2999, 2, 1)

    monkeypatch.setattr(collection, "date", Later)
    result = toy.run("--editguard-methods=toy", "--editguard-resume")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["resumed: no group*the tests of the group*changed*"])


FIXTURES = """
    import os

    @pytest.fixture(scope="module", autouse=True)
    def of_module(request):
        note("begin " + __name__)
        yield
        note("end " + __name__)
        if __name__ in os.environ.get("TOY_WRONG", ""):
            raise OSError("the end of the module went wrong")

    @pytest.fixture(scope="class")
    def of_class():
        note("begin class")
        yield
        note("end class")

    def note(text):
        with open("notes", "a") as file:
            file.write(text + chr(10))

    class TestFirst:
        def test_before(self, of_class):
            note("run " + __name__)

    @pytest.mark.edit(request(__name__))
    def test_edited(edited): pass
"""


def test_fixtures_end_where_the_next_test_does_not_need_them_though_tests_between_are_replayed(
    toy: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("test_a", "test_b", "test_c"):
        folder = toy.path / name
        folder.mkdir()
        toy.file(FIXTURES, f"{name}/{name}")
    arguments = ("-v", "--editguard-methods=toy")
    toy.run(*arguments).assert_outcomes(passed=6)
    expected = (toy.path / "notes").read_text()
    (toy.path / "notes").unlink()
    toy.run(*arguments, "--editguard-resume").assert_outcomes(passed=6)
    assert (toy.path / "notes").read_text() == expected
    assert expected.count("begin test") == expected.count("end test") == 3
    monkeypatch.setenv("TOY_WRONG", "test_b")
    result = toy.run(*arguments, "--editguard-resume")
    result.assert_outcomes(passed=6, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_edited?toy?*", "*the end of the module went wrong*"])
    result = toy.run(*arguments)
    result.assert_outcomes(passed=6, errors=1)


def test_a_replayed_failure_stops_a_run_that_stops_at_failures(toy: Suite) -> None:
    toy.file(
        """
        @pytest.mark.edit(ONE)
        def test_wrong(edited):
            assert not edited.edits

        @pytest.mark.edit(request("Other"))
        def test_right(edited): pass
        """
    )
    toy.run("--editguard-methods=toy").assert_outcomes(passed=1, failed=1)
    toy.run("--editguard-methods=toy", "--editguard-resume", "-x").assert_outcomes(failed=1)
    toy.run("--editguard-methods=toy", "--editguard-resume", "--lf").assert_outcomes(failed=1)


def test_a_test_with_subtests_is_run_again(toy: Suite) -> None:
    toy.file(
        """
        @pytest.mark.edit(ONE)
        def test_parts(edited, subtests):
            with subtests.test("part"):
                assert not edited.edits

        @pytest.mark.edit(request("Other"))
        def test_whole(edited): pass
        """
    )
    first = toy.run("--editguard-methods=toy")
    assert [len(each.tests) for each in kept(toy)] == [1]
    assert toy.run("--editguard-methods=toy", "--editguard-resume").parseoutcomes() == first.parseoutcomes()


def test_a_journal_that_cannot_be_written_is_one_note_and_changes_nothing_else(toy: Suite) -> None:
    toy.file(SUITE)
    whole = toy.run()
    (toy.path / "file").write_text("")
    result = toy.run("--editguard-journal=file/journal")
    assert result.parseoutcomes() == whole.parseoutcomes()
    assert result.ret == whole.ret
    told = [line for line in result.outlines if line.startswith("journal: ")]
    assert len(told) == 1
    assert "Not a directory" in told[0]
    assert "--editguard-journal" in told[0]


def test_journals_can_be_left_out_and_then_nothing_can_be_resumed(toy: Suite) -> None:
    toy.file(SUITE)
    toy.run("--editguard-journal=off")
    assert not journals(toy).exists()
    result = toy.run("--editguard-journal=off", "--editguard-resume")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: editguard: --editguard-resume takes results from journals*'off'."])
    result = toy.run("--dist=each", "--tx=popen", "--editguard-resume")
    result.stderr.fnmatch_lines(["ERROR: editguard: --editguard-resume does not go with --dist=each*"])
    (toy.path / "file").write_text("")
    result = toy.run("--editguard-journal=file")
    result.stderr.fnmatch_lines(["ERROR: editguard: --editguard-journal is a folder or 'off'*"])


def test_a_run_without_edits_keeps_no_journal(toy: Suite) -> None:
    toy.file("def test_plain(): pass\n\ndef test_original(original): pass")
    toy.run().assert_outcomes(passed=2)
    assert not journals(toy).exists()


@pytest.fixture
def four_threads() -> Any:
    """torch has four threads, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
def test_threads_are_the_asked_ones_those_of_the_resumed_run_or_a_workers_share(
    toy: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def threads(*arguments: str, worker: int | None = None, before: int | None = None) -> int:
        torch.set_num_threads(4)
        config = toy.pytester.parseconfig(*arguments)
        runtime = Runtime(options.read(config), Progress(config), worker, threads_before=before)
        assert runtime.threads() == runtime.threads() == torch.get_num_threads()
        return runtime.threads()

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "2")
    assert threads() == 4
    assert threads(worker=1) == 2
    assert threads("--editguard-threads=3", worker=1, before=1) == 3
    assert threads(before=1) == threads(worker=0, before=1) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert threads(worker=1) == 4


@pytest.mark.usefixtures("four_threads")
def test_a_resumed_run_has_the_threads_of_the_one_before_unless_others_are_asked_for(
    toy: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    toy.file("@pytest.mark.edit(ONE)\ndef test_one(edited, baseline): baseline.check(edited.reliability())")
    toy.run("--editguard-methods=toy", "--editguard-threads=2")
    torch.set_num_threads(4)
    result = toy.run("--editguard-methods=toy", "--editguard-resume", "--editguard-threads=3")
    result.stdout.fnmatch_lines(["*the threads of each process: 2 then, 3 now*"])
    parts_of(journals(toy))[-1].path.unlink()
    torch.set_num_threads(4)
    result = toy.run("--editguard-methods=toy", "--editguard-resume")
    result.stdout.fnmatch_lines(["resumed: 1 test of 1 group taken*"])
    runs = RunHistory(toy.path / ".editguard" / "history.sqlite").runs()
    recorded = [environment["record"]["threads"] for run in runs for environment in run.environments.values()]
    assert recorded == [2, 3, 2]
