"""The gate's policy in runs: statuses, what is shown, methods that are reported only, known failures with an end."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest
from pytest_plugin.inner import Suite

from editguard.history import RunHistory

SEQUENCE = """
    CASES = [request(f"S{n}") for n in range(10)]

    @pytest.mark.edit_sequence(CASES, checkpoints=(2, 10))
    def test_measured(edited):
        edited.reliability()

    @pytest.mark.edit(*[request(f"B{n}") for n in range(20)])
    def test_checked(edited, baseline):
        baseline.check(edited.reliability())
"""
BOTH = "--editguard-methods=toy,forgetful"


def policy(suite: Suite, text: str) -> str:
    path = suite.path / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return f"--editguard-gate={path}"


@pytest.fixture
def recorded(suite: Suite) -> Suite:
    suite.file(SEQUENCE)
    suite.run(BOTH, "--editguard-baseline=create").assert_outcomes(passed=6)
    return suite


def test_a_run_that_fulfils_its_policy_says_so(recorded: Suite) -> None:
    gate = policy(
        recorded,
        'required = ["toy"]\nreport-only = ["forgetful"]\nlimits = ["reliability>=0.9"]\n[budget]\nreliability = 0',
    )
    result = recorded.run(BOTH, gate)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["gate: the run fulfils the policy"])


def test_a_broken_limit_and_budget_have_a_status_of_their_own_though_every_test_passes(recorded: Suite) -> None:
    result = recorded.run(BOTH, policy(recorded, 'limits = ["reliability>=0.5"]\n[budget]\nreliability = 0.5'))
    result.assert_outcomes(passed=6)
    assert result.ret == 10
    result.stdout.fnmatch_lines(
        [
            "gate: reliability ?forgetful, sequence, 10 edits?: 0.100 * the limit is reliability>=0.5",
            "gate: reliability ?forgetful, sequence, 10 edits?: 9 of 10 lost at its end, the budget is 5",
        ]
    )


def test_what_was_not_measured_or_cannot_be_seen_has_another_status(recorded: Suite) -> None:
    result = recorded.run("--editguard-methods=toy", policy(recorded, 'required = ["toy", "refusing"]'))
    assert result.ret == 11
    result.stdout.fnmatch_lines(["gate: the required method refusing was not measured"])
    result = recorded.run("--editguard-methods=toy", policy(recorded, "must-see = 0.1"))
    assert result.ret == 11
    result.stdout.fnmatch_lines(["gate: test_checked?toy?: reliability ?toy? cannot turn red for a drop of 0.1: *"])
    one = recorded.run("--editguard-methods=toy", policy(recorded, 'required = ["refusing"]'), "-k", "checked")
    assert one.ret == 0  # a part of the suites tells nothing of what the whole would measure


AGED = """
    CASES = [request(f"S{n}") for n in range(10)]
    pytestmark = pytest.mark.edit(CASES)

    def test_measured(edited, baseline):
        baseline.check(edited.reliability())

    @pytest.mark.parametrize("fate", ["bfloat16", "float16"])
    def test_aged(edited, baseline, fate):
        baseline.check(edited.after(fate).reliability())
"""
SURVIVAL = '[survival]\nfates = ["bfloat16"]\nreliability = 0.1\n'


def test_what_does_not_survive_is_a_breach_in_a_run_whose_tests_pass(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    suite.file(AGED)
    arguments = ("--editguard-methods=toy", policy(suite, SURVIVAL))
    result = suite.run(*arguments, "--editguard-baseline=create")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["gate: the run fulfils the policy"])
    monkeypatch.setenv("TOY_AGED", "S3")
    assert suite.run(*arguments).ret == 0
    monkeypatch.setenv("TOY_AGED", "S3,S4")
    worn = suite.run(*arguments, "--editguard-github=on")
    worn.assert_outcomes(passed=3)
    assert worn.ret == 10
    lost = "2 of 10 lost (1.000 to 0.800) that held before, 1 may be"
    assert f"gate: reliability [toy after bfloat16, batch, 10 edits]: {lost}" in worn.outlines
    assert lost in summary.read_text()
    monkeypatch.setenv("TOY_AGED", ",".join(f"S{n}" for n in range(8)))
    regressed = suite.run(*arguments)
    regressed.assert_outcomes(passed=1, failed=2)
    assert regressed.ret == 1
    regressed.stdout.fnmatch_lines(["*3 baseline checks: *2 regressed*"])
    *_, kept = RunHistory(suite.path / ".editguard" / "history.sqlite").runs()
    found = [(check.method, check.mean, check.verdict) for check in kept.checks]
    aged = [(f"toy after {fate}", 0.2, "regressed") for fate in ("bfloat16", "float16")]
    assert sorted(found) == sorted([("toy", 1.0, "held"), *aged])
    part = suite.run("--editguard-methods=toy", policy(suite, SURVIVAL.replace("bfloat16", "int8")), "-k", "measured")
    assert part.ret == 0
    monkeypatch.delenv("TOY_AGED")
    missing = suite.run("--editguard-methods=toy", policy(suite, SURVIVAL.replace("bfloat16", "int8")))
    assert missing.ret == 11
    missing.stdout.fnmatch_lines(["gate: reliability of toy with 10 edits was not asked after int8"])


def test_a_failed_test_of_an_aged_model_says_that_no_edit_is_blamed_for_it(suite: Suite) -> None:
    suite.file(
        """
        @pytest.mark.edit(request("A"), request("B"))
        def test_aged(edited):
            assert edited.after("bfloat16").reliability().mean == 0.5
        """
    )
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*which edits are to blame is not searched for after bfloat16*"])


def test_allowed_losses_hold_and_a_failed_test_stays_a_failed_test(
    recorded: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_LOST", ",".join(f"B{n}" for n in range(8)))
    plain = recorded.run("--editguard-methods=toy")
    assert plain.ret == 1
    allowed = recorded.run("--editguard-methods=toy", policy(recorded, "allowed-losses = 8"))
    assert allowed.ret == 0
    few = recorded.run("--editguard-methods=toy", policy(recorded, 'allowed-losses = 7\nlimits = ["reliability>0.99"]'))
    assert few.ret == 1
    few.stdout.fnmatch_lines(["gate: reliability ?toy, batch, 20 edits?: 0.600 *"])


def test_a_method_that_is_reported_only_fails_nothing_and_is_shown(suite: Suite) -> None:
    suite.file(
        """
        @pytest.mark.edit_sequence([request("A"), request("B")])
        def test_kept(edited):
            assert edited.reliability().mean == 1.0
        """
    )
    (suite.path / "pyproject.toml").write_text(
        '[tool.editguard.gate]\nreport-only = ["forgetful"]\nlimits = ["reliability>=1"]\n', encoding="utf-8"
    )
    result = suite.run(BOTH)
    result.assert_outcomes(passed=1, xfailed=1)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*0.50 *"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limits = [", "*is not valid TOML*"),
        ("limit = []", "*has no key 'limit'. Did you mean 'limits'?*"),
        ('required = ["rom"]', "*'rom'*"),
        ('[survival]\nfates = ["int9"]\nreliability = 0.1', "*policy, survival: *Did you mean 'int8'*"),
    ],
)
def test_a_policy_that_cannot_be_used_ends_the_run_at_once(suite: Suite, text: str, message: str) -> None:
    suite.file("def test_nothing(): pass")
    result = suite.run(policy(suite, text))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
    missing = suite.run("--editguard-gate=none.toml")
    missing.stderr.fnmatch_lines(["*--editguard-gate is not a file*"])


def test_a_run_without_edits_is_held_to_nothing(suite: Suite) -> None:
    suite.file("def test_nothing(): pass")
    assert suite.run(policy(suite, 'required = ["toy"]')).ret == 0


@pytest.mark.parametrize("days", [-1, 0, 1])
def test_a_known_failure_ends_on_its_day(suite: Suite, days: int) -> None:
    until = date.today() + timedelta(days=days)
    suite.file(
        f"""
        @pytest.mark.edit(ONE)
        @pytest.mark.known_failure("toy", reason="still at work", until="{until}")
        def test_it(edited):
            assert edited.answer(ONE.text) == "Tamrin"
        """
    )
    result = suite.run("--editguard-methods=toy")
    if days < 0:
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines([f"this failure was known until {until}: still at work"])
    else:
        result.assert_outcomes(xfailed=1)


def test_the_end_of_a_known_failure_is_a_day(suite: Suite, tmp_path: Path) -> None:
    suite.file(
        """
        @pytest.mark.edit(ONE)
        @pytest.mark.known_failure("toy", reason="x", until="soon")
        def test_it(edited): pass
        """
    )
    suite.run("--editguard-methods=toy").stdout.fnmatch_lines(["*is a day such as '2027-01-31', not 'soon'."])
