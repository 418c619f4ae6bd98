"""What so many cases can show: against a published table, and functions that undo each other."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from editguard.comparison import (
    cases_needed,
    cases_to_hold,
    cases_to_settle,
    flips_needed,
    mcnemar,
    minimum_detectable_effect,
    score_interval,
    smallest_detectable_drop,
)

shares = st.floats(0.01, 1.0)
levels = st.sampled_from([0.05, 0.01, 0.05 / 50])
sides = st.sampled_from([1, 2])


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        (50, (None, None, 0.173)),
        (100, (None, 0.088, 0.124)),
        (200, (0.044, 0.062, 0.088)),
        (500, (0.028, 0.040, 0.056)),
        (1000, (0.020, 0.028, 0.040)),
    ],
)
def test_the_smallest_detectable_drop_agrees_with_the_table(cases: int, expected: tuple[float | None, ...]) -> None:
    found = [smallest_detectable_drop(cases, discordance) for discordance in (0.05, 0.10, 0.20)]
    for one, other in zip(found, expected, strict=True):
        assert one == (other if other is None else pytest.approx(other, abs=6e-4))


@pytest.mark.parametrize(("alpha", "checks", "needed"), [(0.05, 1, 5), (0.05, 10, 8), (0.03125, 1, 5), (0.5, 1, 1)])
def test_so_many_flips_are_needed_and_one_less_is_not_enough(alpha: float, checks: int, needed: int) -> None:
    assert flips_needed(1000, alpha=alpha, checks=checks) == needed
    assert mcnemar(needed, 0) <= alpha / checks < mcnemar(needed - 1, 0)


def test_too_few_cases_can_never_turn_a_check_red() -> None:
    assert flips_needed(4, alpha=0.05) is None
    assert flips_needed(5, alpha=0.05) == 5
    assert flips_needed(100, alpha=0.05, minimum_effect=0.2) == 20
    assert flips_needed(6, alpha=0.05, cases=60, minimum_effect=0.2) == 12


@given(discordance=shares, part=st.floats(0.05, 1.0), alpha=levels, power=st.floats(0.5, 0.95), tails=sides)
def test_the_cases_needed_for_a_drop_are_the_fewest_that_detect_it(
    discordance: float, part: float, alpha: float, power: float, tails: int
) -> None:
    drop = part * discordance
    needed = cases_needed(drop, discordance, alpha=alpha, power=power, sides=tails)  # type: ignore[arg-type]
    assert needed is not None
    assume(needed > 1)

    def detected(cases: int) -> float:
        found = smallest_detectable_drop(cases, discordance, alpha=alpha, power=power, sides=tails)  # type: ignore[arg-type]
        return 2.0 if found is None else found

    assert detected(needed) <= drop * (1 + 1e-6)
    assert detected(needed - 1) > drop * (1 - 1e-6)


def test_no_number_of_cases_shows_a_drop_that_the_flips_do_not_make() -> None:
    assert cases_needed(0.2, 0.1) is None
    assert cases_needed(0.0, 0.1) is None
    assert cases_to_hold(0.0, 0.1) is None
    assert cases_to_settle(0.0, 0.1) is None
    assert cases_to_settle(1e-200, 0.1) is cases_needed(1e-200, 0.1) is None, "so many that nobody counts them"
    assert minimum_detectable_effect(2, 0.5) is None
    assert minimum_detectable_effect(1, 0.5, graded=True) is None


@given(cases=st.integers(5, 5_000), discordance=shares, alpha=levels)
def test_a_drop_within_the_seen_flips_is_connors_and_a_larger_one_brings_its_own(
    cases: int, discordance: float, alpha: float
) -> None:
    connors = smallest_detectable_drop(cases, discordance, alpha=alpha, sides=1)
    found = minimum_detectable_effect(cases, discordance, alpha=alpha)
    if connors is not None:
        assert found == pytest.approx(connors, abs=1e-6)
    elif found is not None:
        assert found > discordance
        assert smallest_detectable_drop(cases, min(1.0, found + 1e-6), alpha=alpha, sides=1) == pytest.approx(
            found, abs=1e-5
        )
        assert smallest_detectable_drop(cases, found - 1e-6, alpha=alpha, sides=1) is None


@given(cases=st.integers(5, 2_000), square=st.floats(0, 1), effect=st.floats(0, 0.2), graded=st.booleans())
def test_more_cases_find_smaller_drops_but_none_as_small_as_the_minimum_effect(
    cases: int, square: float, effect: float, graded: bool
) -> None:
    few = minimum_detectable_effect(cases, square, minimum_effect=effect, graded=graded)
    many = minimum_detectable_effect(2 * cases, square, minimum_effect=effect, graded=graded)
    if few is not None:
        assert many is not None
        assert effect - 1e-9 <= many <= few + 1e-9


def test_a_graded_value_that_always_changes_alike_is_found_at_the_minimum_effect() -> None:
    """No spread is left; of binary values .05 + z.8 sqrt((d - d^2) / n) = d is solved by .0717."""
    assert minimum_detectable_effect(100, 0.0, minimum_effect=0.05, graded=True) == pytest.approx(0.05)
    assert minimum_detectable_effect(100, 0.0, minimum_effect=0.05) == pytest.approx(0.0717, abs=1e-4)


@pytest.mark.parametrize("square", [0.05, 0.2])
def test_so_many_cases_hold_and_find_as_often_as_was_wanted(square: float) -> None:
    """Simulated: .8 is meant by a normal approximation; counts, and an exact test, reach .73 to .8 (4,000 runs)."""
    effect, runs = 0.05, 4_000
    generator = np.random.default_rng(3)

    def share(cases: int, drop: float, wanted: str) -> float:
        chances = [(square + drop) / 2, (square - drop) / 2, 1 - square]
        drawn, times = np.unique(generator.multinomial(cases, chances, size=runs), axis=0, return_counts=True)
        hit = 0
        for (losses, gains, _), count in zip(drawn.tolist(), times.tolist(), strict=True):
            if wanted == "held":
                hit += count * (score_interval(losses, gains, cases, level=0.9)[1] < effect)
            else:
                hit += count * (mcnemar(losses, gains) <= 0.05)
        return hit / runs

    hold = cases_to_hold(effect, square)
    find = cases_needed(effect, square, sides=1)
    assert hold is not None
    assert find is not None
    assert share(hold, 0.0, "held") == pytest.approx(0.8, abs=0.08)
    assert share(find, effect, "found") == pytest.approx(0.8, abs=0.08)
    assert cases_to_settle(effect, square) == max(hold, find)
    assert find == pytest.approx(((1.645 * sqrt(square) + 0.8416 * sqrt(square - effect**2)) / effect) ** 2, rel=0.02)
