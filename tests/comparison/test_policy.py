"""The gate's policy: what a run as a whole is held to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editguard.comparison import Acceptance, CheckRecord, Policy, judge, read_policy
from editguard.comparison.bounds import Bound, read_bound
from editguard.comparison.policy import LIMITS_BROKEN, NOT_MEASURED
from editguard.comparison.verdict import Verdict
from editguard.errors import ConfigurationError
from editguard.measurements.record import CaseValue, Measurement

HERE = "[tool.editguard.gate]"


def measured(
    passing: int, of: int = 20, *, name: str = "locality", kind: str | None = None, method: str = "rome", **more: Any
) -> Measurement:
    """One probe for each of so many edits, of which the first ones pass."""
    values = tuple(
        CaseValue(
            probe=f"{name} {kind} {place}",
            edit=f"edit {place}",
            kind=kind or "any",
            prompt=f"prompt {place}",
            expected=("yes",),
            answer="yes" if place < passing else "no",
            outcome="exact" if place < passing else "other",
            value=float(place < passing),
        )
        for place in range(of)
    )
    ids = tuple(f"edit {place}" for place in range(of))
    given = {"protocol": "decode_match", "edit_ids": ids, "mode": "batch", **more}
    return Measurement(name=name, kind=kind, method=method, values=values, **given)


def verdict_of(before: Measurement, now: Measurement, **options: Any) -> Verdict:
    return judge(CheckRecord.of(before, label="test", accepted=Acceptance("Ada", "", "2026-01-01")), now, **options)


def texts(policy: Policy, measurements: list[Measurement], verdicts: list[Verdict] | None = None) -> list[str]:
    return [f"{breach.kind}: {breach.text}" for breach in policy.breaches(measurements, verdicts or [])]


def test_a_required_method_must_have_been_measured() -> None:
    policy = read_policy({"required": ["rome", "memit"]}, HERE)
    assert texts(policy, [measured(20)]) == ["missing: the required method memit was not measured"]
    assert texts(policy, [measured(20), measured(20, method="memit")]) == []


@pytest.mark.parametrize(
    ("limit", "broken"),
    [
        ("locality>=0.9", ["locality/near [rome", "locality [rome"]),
        ("locality/*>=0.9", ["locality/near [rome"]),
        ("locality/near>=0.9", ["locality/near [rome"]),
        ("locality>=0.5", []),
        ("reliability>0.9", ["nothing was measured"]),
        ("locality<=0.6", ["locality [rome"]),
    ],
)
def test_a_limit_speaks_of_a_property_or_of_one_kind(limit: str, broken: list[str]) -> None:
    policy = read_policy({"limits": [limit], "report-only": ["kn"]}, HERE)
    found = [
        measured(10, kind="near"),
        measured(15),
        measured(0, method="kn"),
        measured(0, method="kn after int8"),
        measured(0, method="original"),
        measured(0, name="other"),
    ]
    told = texts(policy, found)
    assert len(told) == len(broken)
    assert all(beginning in text for beginning, text in zip(broken, told, strict=True))


@settings(deadline=None)  # the first call loads scipy
@given(lost=st.integers(0, 20), allowed=st.integers(0, 20))
def test_losses_up_to_the_allowed_number_are_no_regression(lost: int, allowed: int) -> None:
    policy = Policy(allowed_losses=allowed)
    plain = verdict_of(measured(20), measured(20 - lost))
    found = policy.allowed(plain)
    if 0 < lost <= allowed:
        assert found.kind == "held"
        assert len(found.lost) == lost
    else:
        assert found == plain
    sacred = verdict_of(measured(20), measured(20 - lost), must_hold=True)
    assert policy.allowed(sacred) == sacred


def test_what_has_no_value_any_more_is_never_allowed() -> None:
    now = measured(20)
    broken = replace(now, values=(replace(now.values[0], value=None), *now.values[1:]))
    verdict = verdict_of(measured(20), broken)
    assert verdict.kind == "regressed"
    assert Policy(allowed_losses=5).allowed(verdict) == verdict


@settings(deadline=None)
@given(passing=st.integers(0, 50), share=st.sampled_from([0.0, 0.1, 0.3, 1.0]))
def test_a_sequence_may_lose_its_budget_and_not_one_more(passing: int, share: float) -> None:
    policy = read_policy({"budget": {"reliability": share}}, HERE)
    early = measured(0, 10, name="reliability", mode="sequence")
    late = measured(passing, 50, name="reliability", mode="sequence")
    told = texts(policy, [early, late])
    assert bool(told) is (50 - passing > round(share * 50))
    assert all(text.startswith("budget: reliability [rome, sequence, 50 edits]") for text in told)


def test_a_budget_of_what_was_no_sequence_is_missing() -> None:
    policy = read_policy({"budget": {"reliability": 0.1}}, HERE)
    assert texts(policy, [measured(0, name="reliability")])[0].startswith("missing: no sequence was measured")


def test_a_check_that_cannot_turn_red_for_the_drop_asked_for_is_blind() -> None:
    few, many = verdict_of(measured(4, 4), measured(4, 4)), verdict_of(measured(200, 200), measured(200, 200))
    policy = read_policy({"must-see": 0.1}, HERE)
    [text] = texts(policy, [], [few, many])
    assert text.startswith("blind: test: locality [rome] cannot turn red for a drop of 0.1: no number of losses")
    [text] = texts(read_policy({"must-see": 0.01}, HERE), [], [many])
    assert "the smallest that 200 cases can show is 0.050" in text
    assert texts(read_policy({"must-see": 0.1, "report-only": ["rome"]}, HERE), [], [few]) == []


SURVIVAL = {"survival": {"fates": ["int8"], "reliability": 0.1}}


@settings(deadline=None)
@given(
    before=st.lists(st.booleans(), min_size=20, max_size=20), after=st.lists(st.booleans(), min_size=20, max_size=20)
)
def test_what_held_before_and_no_longer_does_is_lost_whatever_was_won(before: list[bool], after: list[bool]) -> None:
    plain = with_values(measured(20, name="reliability"), before)
    aged = with_values(measured(20, name="reliability", method="rome after int8"), after)
    lost = sum(one and not other for one, other in zip(before, after, strict=True))
    told = texts(read_policy(SURVIVAL, HERE), [plain, aged])
    assert bool(told) is (lost > 2)
    if told:
        assert told[0].startswith(f"survival: reliability [rome after int8, batch, 20 edits]: {lost} of 20 lost (")
        assert told[0].endswith("that held before, 2 may be")


def with_values(measurement: Measurement, held: list[bool]) -> Measurement:
    found = zip(measurement.values, held, strict=True)
    return replace(measurement, values=tuple(replace(value, value=float(each)) for value, each in found))


def test_what_has_no_value_after_it_is_lost_and_other_probes_do_not_count() -> None:
    plain, aged = measured(20, name="reliability"), measured(20, name="reliability", method="rome after int8")
    undefined = replace(aged, values=tuple(replace(value, value=None) for value in aged.values[:5]) + aged.values[5:])
    assert "5 of 20 lost" in texts(read_policy(SURVIVAL, HERE), [plain, undefined])[0]
    fewer = replace(aged, values=aged.values[:8])
    assert texts(read_policy(SURVIVAL, HERE), [plain, fewer]) == []


def test_every_methods_largest_set_of_edits_must_have_been_asked_after_every_fate() -> None:
    policy = read_policy(
        {"survival": {"fates": ["int8", "fine-tuning"], "reliability": 0}, "report-only": ["kn"]}, HERE
    )
    one = measured(1, 1, name="reliability")
    all_of_them = [
        one,
        measured(20, name="reliability"),
        measured(20, name="reliability", kind="near"),
        measured(20, name="reliability", method="rome after int8"),
        measured(20, name="reliability", method="original"),
        measured(20, name="reliability", method="kn"),
        measured(0, name="locality", method="rome after int8"),
    ]
    missing = "missing: reliability of rome with 20 edits was not asked after fine-tuning"
    assert texts(policy, all_of_them) == [missing]
    tuned = measured(20, name="reliability", method="rome after fine-tuning(steps=3)")
    assert texts(policy, [*all_of_them, tuned]) == []
    small = replace(one, method="rome after fine-tuning")
    assert texts(policy, [*all_of_them, small]) == [missing]
    two = measured(20, name="reliability", method="rome after fine-tuning after int8")
    assert texts(policy, [*all_of_them, two]) == [missing]
    assert texts(policy, [measured(1)])[0] == "missing: nothing was measured that the survival of reliability speaks of"


@pytest.mark.parametrize(
    "other", [{"mode": "sequence"}, {"protocol": "teacher_forced"}, {"method": "memit after int8"}]
)
def test_only_the_same_question_is_compared(other: dict[str, Any]) -> None:
    plain = measured(20, name="reliability")
    aged = measured(0, name="reliability", **{"method": "rome after int8", **other})
    assert texts(read_policy(SURVIVAL, HERE), [plain, aged])[0].startswith("missing: reliability of rome with 20 edits")


def test_a_fate_with_options_means_these_alone() -> None:
    policy = read_policy({"survival": {"fates": ["fine-tuning(steps=9)"], "reliability": 0}}, HERE)
    plain = measured(20, name="reliability")
    for label, asked in (("fine-tuning", False), ("fine-tuning(steps=8)", False), ("fine-tuning(steps=9)", True)):
        told = texts(policy, [plain, measured(20, name="reliability", method=f"rome after {label}")])
        assert bool(told) is not asked


def test_statuses_tell_what_was_measured_from_what_was_not() -> None:
    survival = {"fates": ["int8"], "locality": 0.1}
    policy = read_policy({"required": ["memit"], "limits": ["locality>=0.9"], "survival": survival}, HERE)
    found = policy.breaches([measured(9), measured(1, method="rome after int8")], [])
    statuses = {breach.kind: breach.status for breach in found}
    assert statuses == {"missing": NOT_MEASURED, "limit": LIMITS_BROKEN, "survival": LIMITS_BROKEN}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"limit": []}, r"has no key 'limit'\. Did you mean 'limits'\?"),
        ({"limits": ["locality=0.9"]}, r'a limit is like "locality>=0\.9", not \'locality=0\.9\''),
        ({"limits": "locality>=0.9"}, "limits is a list of texts"),
        ({"required": ["rome"], "report-only": ["rome"]}, "rome is required and reported only"),
        ({"allowed-losses": -1}, "a number of cases from 0 on, not -1"),
        ({"allowed_losses": True}, "a number of cases from 0 on, not True"),
        ({"must-see": 2}, "must-see is a share from 0 to 1, not 2"),
        ({"budget": {"reliability": "a"}}, "budget reliability is a share from 0 to 1, not 'a'"),
        ({"budget": 0.1}, "budget is a table"),
        ({"survival": 0.1}, "survival is a table"),
        ({"survival": {"fates": ["int8"]}}, "survival names fates and"),
        ({"survival": {"reliability": 0.1}}, "survival names fates and"),
        ({"survival": {"fates": "int8", "reliability": 0.1}}, "survival fates is a list of texts"),
        ({"survival": {"fates": ["int8"], "reliability": 7}}, "survival reliability is a share from 0 to 1"),
    ],
)
def test_a_wrong_policy_is_one_clear_error(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read_policy(table, HERE)


@given(
    name=st.from_regex(r"[a-z_/*]{1,12}", fullmatch=True),
    relation=st.sampled_from([">=", "<=", ">", "<"]),
    number=st.floats(-100, 100).map(lambda value: round(value, 3)),
    value=st.floats(-100, 100),
)
def test_a_bound_reads_back_and_holds_as_it_says(name: str, relation: Any, number: float, value: float) -> None:
    bound = Bound(name, relation, number)
    assert read_bound(bound.text()) == Bound(name, relation, float(f"{number:g}"))
    assert bound.holds(value) is eval(f"{value} {relation} {number}")


@pytest.mark.parametrize("text", ["", "a", "a>=", ">=1", "a>=b", "a>=nan", "a>=inf", "a==1", "a>=1>=2"])
def test_what_is_no_bound_is_none(text: str) -> None:
    assert read_bound(text) is None
