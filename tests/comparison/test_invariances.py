"""What a verdict must not depend on, and which way it must move."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from comparison.built import accepted, measured
from hypothesis import given
from hypothesis import strategies as st

from editguard.comparison import Verdict, judge, upgrade
from editguard.measurements import Measurement, NoiseFloor
from editguard.measurements.noise import Repeat

ORDER = {"held": 0, "undecided": 1, "regressed": 2}
binary = st.sampled_from([0.0, 1.0])
graded = st.floats(0, 1)


@st.composite
def runs(draw: st.DrawFn, values: st.SearchStrategy[float] = binary, most: int = 40) -> tuple[Measurement, Measurement]:
    """The same cases before and now, over one to all edits."""
    pairs = draw(st.lists(st.tuples(values, values), min_size=1, max_size=most))
    edits = draw(st.integers(1, len(pairs)))
    names = [f"edit{place % edits:03}" for place in range(len(pairs))]
    before, now = zip(*pairs, strict=True)
    return measured(before, edits=names), measured(now, edits=names)


def same(one: Verdict, other: Verdict) -> None:
    """Both say the same, to the last digit: a number that is rounded up may hang on it."""
    for name in (
        "kind",
        "cases",
        "flips_needed",
        "cases_needed",
        "edits_needed",
        "drop",
        "p_value",
        "limit",
        "detectable",
    ):
        assert getattr(one, name) == getattr(other, name), name


@given(runs(st.one_of(binary, graded), most=12), st.randoms(use_true_random=False))
def test_the_order_of_the_cases_is_nothing_to_the_verdict(
    pair: tuple[Measurement, Measurement], chance: random.Random
) -> None:
    before, now = pair
    shuffled = list(now.values)
    chance.shuffle(shuffled)
    same(judge(accepted(before), now), judge(accepted(before), replace(now, values=tuple(shuffled))))


@given(runs(st.one_of(binary, graded), most=12))
def test_the_names_of_the_edits_are_nothing_to_the_verdict(pair: tuple[Measurement, Measurement]) -> None:
    def renamed(measurement: Measurement) -> Measurement:
        values = tuple(replace(value, edit=f"z{999 - int(value.edit[4:]):03}") for value in measurement.values)
        return replace(measurement, values=values)

    before, now = pair
    same(judge(accepted(before), now), judge(accepted(renamed(before)), renamed(now)))


@given(runs(st.one_of(binary, graded), most=12))
def test_accepted_and_present_in_each_others_place_turn_losses_into_gains(
    pair: tuple[Measurement, Measurement],
) -> None:
    before, now = pair
    forth, back = judge(accepted(before), now), judge(accepted(now), before)
    assert {flip.probe for flip in forth.lost} == {flip.probe for flip in back.gained}
    assert {flip.probe for flip in forth.gained} == {flip.probe for flip in back.lost}
    assert forth.interval is not None
    assert back.interval is not None
    assert forth.drop == pytest.approx(-(back.drop or 0.0), abs=1e-6)
    assert forth.interval == pytest.approx((-back.interval[1], -back.interval[0]), abs=1e-5)
    assert not (forth.kind == back.kind == "regressed")


@given(runs(st.one_of(binary, graded), most=12), st.booleans())
def test_a_run_holds_against_itself_whatever_was_measured(
    pair: tuple[Measurement, Measurement], must_hold: bool
) -> None:
    """Also graded values, of which a baseline keeps six places."""
    found = judge(accepted(pair[0]), pair[0], must_hold=must_hold)
    assert (found.kind, found.lost, found.gained, found.drop) == ("held", (), (), 0.0)


@given(st.lists(runs(most=20), min_size=1, max_size=5), runs(most=20), st.integers(0, 20))
def test_a_further_check_turns_no_other_red(
    pairs: list[tuple[Measurement, Measurement]], further: tuple[Measurement, Measurement], place: int
) -> None:
    def final(chosen: list[tuple[Measurement, Measurement]]) -> list[Verdict]:
        return upgrade([judge(accepted(before), now, checks=len(chosen)) for before, now in chosen])

    place = min(place, len(pairs))
    few, many = final(pairs), final([*pairs[:place], further, *pairs[place:]])
    for alone, beside in zip(few, [*many[:place], *many[place + 1 :]], strict=True):
        assert alone.kind == "regressed" or beside.kind == alone.kind


@given(st.integers(2, 60), st.integers(0, 60), st.integers(0, 20), st.sampled_from([0.0, 0.02, 0.05, 0.2]))
def test_one_more_lost_case_makes_no_verdict_better(cases: int, losses: int, gains: int, effect: float) -> None:
    losses = min(losses, cases - 1)
    gains = min(gains, cases - 1 - losses)

    def kind(lost: int) -> int:
        rest = cases - lost - gains
        before = [1.0] * lost + [0.0] * gains + [1.0] * rest
        now = [0.0] * lost + [1.0] * gains + [1.0] * rest
        return ORDER[judge(accepted(measured(before)), measured(now), minimum_effect=effect).kind]

    assert kind(losses) <= kind(losses + 1)


@given(runs(), st.floats(0, 0.3), st.floats(0, 0.3))
def test_what_held_holds_for_a_larger_minimum_effect_and_what_did_not_regress_does_not(
    pair: tuple[Measurement, Measurement], one: float, other: float
) -> None:
    small, large = sorted((one, other))
    strict, lenient = (judge(accepted(pair[0]), pair[1], minimum_effect=effect) for effect in (small, large))
    if strict.kind == "held":
        assert lenient.kind == "held"
    if strict.kind != "regressed":
        assert lenient.kind != "regressed"


@given(runs())
def test_a_held_check_that_lost_cases_is_not_worse_by_the_minimum_effect(
    pair: tuple[Measurement, Measurement],
) -> None:
    found = judge(accepted(pair[0]), pair[1])
    assert found.limit is not None
    if found.kind == "held" and found.lost:
        assert found.limit < found.minimum_effect
        assert "not worse by 0.05" in found.reason
    if found.kind == "held" and found.limit >= found.minimum_effect:
        assert "do not rule out" in found.reason
    assert (found.cases_needed is not None) == (found.kind == "undecided")
    assert ("would settle it" in str(found)) == (found.kind == "undecided")


@given(runs())
def test_copies_of_each_case_within_its_edit_settle_nothing(pair: tuple[Measurement, Measurement]) -> None:
    """Five probes of an edit that always agree are one probe: they prove neither worse nor not worse."""

    def copied(measurement: Measurement, times: int) -> Measurement:
        numbers = [value.value for value in measurement.values for _ in range(times)]
        return measured(numbers, edits=[f"e{place // times}" for place in range(len(numbers))])

    once, often = (judge(accepted(copied(pair[0], times)), copied(pair[1], times)) for times in (1, 5))
    assert once.p_value == pytest.approx(often.p_value) or len(pair[0].values) == 1
    if len(pair[0].values) > 1 and once.kind == "undecided":
        assert often.kind == "undecided"


def test_a_verdict_of_an_earlier_version_is_read_and_the_noise_floor_survives() -> None:
    before, now = measured([1.0] * 20), measured([0.0] * 2 + [1.0] * 18)
    found = judge(accepted(before), now)
    assert (found.noise, found.floor, found.doubt) == (None, "", "")
    record = json.loads(json.dumps(found.to_json()))
    assert Verdict.from_json(record) == found
    for name in ("noise", "detectable", "cases_needed", "edits_needed"):
        del record[name]
    assert Verdict.from_json(record).kind == "undecided"
    noise = NoiseFloor(cases=20, repeats=(Repeat(variant="order", difference=0.1, flips=2),))
    noisy = replace(found, noise=noise)
    assert Verdict.from_json(json.loads(json.dumps(noisy.to_json()))) == noisy
    assert "noise floor 0.1, 2 of 20 cases flipped in 1 A/A comparisons (order: 2)" in str(noisy)
    assert "the minimum effect 0.05 lies below the noise floor 0.1" in str(noisy)
    assert not replace(noisy, minimum_effect=0.1).doubt


def test_an_undecided_check_over_edits_says_how_many_edits_would_settle_it() -> None:
    edits = [f"edit{place // 5}" for place in range(50)]
    before, now = measured([1.0] * 50, edits=edits), measured([0.0] * 4 + [1.0] * 46, edits=edits)
    found = judge(accepted(before), now)
    assert found.kind == "undecided"
    assert found.cases_needed is not None
    assert found.edits_needed == -(-found.cases_needed // 5)
    apart = judge(accepted(measured([1.0] * 50)), measured([0.0] * 4 + [1.0] * 46))
    assert (apart.kind, apart.edits_needed) == ("undecided", None)
    assert apart.cases_needed is not None
    assert apart.cases_needed < found.cases_needed, "lost together, four cases say less"
