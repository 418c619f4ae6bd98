"""Confidence intervals of a mean over cases."""

from collections.abc import Hashable, Sequence
from math import sqrt
from statistics import NormalDist
from typing import Final

Interval = tuple[float, float]

RESAMPLES: Final = 2_000
SEED: Final = 20_231


def normal_quantile(probability: float) -> float:
    """The standard normal distribution's quantile."""
    return NormalDist().inv_cdf(probability)


def wilson(passes: float, cases: int, *, level: float = 0.95) -> Interval:
    """Score interval of a proportion; sensible at 0 and 1, where the normal interval has no width.

    Args:
        passes: cases that passed, in [0, cases].
        cases: number of cases.
        level: two-sided confidence level.

    Returns: (low, high), unit: fraction. (0, 1) without cases.
    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if cases == 0:
        return (0.0, 1.0)
    z = normal_quantile((1 + level) / 2)
    share = passes / cases
    centre = (share + z * z / (2 * cases)) / (1 + z * z / cases)
    half = z / (1 + z * z / cases) * sqrt(share * (1 - share) / cases + z * z / (4 * cases * cases))
    low = 0.0 if passes == 0 else max(0.0, centre - half)
    high = 1.0 if passes == cases else min(1.0, centre + half)
    return (low, high)


def cluster_bootstrap(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """Percentile interval of a mean whose cases come in correlated groups: whole groups are drawn again.

    Args:
        values: one value per case.
        clusters: for each case the group it belongs to (the edit that its probe speaks of).
        level: two-sided confidence level.
        resamples: draws; the interval's own noise shrinks as 1 / sqrt(resamples).
        seed: the only source of randomness.

    Returns: (low, high) in the unit of the values; both equal where all groups have the same mean.
    Raises: ValueError: no case, or a different number of values and groups.
    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 8 and 13.
    """
    if not values or len(values) != len(clusters):
        raise ValueError("a bootstrap needs at least one case, and one group for each")
    import numpy as np

    sums: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        entry = sums.setdefault(cluster, [0.0, 0.0])
        entry[0] += value
        entry[1] += 1.0
    totals = np.array([entry[0] for entry in sums.values()])
    counts = np.array([entry[1] for entry in sums.values()])
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    block = max(1, 1_000_000 // len(totals))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = generator.integers(0, len(totals), size=(size, len(totals)))
        means[start : start + size] = totals[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return (float(low), float(high))


def mean_interval(
    values: Sequence[float], clusters: Sequence[Hashable], *, binary: bool, level: float = 0.95
) -> Interval:
    """The interval that goes with a mean over cases.

    Binary values with one case per group, or all in one group, have Wilson's interval: the statement is about
    cases like these. Several groups with several cases, and graded values, have the cluster bootstrap; where it
    has no width at 0 or 1 because every case agrees, Wilson's interval over the groups stands in.
    """
    if not values:
        return (0.0, 1.0)
    groups = len(set(clusters))
    total = sum(values)
    if binary and groups in (1, len(values)):
        return wilson(total, len(values), level=level)
    if binary and total in (0, len(values)):
        return wilson(groups if total else 0, groups, level=level)
    return cluster_bootstrap(values, clusters if groups > 1 else range(len(values)), level=level)
