"""Held, regressed, undecided: when, and what is said."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from comparison.built import accepted, environment, lost, measured
from hypothesis import given
from hypothesis import strategies as st

from editguard.comparison import Verdict, flips_needed, judge, missing, not_comparable, upgrade


def verdict_on(cases: int, losses: int, gains: int = 0, **more: object) -> Verdict:
    before, now = lost(cases, losses, gains)
    return judge(accepted(before), now, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("cases", [1, 3, 50])
def test_the_same_values_hold_however_few_they_are(cases: int) -> None:
    found = verdict_on(cases, 0)
    assert (found.kind, found.p_value, found.drop) == ("held", 1.0, 0.0)


def test_gains_alone_hold() -> None:
    assert verdict_on(20, 0, gains=6).kind == "held"
    assert len(verdict_on(20, 0, gains=6).gained) == 6


def test_a_few_flips_of_a_few_cases_are_undecided() -> None:
    found = verdict_on(20, 2)
    assert found.kind == "undecided"
    assert "2 lost" in found.reason


def test_one_flip_of_many_cases_holds_because_the_drop_is_surely_small() -> None:
    found = verdict_on(500, 1)
    assert found.kind == "held"
    assert found.interval is not None
    assert found.interval[1] < 0.05


@pytest.mark.parametrize("checks", [1, 12, 60])
def test_exactly_the_printed_number_of_flips_turns_a_check_red(checks: int) -> None:
    needed = verdict_on(100, 1, checks=checks).flips_needed
    assert needed is not None
    assert needed == flips_needed(100, alpha=0.05, checks=checks, minimum_effect=0.05)
    assert verdict_on(100, needed, checks=checks).kind == "regressed"
    assert verdict_on(100, needed - 1, checks=checks).kind != "regressed"
    assert verdict_on(100, 1, checks=checks).smallest_drop == needed / 100


def test_a_significant_drop_below_the_minimum_effect_is_no_regression() -> None:
    assert verdict_on(1000, 12, minimum_effect=0.05).kind == "held"
    assert verdict_on(1000, 12, minimum_effect=0.01).kind == "regressed"


def test_a_case_that_must_hold_turns_the_check_red_at_its_first_flip() -> None:
    before, now = lost(20, 1)
    assert judge(accepted(before), now).kind == "undecided"
    for names in (True, ["The capital of S0 is"], ["probe0000"], ["edit0000"]):
        found = judge(accepted(before), now, must_hold=names)
        assert found.kind == "regressed"
        assert "must hold" in found.reason
        assert found.lost[0].must_hold
    assert judge(accepted(before), now.marked(["probe0000"])).kind == "regressed"
    assert judge(accepted(before), now, must_hold=["probe0001"]).kind == "undecided"


def test_a_must_hold_case_that_failed_before_is_no_flip() -> None:
    run = measured([0.0, 1.0])
    assert judge(accepted(run), run, must_hold=True).kind == "held"


def test_a_case_without_a_finite_score_any_more_is_a_regression_and_no_number() -> None:
    before, now = measured([1.0, 1.0, 0.0]), measured([1.0, None, 0.0])
    found = judge(accepted(before), now)
    assert (found.kind, len(found.lost), found.drop) == ("regressed", 1, None)
    assert "no finite score" in found.reason


def test_a_case_that_never_had_a_value_is_left_out() -> None:
    run = measured([1.0, None, 0.0])
    assert (judge(accepted(run), run).kind, judge(accepted(run), run).cases) == ("held", 2)


def test_nothing_left_to_compare_is_undecided() -> None:
    run = measured([None])
    assert judge(accepted(run), run).kind == "undecided"


def test_other_cases_are_not_comparable() -> None:
    found = judge(accepted(measured([1.0, 1.0])), measured([1.0, 1.0, 1.0]))
    assert found.kind == "not comparable"
    assert any("probes" in line and "probe0002" in line for line in found.details)


def test_a_regression_names_its_cases_and_its_evidence() -> None:
    before, now = lost(40, 12)
    text = str(judge(accepted(before, why="release 3"), now, checks=4))
    assert "reliability [rome, batch, 40 edits] regressed" in text
    assert "'The capital of S0 is': wanted 'T0', accepted run 'T0' (exact), now 'Tamrin' (contradiction)" in text
    assert "and 2 more" in text
    assert "shared by 4 checks" in text
    assert "accepted by Ada on 2026-01-02: release 3" in text
    assert "7 lost cases" in text


def test_what_has_moved_is_said_only_where_something_was_lost() -> None:
    for losses, expected in ((12, ("torch: 2.12 -> 2.13",)), (0, ())):
        before, now = lost(40, losses)
        assert judge(accepted(before), now, details=["torch: 2.12 -> 2.13"]).details == expected


def test_too_few_cases_are_said_to_be_too_few() -> None:
    assert "too few" in verdict_on(3, 1).power


def test_a_missing_baseline_says_how_to_record_it_and_what_has_changed() -> None:
    now = measured([1.0, 0.0])
    found = missing(now, label="test_it", command="pytest --editguard-baseline=create")
    assert found.kind == "missing"
    assert "pytest --editguard-baseline=create" in found.reason
    old = accepted(measured([1.0, 0.0], mode="sequence"))
    explained = missing(now, label="test_it", command="x", known=[old])
    assert any("'sequence' -> 'batch'" in line for line in explained.details)


def test_another_environment_is_not_comparable_and_says_why() -> None:
    found = not_comparable(
        measured([1.0]),
        label="test_it",
        command="pytest --editguard-baseline=create",
        here=environment(device="cuda"),
        recorded=[environment()],
    )
    assert found.kind == "not comparable"
    assert "cuda-float32-abc123" in found.reason
    assert "pytest --editguard-baseline=create" in found.reason
    assert "device: 'cpu' -> 'cuda'" in found.details


def test_the_runs_correction_finds_more_than_each_check_alone() -> None:
    """Two checks at level .05: 2^-5 = .03125 is above .05 / 2, but Holm's second step allows .05."""
    strong, weak = verdict_on(40, 10, checks=2), verdict_on(40, 5, checks=2)
    assert (strong.kind, weak.kind) == ("regressed", "undecided")
    final = upgrade([weak, strong])
    assert [one.kind for one in final] == ["regressed", "regressed"]
    assert "Holm" in final[0].reason
    assert [one.kind for one in upgrade([weak, weak, weak])] == ["undecided"] * 3


def test_the_correction_changes_nothing_but_undecided_checks() -> None:
    held, small = verdict_on(40, 0), replace(verdict_on(40, 5, checks=9), minimum_effect=0.5)
    gone = missing(measured([1.0]), label="t", command="c")
    assert upgrade([held, small, gone]) == [held, small, gone]


@given(cases=st.integers(1, 60), losses=st.integers(0, 60), gains=st.integers(0, 60), checks=st.integers(1, 30))
def test_a_verdict_is_one_of_three_and_survives_json(cases: int, losses: int, gains: int, checks: int) -> None:
    losses = min(losses, cases)
    gains = min(gains, cases - losses)
    found = verdict_on(cases, losses, gains, checks=checks)
    assert found.kind in ("held", "regressed", "undecided")
    if losses == 0:
        assert found.kind == "held"
    if found.kind == "regressed":
        assert found.p_value is not None
        assert found.p_value <= 0.05 / checks
        assert losses > gains
    assert Verdict.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


def test_several_probes_per_edit_are_not_several_edits() -> None:
    edits = [f"edit {i // 5}" for i in range(30)]
    before = measured([1.0] * 30, edits=edits)
    now = measured([0.0] * 10 + [1.0] * 20, edits=edits)
    found = judge(accepted(before), now)
    assert (found.kind, found.test, found.p_value) == ("undecided", "sign flip over edits", 0.25)
    assert found.flips_needed == 5


def test_where_lower_is_better_a_rise_is_a_loss() -> None:
    numbers = [0.5 + number / 100 for number in range(12)]
    low = measured(numbers, name="perplexity", unit="nats per token", lower_is_better=True)
    high = measured([number + 1 for number in numbers], name="perplexity", unit="nats per token", lower_is_better=True)
    risen, fallen = judge(accepted(low), high), judge(accepted(high), low)
    assert (risen.kind, fallen.kind) == ("regressed", "held")
    assert risen.drop == pytest.approx(1.0)
    assert fallen.drop == pytest.approx(-1.0)
    assert (len(risen.lost), len(risen.gained), len(fallen.lost), len(fallen.gained)) == (12, 0, 0, 12)
    assert "perplexity (nats per token) [rome" in risen.lines[0]
    assert any("accepted run 0.5, now 1.5" in line for line in risen.lines)


def test_a_graded_case_without_an_expected_answer_can_flip() -> None:
    before, now = measured([1.0]), measured([0.25])
    bare = replace(now, values=tuple(replace(value, expected=()) for value in now.values))
    verdict = judge(accepted(before), bare, must_hold=True)
    assert verdict.kind == "regressed"
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict
