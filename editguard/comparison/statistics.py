"""Paired tests over the same cases, and what so many cases can show.

Everywhere a *loss* is a case that got worse from the accepted run to the present one, a *gain* one that got
better, and the *drop* is accepted minus present: positive when the model got worse.

Which test: cases are probes. With one probe per edit, or one edit only, the test of binary outcomes is the exact
McNemar test. Probes of one edit are correlated, so with several edits and several probes each whole edits are
flipped instead of probes: the exact sign-flip test on the sums per edit, which is McNemar's where each edit has one
probe. Graded values have the sign-flip test too, and the paired bootstrap for the interval.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import ceil, log2, sqrt
from typing import Final, Literal

from editguard.measurements.intervals import (
    SEED,
    Interval,
    cluster_bootstrap,
    normal_quantile,
    wilson,
)

DRAWS: Final = 10_000
_TOLERANCE: Final = 1e-12


def mcnemar(losses: int, gains: int, *, sides: Literal[1, 2] = 1) -> float:
    """Exact McNemar test: given the cases that flipped, are losses as likely as gains?

    Args:
        losses, gains: cases that flipped down and up; the others say nothing.
        sides: 1 for "worse", 2 for "different".

    Returns: the p-value; 1 when nothing flipped.
    Source: McNemar, "Note on the sampling error of the difference between correlated proportions", 1947; exact form.
    """
    if losses + gains == 0:
        return 1.0
    from scipy.stats import binomtest

    flipped = losses + gains
    test = binomtest(losses, flipped, 0.5, alternative="greater" if sides == 1 else "two-sided")
    return float(test.pvalue)


def sign_flip(drops: Sequence[float], *, draws: int = DRAWS, seed: int = SEED) -> float:
    """One-sided sign-flip test that the sum of drops is above zero.

    Whole numbers have their exact distribution, other values a random sample of the sign patterns, of which the
    observed one is counted as one: the p-value is never 0.

    Args:
        drops: one independent drop per unit (case, or sum over an edit's cases).
        draws: sampled sign patterns for values that are not whole numbers.
        seed: the only source of randomness.

    Source: Fisher, "The Design of Experiments", 1935, section 21.
    """
    import numpy as np

    sizes = np.abs(np.array([drop for drop in drops if abs(drop) > _TOLERANCE], dtype=float))
    observed = float(sum(drops))
    if sizes.size == 0:
        return 1.0
    if np.array_equal(sizes, np.round(sizes)):
        steps = sizes.astype(int)
        chances = np.ones(1)
        for step in steps:
            grown = np.zeros(chances.size + 2 * step)
            grown[: chances.size] += chances / 2
            grown[2 * step :] += chances / 2
            chances = grown
        first = round(observed + int(steps.sum()))
        return float(min(1.0, chances[first:].sum()))
    generator = np.random.default_rng(seed)
    signs = generator.choice((-1.0, 1.0), size=(draws, sizes.size))
    reached = int(((signs @ sizes) >= observed - _TOLERANCE).sum())
    return (1 + reached) / (1 + draws)


def newcombe(both: int, losses: int, gains: int, neither: int, *, level: float = 0.95) -> Interval:
    """Score interval of the drop between paired proportions.

    Args:
        both, losses, gains, neither: cases right in both runs, only before, only now, in none.
        level: two-sided confidence level.

    Returns: (low, high) of accepted minus present, unit: fraction.
    Raises: ValueError: no case.
    Source: Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired
        data", Statistics in Medicine 17 (1998), method 10.
    """
    cases = both + losses + gains + neither
    if cases == 0:
        raise ValueError("an interval needs at least one case")
    before, now = (both + losses) / cases, (both + gains) / cases
    low_before, high_before = wilson(both + losses, cases, level=level)
    low_now, high_now = wilson(both + gains, cases, level=level)
    margins = (both + losses) * (gains + neither) * (both + gains) * (losses + neither)
    numerator = float(both * neither - losses * gains)
    if numerator > 0:
        numerator = max(numerator - cases / 2, 0.0)
    correlation = numerator / sqrt(margins) if margins else 0.0
    drop = before - now

    def spread(one: float, other: float) -> float:
        return sqrt(max(0.0, one * one - 2 * correlation * one * other + other * other))

    return (
        max(-1.0, drop - spread(before - low_before, high_now - now)),
        min(1.0, drop + spread(high_before - before, now - low_now)),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that keep the chance of any false alarm over the family; in the order given.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    order = sorted(range(len(p_values)), key=lambda position: p_values[position])
    for rank, position in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = highest
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that keep the share of false alarms; for exploring, never for a gate. In the order given.

    Source: Benjamini and Hochberg, "Controlling the false discovery rate", 1995.
    """
    adjusted = [1.0] * len(p_values)
    lowest = 1.0
    order = sorted(range(len(p_values)), key=lambda position: p_values[position])
    for rank in range(len(order) - 1, -1, -1):
        lowest = min(lowest, len(p_values) * p_values[order[rank]] / (rank + 1))
        adjusted[order[rank]] = lowest
    return adjusted


def flips_needed(
    units: int, *, alpha: float, checks: int = 1, minimum_effect: float = 0.0, cases: int | None = None
) -> int | None:
    """The fewest losses, without any gain, that turn a check red.

    Args:
        units: independent units: cases, or edits where several probes share one (each loses at least one case).
        alpha: level of the run.
        checks: how many checks share it.
        minimum_effect: the smallest drop that counts.
        cases: number of cases, where it differs from the units.

    Returns: a number of cases, spread over as many units where these differ; None when even all do not suffice.
    """
    cases = units if cases is None else cases
    significant = max(1, ceil(-log2(alpha / max(1, checks)) - _TOLERANCE))
    large_enough = ceil(minimum_effect * cases - _TOLERANCE)
    needed = max(significant, large_enough)
    return needed if significant <= units and needed <= cases else None


def smallest_detectable_drop(
    cases: int, discordance: float, *, alpha: float = 0.05, power: float = 0.8, sides: Literal[1, 2] = 2
) -> float | None:
    """The smallest net drop that McNemar's test finds with the wanted power.

    Args:
        cases: number of paired cases.
        discordance: share of cases that flip either way.
        alpha: level of the test; divide it by the number of checks first.
        power: chance of finding the drop.
        sides: of the test.

    Returns: unit: fraction; None where even losses alone (drop = discordance) would not be found so often.
    Source: Connor, "Sample size for testing differences in proportions for the paired-sample design", 1987.
    """
    if not 0 < discordance <= 1 or cases < 1:
        return None
    level, wanted = normal_quantile(1 - alpha / sides), normal_quantile(power)

    def cases_for(drop: float) -> float:
        return ((level * sqrt(discordance) + wanted * sqrt(discordance - drop * drop)) / drop) ** 2

    if cases_for(discordance) > cases:
        return None
    low, high = 1e-9, discordance
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if cases_for(middle) > cases else (low, middle)
    return high


@dataclass(frozen=True)
class PairedComparison:
    """The same cases before and now.

    Attributes:
        cases: how many have a value in both runs.
        units: how many independent units the test counts.
        losses, gains: cases that got worse, and better.
        drop: mean of accepted minus present.
        p_value: one-sided, for "worse".
        interval: of the drop, two-sided at `level`.
        test: the test's name.
    """

    cases: int
    units: int
    losses: int
    gains: int
    drop: float
    p_value: float
    interval: Interval
    test: str


def compare_pairs(
    accepted: Sequence[float],
    present: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    level: float = 0.9,
    seed: int = SEED,
) -> PairedComparison:
    """Compare two runs over the same cases; see the module for which test is used when.

    Args:
        accepted, present: one value per case, in the same order.
        clusters: the edit that each case belongs to.
        level: of the drop's two-sided interval; 0.9 makes its upper end a one-sided 95 % limit.
        seed: of resampling, where there is any.

    Raises: ValueError: no case, or lengths that differ.
    """
    if not accepted or not len(accepted) == len(present) == len(clusters):
        raise ValueError("a paired comparison needs at least one case, and both values and the edit of each")
    drops = [before - now for before, now in zip(accepted, present, strict=True)]
    losses = sum(drop > _TOLERANCE for drop in drops)
    gains = sum(drop < -_TOLERANCE for drop in drops)
    binary = all(value in (0.0, 1.0) for value in (*accepted, *present))
    groups = len(set(clusters))
    apart = groups in (1, len(drops))
    both = sum(before == now == 1.0 for before, now in zip(accepted, present, strict=True))
    by_case = newcombe(both, losses, gains, len(drops) - both - losses - gains, level=level)
    if binary and apart:
        p_value, interval, test = mcnemar(losses, gains), by_case, "exact McNemar"
    else:
        units = list(range(len(drops))) if apart else list(clusters)
        sums: defaultdict[Hashable, float] = defaultdict(float)
        for unit, drop in zip(units, drops, strict=True):
            sums[unit] += drop
        p_value = sign_flip(list(sums.values()), seed=seed)
        interval = cluster_bootstrap(drops, units, level=level, seed=seed)
        if binary:  # a bootstrap of few edits can be far too narrow: at least as wide as for unrelated cases
            interval = (min(interval[0], by_case[0]), max(interval[1], by_case[1]))
        test = "sign flip" if apart else "sign flip over edits"
    return PairedComparison(
        cases=len(drops),
        units=len(drops) if apart else groups,
        losses=losses,
        gains=gains,
        drop=sum(drops) / len(drops),
        p_value=p_value,
        interval=interval,
        test=test,
    )
