"""Which edits are to blame for a failed test: planted faults, found by the plugin and by the command."""

import json

import pytest
from pytest_plugin.inner import Suite

from editguard import cli
from editguard.blame.search import OutOfTime

SEQUENCE = """
    CASES = [
        EditCase(
            request=request(f"S{n}"),
            probes=(Probe(property="locality", kind="neighbour", prompt=f"fragile {n}?"),),
        )
        for n in range(12)
    ]
    pytestmark = pytest.mark.edit_sequence(CASES, checkpoints=(12,))
"""
ANSWER = """
    def test_fragile(edited, original):
        assert edited.answer("fragile?") == original.answer("fragile?")
"""
CHECKED = """
    def test_locality(edited, baseline):
        baseline.check(edited.locality())
"""
BLAMED = ["*2 of 12 edits are to blame together*", "*edit 4, *S3*", "*edit 10, *S9*"]


def test_a_pair_that_does_harm_only_together_is_named(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_TOGETHER", "S3+S9")
    suite.file(SEQUENCE + ANSWER)
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([*BLAMED, "*applied from scratch they lose the same probes*"])
    assert "begins to fail" not in result.stdout.str()  # with the second of the two
    summary = result.stdout.str().partition(" editguard =")[2]
    assert "test_fragile[toy-12]: 2 of 12 edits are to blame together" in summary


def test_a_check_against_a_baseline_is_looked_through_with_its_own_verdict(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.file(SEQUENCE + CHECKED)
    suite.run("--editguard-methods=toy", "--editguard-baseline=create").assert_outcomes(passed=1)
    monkeypatch.setenv("TOY_TOGETHER", "S3+S9")
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([*BLAMED, "*with them 12 probes fail:*", "*'fragile 0?': wanted 'old'*now 'broken'*"])
    result.stdout.fnmatch_lines(["1 baseline check: 1 regressed"])


def test_a_curve_is_looked_through_at_all_of_its_checkpoints(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_TOGETHER", "S3+S5")
    suite.file(
        SEQUENCE.replace("checkpoints=(12,)", "checkpoints=(2, 8, 12)")
        + """
    def test_curve(edited):
        assert edited.curve("locality").mean >= (1.0 if edited.edits == 12 else 0.0)
"""
    )
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(failed=1, passed=2)
    result.stdout.fnmatch_lines(["*2 of 12 edits are to blame together*", "*edit 4, *S3*", "*edit 6, *S5*"])


def test_at_an_earlier_checkpoint_later_edits_are_not_there(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pair is whole at the last checkpoint alone: what it loses is lost there, and not at the two before."""
    monkeypatch.setenv("TOY_TOGETHER", "S3+S9")
    suite.file(
        SEQUENCE.replace("checkpoints=(12,)", "checkpoints=(2, 8, 12)")
        + """
    def test_curve(edited):
        assert edited.curve("locality").mean >= 0.5
"""
    )
    result = suite.run("--editguard-methods=toy", "-k", "toy-12")
    result.stdout.fnmatch_lines([*BLAMED, "*with them 12 probes fail:*"])


def test_edits_that_do_not_keep_are_to_blame_for_their_own_probes_alone(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not in force is not missed: an edit that is left out fails nothing."""
    monkeypatch.setenv("TOY_LOST", "S4")
    suite.file(
        SEQUENCE
        + """
    def test_reliability(edited):
        assert edited.reliability().mean == 1.0
"""
    )
    result = suite.run("--editguard-methods=toy")
    result.stdout.fnmatch_lines(["*1 of 12 edits is to blame*", "*edit 5, *", "*reliability/* of edit 5 itself: *"])


def test_a_newer_edit_that_undoes_older_ones_is_named_with_what_it_undoes(suite: Suite) -> None:
    suite.file(
        SEQUENCE
        + """
    def test_the_first_edit_is_kept(edited):
        assert edited.answer(CASES[0].request.text) in ("Oskar", "old")
"""
    )
    result = suite.run("--editguard-methods=forgetful")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*1 of 12 edits is to blame*", "*edit 2, *", "*applied from scratch they do not*"])


def test_a_batch_is_looked_through_by_applying_parts_of_it(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_TOGETHER", "S3+S9")
    suite.file(SEQUENCE.replace("edit_sequence(CASES, checkpoints=(12,))", "edit(CASES)") + ANSWER)
    result = suite.run("--editguard-methods=toy")
    result.stdout.fnmatch_lines([*BLAMED, "*edits applied anew*"])
    assert len(suite.events("apply")) > 5


def test_time_is_looked_at_between_two_edits_that_are_applied_anew(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sequence of which only a sum was kept: one part of it could take longer than the whole search may."""
    monkeypatch.setenv("TOY_TOGETHER", "S3+S9")
    monkeypatch.setattr("editguard.blame.replay.stands_alone", lambda _: False)
    ticks = iter(range(10_000))
    monkeypatch.setattr("editguard.blame.search.Search.check_time", lambda _: _late(next(ticks)))
    suite.file(SEQUENCE + ANSWER)
    result = suite.run("--editguard-methods=toy")
    result.stdout.fnmatch_lines(["*12 of 12 edits are to blame together: with them the check fails", "*time was over*"])
    assert len(suite.events("apply")) == 12 + 3


def _late(tick: int) -> None:
    if tick > 3:
        raise OutOfTime


@pytest.mark.parametrize("options", [["--editguard-blame=0"], []], ids=["no time", "a single edit"])
def test_nothing_is_looked_through_without_time_or_for_one_edit(
    suite: Suite, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_TOGETHER", "S3")
    suite.file((SEQUENCE if options else SEQUENCE.replace("(CASES, checkpoints=(12,))", "(CASES[3:4])")) + ANSWER)
    result = suite.run("--editguard-methods=toy", *options)
    result.assert_outcomes(failed=1)
    assert "blame" not in result.stdout.str().replace("--editguard-blame", "").replace("blame 0", "")


def test_a_test_that_cannot_be_asked_again_says_why(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_TOGETHER", "S3+S9")
    suite.file(
        SEQUENCE
        + """
    @pytest.fixture
    def answer(edited):
        return edited.answer("fragile?")

    def test_fragile(answer):
        assert answer == "old"

    @pytest.mark.parametrize("flaky", [[]])
    def test_flaky(edited, flaky):
        flaky.append(1)
        assert len(flaky) > 1

    def test_without_edits(edited, original):
        assert original.answer("who?") == "new"
"""
    )
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "*no edit is named: the test gets the edited model through another fixture*",
            "*no edit is named: asked once more, the check holds*",
            "*no edit is named: the check fails without any edit, too*",
        ]
    )


def test_what_was_found_is_kept_and_shown_again(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_TOGETHER", "S3+S9")
    suite.file(SEQUENCE.replace("edit_sequence(CASES, checkpoints=(12,))", "edit(CASES)") + ANSWER)
    suite.run("--editguard-methods=toy")
    [kept] = (suite.path / ".editguard" / "blame").glob("*.json")
    assert (suite.path / ".editguard" / ".gitignore").read_text().endswith("*\n")
    suite.forget_events()
    again = suite.run("--editguard-methods=toy")
    again.stdout.fnmatch_lines(BLAMED)
    assert len(suite.events("apply")) == 1
    kept.write_text("{", encoding="utf-8")
    suite.run("--editguard-methods=toy").stdout.fnmatch_lines(BLAMED)


def test_nothing_of_the_search_stays_in_the_model_or_in_the_summary(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_TOGETHER", "S3+S9")
    suite.file(
        SEQUENCE
        + """
    def test_locality(edited):
        measured = edited.locality()
        assert measured.mean == 1.0

    def test_later(edited):
        assert edited.reliability().mean == 1.0
"""
    )
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(failed=1, passed=1)
    table = result.stdout.str().partition(" editguard =")[2].partition("\n\n")[0]
    rows = [line.split() for line in table.splitlines() if "[" in line]
    assert [row[-3] for row in rows] == ["1.00", "0.00"]  # of all twelve edits, and nothing of a part of them


@pytest.mark.slow
def test_two_workers_tell_what_they_found(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_TOGETHER", "S3+S9")
    suite.file(SEQUENCE + ANSWER)
    result = suite.run_apart("-n", "2", "--editguard-methods=toy")
    result.stdout.fnmatch_lines(BLAMED)


@pytest.fixture
def known(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """A suite whose failure is known."""
    monkeypatch.setenv("TOY_TOGETHER", "S3+S9")
    suite.file(SEQUENCE + "    @pytest.mark.known_failure('toy', reason='a planted pair')" + ANSWER)
    monkeypatch.chdir(suite.path)
    return suite


def test_a_known_failure_is_left_alone_in_a_run(known: Suite) -> None:
    result = known.run("--editguard-methods=toy")
    result.assert_outcomes(xfailed=1)
    assert "to blame" not in result.stdout.str()


def test_the_command_looks_into_it(known: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    name = "test_suite.py::test_fragile[toy-12]"
    options = ["--editguard-methods=toy", "--editguard-model=toy-model"]
    assert cli.main(["blame", name, "--json", *options]) == 0
    [found] = json.loads(capsys.readouterr().out)
    assert [edit["number"] for edit in found["blamed"]] == [4, 10]
    assert found["minimal"]
    assert (found["confirmed"], found["edits"], found["method"]) == ("same", 12, "toy")


def test_the_command_says_when_there_is_nothing_to_find(
    known: Suite, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOY_TOGETHER")
    options = ["--editguard-methods=toy", "--editguard-model=toy-model"]
    assert cli.main(["blame", "test_suite.py::test_fragile[toy-12]", *options]) == 1
    assert "no edit to blame" in capsys.readouterr().out
    assert cli.main(["blame", "test_suite.py::test_none", *options]) == 2
    assert "pytest could not run test_suite.py::test_none" in capsys.readouterr().err
    assert cli.main(["blame", "test_suite.py", "--seconds", "0"]) == 2
    assert "--seconds must be at least 1" in capsys.readouterr().err
