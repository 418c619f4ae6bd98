"""Baselines are recorded on request, checked on every run, and written once at the end."""

import errno
import textwrap
from pathlib import Path

import pytest
from pytest_plugin.inner import Suite

from editguard.comparison import flips_needed

TEN = """
    CASES = [
        EditCase(
            request=request(f"City{n}"),
            probes=(Probe(property="locality", kind="neighbour", prompt=f"What is {n}?"),),
        )
        for n in range(10)
    ]
    pytestmark = pytest.mark.edit(CASES)

    def test_reliability(edited, baseline):
        baseline.check(edited.reliability())

    def test_locality(edited, baseline):
        baseline.check(edited.locality())
"""


def the_file(suite: Suite) -> Path:
    [path] = (suite.path / "baselines").glob("*.json")
    return path


def test_a_missing_baseline_is_reported_with_the_command_that_records_it(suite: Suite) -> None:
    suite.file(TEN)
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["2 baseline checks: 2 missing", "*pytest test_suite.py --editguard-baseline=create*"])
    assert not (suite.path / "baselines").exists()


def lose(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Make the toy method forget that many of its ten edits."""
    monkeypatch.setenv("TOY_LOST", ",".join(f"City{n}" for n in range(number)))


def test_a_recorded_baseline_holds_and_recording_it_again_changes_no_byte(suite: Suite) -> None:
    suite.file(TEN)
    result = suite.run("--editguard-baseline=create", "--editguard-reason=first run", "--editguard-methods=toy")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["baselines: *test_suite.toy-model.json: 2 of 2 checks written"])
    result.stdout.no_fnmatch_line("*missing*")
    text = the_file(suite).read_bytes()
    for part in (b"first run", b"Ada", b"cpu-float32-0123456789abcdef"):
        assert part in text
    result = suite.run("--editguard-baseline=update", "--editguard-reason=again", "--editguard-methods=toy")
    result.assert_outcomes(passed=2)
    assert the_file(suite).read_bytes() == text
    suite.run("--editguard-methods=toy").stdout.fnmatch_lines(["2 baseline checks: 2 held"])


def test_enough_flips_turn_exactly_that_check_red_with_the_cases_named(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.file(TEN)
    suite.run("--editguard-baseline=create", "--editguard-methods=toy")
    enough = flips_needed(10, alpha=0.05, checks=2, minimum_effect=0.05)
    assert enough == 6
    lose(monkeypatch, enough - 1)
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["2 baseline checks: 1 held, 1 undecided"])
    assert result.ret == 0
    lose(monkeypatch, enough)
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            ">*baseline.check(edited.reliability())",
            "E*reliability*regressed: worse by 0.600, p = 0.0156",
            "E*lost 6:",
            "E*'The capital of City0 is': wanted 'Oskar', accepted run 'Oskar' (exact), now 'old' (other)",
            "E*accepted by Ada on *",
            "*2 baseline checks: 1 held, 1 regressed",
        ]
    )
    result.stdout.no_fnmatch_line("*pytest_plugin/baselines.py*")


def test_a_red_check_says_what_moved_in_the_environment(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.file(TEN)
    suite.run("--editguard-baseline=create", "--editguard-methods=toy").assert_outcomes(passed=2)
    path = the_file(suite)
    [torch] = [line for line in path.read_text().splitlines() if '"torch"' in line]
    path.write_text(path.read_text().replace(torch, torch.replace(torch.split('"')[3], "0.0.1")))
    lose(monkeypatch, 10)
    suite.run("--editguard-methods=toy").stdout.fnmatch_lines(["*versions.torch: '0.0.1' -> *"])


def test_the_smallest_drop_that_counts_is_the_same_in_the_options_and_in_the_library() -> None:
    from editguard.comparison.verdict import ALPHA, MINIMUM_EFFECT
    from editguard.pytest_plugin.options import OPTIONS

    defaults = {option.name: option.default for option in OPTIONS}
    assert (defaults["alpha"], defaults["minimum_effect"]) == (ALPHA, MINIMUM_EFFECT)


@pytest.mark.parametrize(
    "mark", ["must_hold", "must_hold(CASES[3])", "must_hold(CASES[3].request.text)", "must_hold(CASES[3].request)"]
)
def test_a_case_that_must_hold_fails_at_its_first_flip(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    suite.file(TEN.replace("def test_reliability", f"@pytest.mark.{mark}\n    def test_reliability"))
    suite.run("--editguard-baseline=create", "--editguard-methods=toy").assert_outcomes(passed=2)
    monkeypatch.setenv("TOY_LOST", "City3")
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E*1 case that must hold flipped", "E*must hold: 'The capital of City3 is'*"])


def test_a_case_that_need_not_hold_may_flip(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.file(TEN.replace("def test_reliability", "@pytest.mark.must_hold(CASES[4])\n    def test_reliability"))
    suite.run("--editguard-baseline=create", "--editguard-methods=toy")
    monkeypatch.setenv("TOY_LOST", "City3")
    suite.run("--editguard-methods=toy").assert_outcomes(passed=2)


def test_undecided_fails_when_it_is_configured_to(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.file(TEN)
    suite.run("--editguard-baseline=create", "--editguard-methods=toy")
    lose(monkeypatch, 2)
    suite.run("--editguard-methods=toy").assert_outcomes(passed=2)
    suite.run("--editguard-methods=toy", "--editguard-undecided=fail").assert_outcomes(passed=1, failed=1)


def test_the_last_word_is_holms_over_the_whole_run(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
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
    suite.run("--editguard-baseline=update", "--editguard-methods=toy")
    lose(monkeypatch, 6)  # p = 1/64 for the ten, below 0.05/2; p = 1/32 for the nine, below 0.05/1 only
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(passed=1, xfailed=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["2 baseline checks: 2 regressed", "the run fails: Holm's correction *1 more regressed*: test_late?toy?"]
    )


def test_a_missing_baseline_fails_in_ci(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.file(TEN)
    monkeypatch.setenv("CI", "true")
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        ["*no baseline yet; record one with `pytest test_suite.py --editguard-baseline=create*"]
    )


def test_another_environment_is_not_comparable_and_says_how_to_record_one(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.file(TEN)
    suite.run("--editguard-baseline=create", "--editguard-methods=toy")
    monkeypatch.setenv("TOY_FINGERPRINT", "fedcba9876543210")
    monkeypatch.setenv("CI", "1")
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["2 baseline checks: 2 not comparable", "*--editguard-baseline=create*"])
    suite.run("--editguard-methods=toy", "--editguard-baseline=create")
    suite.run("--editguard-methods=toy").stdout.fnmatch_lines(["2 baseline checks: 2 held"])
    monkeypatch.delenv("TOY_FINGERPRINT")
    suite.run("--editguard-methods=toy").stdout.fnmatch_lines(["2 baseline checks: 2 held"])


def test_renaming_a_test_orphans_nothing(suite: Suite) -> None:
    suite.file(TEN)
    suite.run("--editguard-baseline=create", "--editguard-methods=toy")
    suite.file(TEN.replace("test_reliability", "test_that_it_was_learned"))
    result = suite.run("--editguard-methods=toy")
    result.stdout.fnmatch_lines(["2 baseline checks: 2 held"])
    result.stdout.no_fnmatch_line("*without a test*")


def test_orphans_are_told_by_complete_runs_alone_and_removed_by_prune(suite: Suite) -> None:
    suite.file(TEN)
    suite.run("--editguard-baseline=create")
    before = the_file(suite).read_bytes()
    part = ["-k", "reliability"]
    result = suite.run(*part)
    result.assert_outcomes(passed=2, deselected=2)
    result.stdout.no_fnmatch_line("*without a test*")
    suite.run("--editguard-baseline=prune", *part).stdout.fnmatch_lines(["nothing was pruned*"])
    suite.run("--editguard-baseline=prune", "test_suite.py::test_locality").stdout.fnmatch_lines(
        ["nothing was pruned*"]
    )
    assert the_file(suite).read_bytes() == before
    suite.file(TEN.partition("def test_locality")[0])
    result = suite.run("--editguard-methods=toy")
    result.stdout.fnmatch_lines(["1 baseline without a test; remove with `pytest *--editguard-baseline=prune`:"])
    result = suite.run("--editguard-methods=toy", "--editguard-baseline=prune")
    result.stdout.fnmatch_lines(["baselines: *1 orphans removed"])
    assert b"forgetful" in the_file(suite).read_bytes()
    suite.run().stdout.fnmatch_lines(["2 baseline checks: 2 held", "1 baseline without a test*"])


def test_create_writes_what_is_missing_and_checks_the_rest(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.file(TEN)
    suite.run("--editguard-baseline=create", "--editguard-methods=toy", "-k", "reliability").assert_outcomes(
        passed=1, deselected=1
    )
    before = the_file(suite).read_text()
    lose(monkeypatch, 10)
    result = suite.run("--editguard-baseline=create", "--editguard-methods=toy")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["1 baseline check: 1 regressed", "baselines: *1 of 2 checks written"])
    after = the_file(suite).read_text()
    assert after != before
    assert '[1, "exact"' in after


def test_update_replaces_what_ran(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.file(TEN)
    suite.run("--editguard-baseline=create", "--editguard-methods=toy")
    lose(monkeypatch, 10)
    suite.run("--editguard-baseline=update", "--editguard-methods=toy").assert_outcomes(passed=2)
    suite.run("--editguard-methods=toy").stdout.fnmatch_lines(["2 baseline checks: 2 held"])


def test_an_interrupted_run_writes_nothing(suite: Suite) -> None:
    suite.file(TEN + "\n    def test_stop(edited):\n        assert False\n\n    def test_rest(edited): pass\n")
    result = suite.run("--editguard-baseline=create", "-x", "--editguard-methods=toy")
    result.stdout.fnmatch_lines(["the run was interrupted: no baseline was written."])
    assert not (suite.path / "baselines").exists()


def test_off_compares_nothing(suite: Suite) -> None:
    suite.file(TEN)
    result = suite.run("--editguard-baseline=off", "--editguard-methods=toy")
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*baseline check*")


@pytest.mark.parametrize("text", ["{", '{"format": 99}', "[]"])
def test_a_damaged_or_foreign_file_is_one_clear_error_and_never_overwritten(suite: Suite, text: str) -> None:
    suite.file(TEN)
    suite.run("--editguard-baseline=create", "--editguard-methods=toy")
    path = the_file(suite)
    path.write_text(text)
    for mode in ("check", "create", "update"):
        result = suite.run(f"--editguard-baseline={mode}", "--editguard-methods=toy")
        assert result.ret == 1
        result.stdout.fnmatch_lines(["*the baseline file *test_suite.toy-model.json *"])
        result.stdout.no_fnmatch_line("*Traceback*")
        assert path.read_text() == text


def test_an_unwritable_folder_is_one_clear_error(suite: Suite) -> None:
    suite.file(TEN)
    (suite.path / "taken").write_text("a file")
    result = suite.run("--editguard-baseline=create", "--editguard-baseline-dir=taken", "--editguard-methods=toy")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: editguard: --editguard-baseline-dir is a folder; *taken is something else."])
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize("mode", ["create", "update", "prune"])
def test_a_folder_that_cannot_be_written_is_found_out_before_anything_runs(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    def full(dir: Path) -> None:
        assert dir == suite.path  # the folder itself is not there yet
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("editguard.storage.tempfile.TemporaryFile", full)
    suite.file(TEN)
    result = suite.run(f"--editguard-baseline={mode}", "--editguard-methods=toy")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: editguard: cannot write to *baselines: No space left on device.*"])
    result.assert_outcomes()
    suite.run("--editguard-methods=toy").assert_outcomes(passed=2)  # checking needs no writing


def test_an_unreadable_baseline_is_told_without_what_led_to_the_error(suite: Suite) -> None:
    suite.file(TEN)
    suite.run("--editguard-baseline=create", "--editguard-methods=toy")
    path = the_file(suite)
    path.unlink()
    path.mkdir()
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(failed=2)
    result.stdout.no_fnmatch_line("*another exception*")
    result.stdout.no_fnmatch_line("*direct cause*")


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("@pytest.mark.known_failure('toy', reason='loses all')", True),
        ("@pytest.mark.skip(reason='not today')", False),
    ],
)
def test_orphans_are_told_beside_a_known_failure_but_not_beside_a_skipped_check(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, how: str, told: bool
) -> None:
    suite.file(TEN)
    suite.run("--editguard-baseline=create", "--editguard-methods=toy")
    first = TEN.partition("def test_locality")[0].replace("def test_reliability", f"{how}\n    def test_reliability")
    suite.file(first + "\n    def test_other(edited, baseline):\n        baseline.check(edited.reliability())\n")
    lose(monkeypatch, 10 if told else 0)
    if told:
        suite.file(first)
    result = suite.run("--editguard-methods=toy")
    assert ("1 baseline without a test" in result.stdout.str()) is told


RESTLESS = """
import toy, torch

THREADS, plain = torch.get_num_threads(), toy.ToyModel.answer

def answer(self, prompt):
    lost = torch.get_num_threads() != THREADS and any(f"City{n}" in prompt for n in range(3))
    return "restless" if lost else plain(self, prompt)

toy.ToyModel.answer = answer
"""


def test_asking_again_shows_the_noise_floor_and_warns_of_a_minimum_effect_below_it(suite: Suite) -> None:
    suite.file(RESTLESS + textwrap.dedent(TEN))
    suite.run("--editguard-baseline=create", "--editguard-methods=toy", "--editguard-aa").assert_outcomes(passed=2)
    result = suite.run("--editguard-methods=toy", "--editguard-aa", "-v")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "2 baseline checks: 2 held",
            "*to settle *noise floor",
            "*reliability *0.3 (3 flips)",
            "*locality *0 (0 flips)",
            "A/A comparisons of 2 checks (20 cases): cases flipped in 1, largest difference of a mean 0.3",
            "test_reliability*the minimum effect 0.05 lies below the noise floor 0.3*",
        ]
    )
    result.stdout.fnmatch_lines(["*reliability *1.00 *"])
    result.stdout.no_fnmatch_line("*reliability *0.70 *")  # what is measured again is no result of the run
    quiet = suite.run("--editguard-methods=toy", "--editguard-aa", "--editguard-minimum-effect=0.3")
    quiet.stdout.no_fnmatch_line("*below the noise floor*")
    suite.run("--editguard-methods=toy").stdout.no_fnmatch_line("*A/A*")


def test_a_regression_stands_beside_its_noise_floor(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.file(TEN)
    suite.run("--editguard-baseline=create", "--editguard-methods=toy")
    lose(monkeypatch, 10)
    result = suite.run("--editguard-methods=toy", "--editguard-aa")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E*noise floor 0, 0 of 10 cases flipped in 3 A/A comparisons; the drop is at most *"])
