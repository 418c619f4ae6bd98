"""Paired tests against tables worked out by hand, and what must hold whatever the data."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editguard.comparison import (
    benjamini_hochberg,
    compare_pairs,
    holm,
    mcnemar,
    sign_flip,
)

counts = st.integers(0, 40)


@pytest.mark.parametrize(
    ("larger", "smaller", "p"),
    [
        (5, 0, 0.0625),
        (6, 0, 0.0313),
        (8, 1, 0.0391),
        (9, 2, 0.0654),
        (10, 3, 0.0923),
        (15, 5, 0.0414),
        (25, 10, 0.0167),
        (40, 20, 0.0135),
    ],
)
def test_mcnemar_agrees_with_the_table(larger: int, smaller: int, p: float) -> None:
    assert mcnemar(larger, smaller, sides=2) == pytest.approx(p, abs=6e-5)
    assert mcnemar(smaller, larger, sides=2) == mcnemar(larger, smaller, sides=2)


def test_one_sided_mcnemar_counts_losses_only() -> None:
    assert mcnemar(5, 0) == 1 / 32
    assert mcnemar(0, 5) == 1.0
    assert mcnemar(0, 0) == 1.0


@given(losses=counts, gains=counts, same=st.integers(0, 30))
def test_mcnemar_depends_on_the_flips_alone_and_is_the_sign_flip_test_of_single_cases(
    losses: int, gains: int, same: int
) -> None:
    drops = [1.0] * losses + [-1.0] * gains + [0.0] * same
    assert sign_flip(drops) == pytest.approx(mcnemar(losses, gains), abs=1e-12)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_the_sign_flip_test_of_whole_numbers_is_exact(drops: list[int]) -> None:
    patterns = list(itertools.product((1, -1), repeat=len(drops)))
    reached = sum(
        sum(sign * abs(drop) for sign, drop in zip(signs, drops, strict=True)) >= sum(drops) for signs in patterns
    )
    assert sign_flip([float(drop) for drop in drops]) == pytest.approx(reached / len(patterns), abs=1e-12)


def test_the_sampled_sign_flip_test_comes_near_the_exact_one_and_is_never_zero() -> None:
    whole = [3.0, 1.0, 2.0, -1.0, 4.0, 2.0, -2.0, 1.0]
    scaled = [value / 3 for value in whole]
    assert sign_flip(scaled) == pytest.approx(sign_flip(whole), abs=0.015)
    assert sign_flip([0.37] * 60) == 1 / 10_001
    assert sign_flip(scaled, seed=1) == sign_flip(scaled, seed=1)


def test_holm_and_benjamini_hochberg_agree_with_the_table() -> None:
    p_values = [0.3, 0.001, 0.04, 0.012, 0.02]
    assert holm(p_values) == pytest.approx([0.3, 0.005, 0.08, 0.048, 0.06])
    assert benjamini_hochberg(p_values) == pytest.approx([0.3, 0.005, 0.05, 0.03, 0.02 * 5 / 3])
    assert holm([]) == benjamini_hochberg([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_adjusted_values_keep_the_order_and_lie_between_raw_and_bonferroni(p_values: list[float]) -> None:
    for raw, step, rate in zip(p_values, holm(p_values), benjamini_hochberg(p_values), strict=True):
        assert raw <= rate + 1e-12 <= step + 2e-12
        assert step <= min(1.0, len(p_values) * raw) + 1e-12


def test_the_test_fires_no_more_often_than_its_level_when_nothing_has_changed() -> None:
    """10,000 null runs of 60 cases of which each flips with chance .2, either way alike."""
    generator = np.random.default_rng(7)
    flipped = generator.binomial(60, 0.2, size=10_000)
    losses = generator.binomial(flipped, 0.5)
    known = {pair: mcnemar(*pair) for pair in {(int(b), int(m - b)) for b, m in zip(losses, flipped, strict=True)}}
    fired = sum(known[int(b), int(m - b)] <= 0.05 for b, m in zip(losses, flipped, strict=True))
    assert 0.005 < fired / 10_000 <= 0.05


def test_probes_of_one_edit_that_fail_together_are_one_observation() -> None:
    """Ten probes lost with one edit: ten losses prove nothing when they are one event."""
    before = [1.0] * 40
    now = [0.0] * 10 + [1.0] * 30
    edits = [f"edit {i // 10}" for i in range(40)]
    together, apart = compare_pairs(before, now, edits), compare_pairs(before, now, range(40))
    assert (together.test, together.units) == ("sign flip over edits", 4)
    assert together.p_value == 0.5
    assert (apart.test, apart.p_value) == ("exact McNemar", 2**-10)
    assert together.drop == apart.drop == 0.25
    assert together.interval[1] >= apart.interval[1]


def test_the_probes_of_a_single_edit_are_compared_by_mcnemar() -> None:
    found = compare_pairs([1.0] * 8, [0.0] * 6 + [1.0] * 2, ["edit"] * 8)
    assert (found.test, found.p_value, found.units) == ("exact McNemar", 2**-6, 8)


def test_graded_values_are_compared_by_sign_flips() -> None:
    before = [0.9, 0.8, 0.95, 0.7, 0.85, 0.9, 0.8, 0.75]
    now = [value - 0.3 for value in before]
    found = compare_pairs(before, now, range(8))
    assert found.test == "sign flip"
    assert found.interval == (pytest.approx(0.3), pytest.approx(0.3))
    assert found.p_value == pytest.approx(1 / 256, abs=0.003)


def test_a_comparison_needs_pairs() -> None:
    with pytest.raises(ValueError, match="at least one case"):
        compare_pairs([], [], [])
    with pytest.raises(ValueError, match="at least one case"):
        compare_pairs([1.0], [1.0, 0.0], ["a"])
