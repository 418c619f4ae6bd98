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


def test_statuses_tell_what_was_measured_from_what_was_not() -> None:
    policy = read_policy({"required": ["memit"], "limits": ["locality>=0.9"]}, HERE)
    statuses = {breach.kind: breach.status for breach in policy.breaches([measured(1)], [])}
    assert statuses == {"missing": NOT_MEASURED, "limit": LIMITS_BROKEN}


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
