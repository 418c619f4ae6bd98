"""How large a drop can be: intervals of the mean change over the same cases.

Their upper ends decide whether a check held, so that they must not lie too low: a true drop may exceed a one-sided 95 %
limit in one run of twenty, however few edits there are. What an edit's cases have in common is counted, and what
no edit has shown yet is allowed for: among the edits that were not asked there may be one that moves as a whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import cbrt, fsum, sqrt

from editguard.measurements.intervals import Interval, normal_quantile


def score_interval(losses: float, gains: float, cases: float, *, level: float = 0.95) -> Interval:
    """Score interval of the drop between paired proportions, half a case wider on either side.

    The score interval alone lets a true drop pass in up to 5.5 % of samples where 5 % are meant; the drop moves in
    steps of a case, of which the usual correction takes half.

    Args:
        losses, gains: cases that flipped down and up, in [0, cases]; no whole numbers where cases are correlated.
        cases: number of cases, those that did not flip included; above 0.
        level: two-sided confidence level.

    Returns: (low, high) of accepted minus present, unit: fraction.
    Raises: ValueError: no case.
    Source: Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
        design", Statistics in Medicine 17 (1998).
    """
    if cases <= 0:
        raise ValueError("an interval needs at least one case")
    quantile = normal_quantile((1 + level) / 2)
    return (-_highest(gains, losses, cases, quantile), _highest(losses, gains, cases, quantile))


def _highest(losses: float, gains: float, cases: float, quantile: float) -> float:
    """The largest drop that the flips do not contradict."""

    def contradicted(drop: float) -> bool:
        gaining = constrained_gains(losses, gains, cases, drop)
        spread = sqrt(max(0.0, cases * (2 * gaining + drop * (1 - drop))))
        return losses - gains + 0.5 - cases * drop < -quantile * spread

    low, high = (losses - gains) / cases, 1.0
    if not contradicted(high):
        return high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if contradicted(middle) else (middle, high)
    return high


def constrained_gains(losses: float, gains: float, cases: float, drop: float) -> float:
    """The likeliest share of cases that flip up where the true drop is `drop`, at least 0; see `score_interval`."""
    linear = 2 * cases * drop - losses * (1 + drop) - gains * (1 - drop)
    constant = -gains * drop * (1 - drop)
    return (sqrt(max(0.0, linear * linear - 8 * cases * constant)) - linear) / (4 * cases)


@dataclass(frozen=True)
class Grouped:
    """Drops by the edits that they belong to.

    Attributes:
        cases, groups: how many.
        mean: over cases.
        excess: for each edit, the sum of its drops above what the mean would make of it.
        variance: of the mean, from the spread between edits; 0 with one edit.
        case_variance: of the mean, were the cases unrelated.
        square_size: mean square of the number of cases of an edit.
    """

    cases: int
    groups: int
    mean: float
    excess: tuple[float, ...]
    variance: float
    case_variance: float
    square_size: float

    @classmethod
    def of(cls, drops: Sequence[float], clusters: Sequence[Hashable]) -> Grouped:
        """Gather drops; clusters: for each case the edit that it belongs to."""
        members: defaultdict[Hashable, list[float]] = defaultdict(list)
        for drop, cluster in zip(drops, clusters, strict=True):
            members[cluster].append(drop)
        cases, groups = len(drops), len(members)
        mean = fsum(drops) / cases
        excess = tuple(fsum(own) - len(own) * mean for own in members.values())
        between = fsum(each * each for each in excess) * groups / max(1, groups - 1) / cases**2
        within = fsum((drop - mean) ** 2 for drop in drops) / cases / max(1, cases - 1)
        square_size = sum(len(own) ** 2 for own in members.values()) / groups
        return cls(cases, groups, mean, excess, between, within, square_size)

    def design_effect(self, *, flips: bool) -> float:
        """How many correlated cases say as much as one unrelated case; at least 1.

        Args:
            flips: whether the drops are flips of right and wrong. One further edit is counted then, which lost all
                its cases: without a flip that makes an edit one case.

        Source: Kish, "Survey Sampling", 1965, section 5.4.
        """
        between, within = self.variance, self.case_variance
        if flips:
            between, within = between + self.square_size / self.cases**2, within + 1 / self.cases**2
        return max(1.0, between / within) if within > 0 else 1.0


def flip_limits(losses: int, gains: int, grouped: Grouped, *, level: float) -> Interval:
    """Limits on the drop of cases that are right or wrong, several of an edit: the score interval of fewer cases.

    As many as the design effect leaves, less what is uncertain of a variance that so few edits have shown.

    Args:
        losses, gains: cases that flipped down and up.
        grouped: the drops.
        level: two-sided confidence level.

    Source: Korn and Graubard, "Confidence intervals for proportions with small expected number of positive counts
        estimated from survey data", Survey Methodology 24 (1998), for the effective number of cases.
    """
    quantile = (1 + level) / 2
    kept = (normal_quantile(quantile) / _t_quantile(quantile, grouped.groups)) ** 2
    kept /= grouped.design_effect(flips=True)
    return score_interval(losses * kept, gains * kept, grouped.cases * kept, level=level)


def graded_limits(grouped: Grouped, *, level: float) -> Interval:
    """Limits on the mean of graded drops, corrected for their skewness towards either side.

    Rare large losses make a sample's mean and spread too small together. The correction is taken where it widens the
    interval, and the edit that moved most is counted once more. Changes that no edit has shown remain out of sight.

    Args:
        grouped: the drops, by edit, or by case where cases are unrelated.
        level: two-sided confidence level.

    Returns: (low, high) in the unit of the drops; both equal where all edits have the same mean. One edit alone has
        its own drop for a spread.
    Source: Hall, "On the removal of skewness by transformation", Journal of the Royal Statistical Society B 54
        (1992), the monotone transformation, with Student's quantile in place of the normal one.
    """
    quantile = _t_quantile((1 + level) / 2, grouped.groups)
    if grouped.groups == 1:
        return (grouped.mean - quantile * abs(grouped.mean), grouped.mean + quantile * abs(grouped.mean))
    largest = max(abs(each) for each in grouped.excess) / grouped.cases
    error = sqrt(grouped.variance + largest * largest)
    skewness = _skewness(grouped.excess) / sqrt(grouped.groups)
    low, high = _reach(max(0.0, -skewness), quantile), _reach(max(0.0, skewness), quantile)
    return (grouped.mean - error * low, grouped.mean + error * high)


def _reach(skewness: float, quantile: float) -> float:
    """How many standard errors above the mean the limit lies, skewness: of the mean."""
    if skewness < 1e-6:
        return quantile
    return 3 / skewness * (1 - cbrt(1 - skewness * (quantile + skewness / 6)))


def _skewness(values: Sequence[float]) -> float:
    """Of values whose mean is about 0, corrected for their number; 0 where it is not known."""
    number = len(values)
    second = fsum(value * value for value in values) / number
    if number < 3 or second <= 0:
        return 0.0
    third = fsum((value / sqrt(second)) ** 3 for value in values) / number
    return third * sqrt(number * (number - 1)) / (number - 2)


def _t_quantile(probability: float, groups: int) -> float:
    """Student's quantile for a variance of so many groups."""
    from scipy.special import stdtrit

    return float(stdtrit(max(1, groups - 1), probability))
