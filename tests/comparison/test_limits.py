"""Limits on the drop: against the likelihood itself, and what must hold whatever the data."""

from __future__ import annotations

from math import log, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from editguard.comparison import compare_pairs, score_interval
from editguard.comparison.limits import Grouped, flip_limits, graded_limits

counts = st.integers(0, 40)
Z = 1.6448536269514722
graded_drops = st.lists(st.floats(-1, 1).map(lambda value: round(value, 3)), min_size=2, max_size=12)


def statistic(losses: int, gains: int, cases: int, drop: float) -> float:
    """The score statistic with the constrained maximum of the likelihood found by search."""

    def unlikelihood(gaining: float) -> float:
        parts = ((losses, gaining + drop), (gains, gaining), (cases - losses - gains, 1 - 2 * gaining - drop))
        return -sum(count * log(max(chance, 1e-300)) for count, chance in parts if count)

    room = (1 - drop) / 2
    gaining = minimize_scalar(
        unlikelihood, bounds=(max(0.0, -drop), room), method="bounded", options={"xatol": 1e-12}
    ).x
    return (losses - gains + 0.5 - cases * drop) / sqrt(cases * (2 * gaining + drop * (1 - drop)))


@given(losses=st.integers(0, 15), gains=st.integers(1, 15), same=st.integers(5, 60))
def test_at_its_upper_end_the_score_statistic_is_at_its_limit(losses: int, gains: int, same: int) -> None:
    cases = losses + gains + same
    high = score_interval(losses, gains, cases, level=0.9)[1]
    assert statistic(losses, gains, cases, high) == pytest.approx(-Z, abs=1e-3)


@given(losses=counts, gains=counts, same=counts)
def test_the_interval_holds_the_drop_and_turns_over_when_the_runs_are_swapped(
    losses: int, gains: int, same: int
) -> None:
    cases = losses + gains + same
    if cases == 0:
        with pytest.raises(ValueError, match="at least one case"):
            score_interval(losses, gains, cases)
        return
    low, high = score_interval(losses, gains, cases)
    assert -1 <= low < (losses - gains) / cases < high <= 1 or abs(losses - gains) == cases
    assert score_interval(gains, losses, cases) == pytest.approx((-high, -low))
    inner = score_interval(losses, gains, cases, level=0.8)
    assert low <= inner[0]
    assert inner[1] <= high


@pytest.mark.parametrize("cases", [40, 80, 100, 200])
@pytest.mark.parametrize("flips", [0.05, 0.06, 0.1, 0.2])
def test_a_drop_of_the_minimum_effect_lies_above_the_limit_in_one_of_twenty_samples_at_most(
    cases: int, flips: float
) -> None:
    """Exact, over all outcomes with a loss: losses and gains are multinomial."""
    from scipy.stats import binom

    drop = 0.05
    losing, gaining = (flips + drop) / 2, (flips - drop) / 2
    missed = 0.0
    for losses in range(1, cases + 1):
        if losses > drop * cases + cases / 10:
            break  # the drop itself is above by far
        left = binom.pmf(losses, cases, losing)
        for gains in range(min(cases - losses, 40) + 1):
            chance = left * binom.pmf(gains, cases - losses, gaining / (1 - losing))
            if chance > 1e-9 and score_interval(losses, gains, cases, level=0.9)[1] < drop:
                missed += chance
    assert missed <= 0.05


@given(st.lists(st.sampled_from([-1, 0, 0, 0, 1]), min_size=2, max_size=30), st.integers(1, 6))
def test_copies_of_a_case_say_no_more_than_the_case(flips: list[int], copies: int) -> None:
    drops = [float(flip) for flip in flips for _ in range(copies)]
    grouped = Grouped.of(drops, [place // copies for place in range(len(drops))])
    losses, gains = flips.count(1), flips.count(-1)
    low, high = flip_limits(losses * copies, gains * copies, grouped, level=0.9)
    single = score_interval(losses, gains, len(flips), level=0.9)
    assert grouped.design_effect(flips=True) >= copies - 1e-9
    assert low <= single[0] + 1e-9
    assert single[1] - 1e-9 <= high


def test_unrelated_cases_have_no_design_effect() -> None:
    generator = np.random.default_rng(1)
    drops = generator.choice([-1.0, 0.0, 1.0], p=[0.1, 0.8, 0.1], size=4_000)
    grouped = Grouped.of(drops.tolist(), [place // 4 for place in range(4_000)])
    assert 1.0 <= grouped.design_effect(flips=True) < 1.2
    assert Grouped.of(drops.tolist(), range(4_000)).design_effect(flips=True) == pytest.approx(1.0)


@given(graded_drops, st.floats(0.01, 100), st.integers(1, 4))
def test_limits_of_graded_drops_turn_over_and_follow_the_unit(drops: list[float], unit: float, size: int) -> None:
    clusters = [place // size for place in range(len(drops))]
    low, high = graded_limits(Grouped.of(drops, clusters), level=0.9)
    mean = sum(drops) / len(drops)
    assert low <= mean + 1e-9
    assert mean <= high + 1e-9
    turned = graded_limits(Grouped.of([-drop for drop in drops], clusters), level=0.9)
    assert turned == pytest.approx((-high, -low), abs=1e-9)
    scaled = graded_limits(Grouped.of([unit * drop for drop in drops], clusters), level=0.9)
    assert scaled == pytest.approx((unit * low, unit * high), rel=1e-6, abs=1e-6)


def test_rare_large_losses_raise_the_upper_limit_above_students() -> None:
    drops = [0.0] * 18 + [0.6, 0.7]
    low, high = graded_limits(Grouped.of(drops, range(20)), level=0.9)
    mean, error = sum(drops) / 20, float(np.std(drops, ddof=1)) / sqrt(20)
    assert high - mean > 1.729 * error * 1.3
    assert mean - low < high - mean


@pytest.mark.parametrize(("edits", "probes", "most"), [(10, 1, 0.08), (10, 5, 0.08), (50, 1, 0.065), (50, 5, 0.065)])
def test_the_limit_of_skewed_graded_drops_is_seldom_too_low(edits: int, probes: int, most: float) -> None:
    """Exponential drops, all probes of an edit alike: 5 % are meant; the percentile bootstrap has 8 to 17 %."""
    drop = 0.1
    generator, runs = np.random.default_rng(5), 2_000
    clusters = [place // probes for place in range(edits * probes)]
    low = 0
    for _ in range(runs):
        drops = np.repeat(generator.exponential(drop, edits), probes).tolist()
        low += graded_limits(Grouped.of(drops, clusters), level=0.9)[1] < drop
    assert low / runs <= most


def test_one_edit_or_case_has_wide_finite_limits() -> None:
    found = compare_pairs([0.5], [0.4], ["edit"])
    assert found.interval == (pytest.approx(-0.531, abs=1e-3), pytest.approx(0.731, abs=1e-3))
