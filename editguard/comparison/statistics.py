"""Paired tests over the same cases, and corrections for many of them.

Everywhere a *loss* is a case that got worse from the accepted run to the present one, a *gain* one that got
better, and the *drop* is accepted minus present: positive when the model got worse.

Which test: cases are probes. With one probe per edit, or one edit only, the test of binary outcomes is the exact
McNemar test. Probes of one edit are correlated, so with several edits and several probes each whole edits are
flipped instead of probes: the exact sign-flip test on the sums per edit, which is McNemar's where each edit has one
probe. Graded values have the sign-flip test too. The intervals of the drop are those of `limits`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Final, Literal

from editguard.comparison.limits import Grouped, flip_limits, graded_limits, score_interval
from editguard.measurements.intervals import SEED, Interval

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

    sizes = np.sort(np.abs(np.array([drop for drop in drops if abs(drop) > _TOLERANCE], dtype=float)))
    observed = fsum(drops)
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
    reached = 0
    block = max(1, 1_000_000 // sizes.size)
    for start in range(0, draws, block):
        positive = generator.integers(0, 2, size=(min(block, draws - start), sizes.size), dtype=np.int8)
        reached += int((2 * (positive @ sizes) - sizes.sum() >= observed - _TOLERANCE).sum())
    return (1 + reached) / (1 + draws)


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
        square: mean square of the drops; of binary values the share of cases that flipped.
        effective: how many unrelated cases would say as much.
        graded: whether there are values besides 0 and 1.
    """

    cases: int
    units: int
    losses: int
    gains: int
    drop: float
    p_value: float
    interval: Interval
    test: str
    square: float
    effective: float
    graded: bool


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
    units: Sequence[Hashable] = range(len(drops)) if apart else clusters
    grouped = Grouped.of(drops, units)
    if binary and apart:
        p_value, test = mcnemar(losses, gains), "exact McNemar"
    else:
        members: defaultdict[Hashable, list[float]] = defaultdict(list)
        for unit, drop in zip(units, drops, strict=True):
            members[unit].append(drop)
        p_value = sign_flip([fsum(own) for own in members.values()], seed=seed)
        test = "sign flip" if apart else "sign flip over edits"
    if not binary:
        interval = graded_limits(grouped, level=level)
    elif apart:
        interval = score_interval(losses, gains, len(drops), level=level)
    else:
        interval = flip_limits(losses, gains, grouped, level=level)
    return PairedComparison(
        cases=len(drops),
        units=len(drops) if apart else groups,
        losses=losses,
        gains=gains,
        drop=grouped.mean,
        p_value=p_value,
        interval=interval,
        test=test,
        square=fsum(drop * drop for drop in drops) / len(drops),
        effective=len(drops) if apart else len(drops) / grouped.design_effect(flips=binary),
        graded=not binary,
    )
