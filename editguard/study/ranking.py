"""Choosing among methods by several criteria at once: scores, who wins under which weights, who is dominated.

A utility says how good a method is in one criterion, more being better; `editguard.study.criteria` makes utilities from
measured values, each from the method's own value alone. The score is the additive one of multi-attribute value theory
(Keeney and Raiffa, "Decisions with Multiple Objectives", 1976, chapter 3): utilities times shares of weight, summed.
What a method scores therefore never depends on which other methods take part.

Axes: methods are rows, criteria are columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

TIE: Final = 1e-12
"""Scores and utilities that differ by no more than this are equal: rounding is no reason to prefer a method."""
_CHUNK: Final = 20_000
"""Draws of weights that are scored at once."""


def normalised(weights: Floats) -> Floats:
    """Shares of the whole weight.  weights: (criteria,), at least 0 and not all 0; returns (criteria,), sum 1."""
    shares: Floats = weights / weights.sum()
    return shares


def contributions(utilities: Floats, weights: Floats) -> Floats:
    """What each criterion adds to each score.

    Args:
        utilities: (methods, criteria).
        weights: (criteria,), on any scale.

    Returns: (methods, criteria); the score of a method is the sum of its row.
    """
    parts: Floats = utilities * normalised(weights)
    return parts


def ranks(scores: Floats) -> NDArray[np.int64]:
    """Places from 1 on; equal scores share the better place, and the next one is left out (1, 1, 3).

    scores: (methods,), more is better; returns (methods,).
    """
    better = scores[None, :] > scores[:, None] + TIE
    places: NDArray[np.int64] = 1 + better.sum(axis=1)
    return places


def lead_margin(half_widths: Floats, weights: Floats) -> float:
    """How far the intervals of the values allow the lead of one method over another to be another one.

    Values are held to be independent of each other; methods that were asked the same questions mostly rise and fall
    together, and then the true margin of a lead is smaller.

    Args:
        half_widths: (2, criteria), half the 95 % interval of each utility of the two; 0 where there is none.
        weights: (criteria,), on any scale.

    Returns: half the 95 % interval of the lead, in points of the score.
    """
    return float(np.sqrt(((half_widths * normalised(weights)) ** 2).sum()))


def dominated(utilities: Floats) -> Bools:
    """Whether another method is at least as good in every criterion, and better in one.

    utilities: (methods, criteria); returns (methods,). Of methods that are equal in everything none dominates another.
    """
    difference = utilities[None, :, :] - utilities[:, None, :]  # (methods, rivals, criteria)
    by_whom = (difference >= -TIE).all(axis=2) & (difference > TIE).any(axis=2)
    beaten: Bools = np.any(by_whom, axis=1)
    return beaten


def winning_shares(utilities: Floats, *, draws: int, seed: int) -> tuple[Floats, Floats]:
    """Over which share of all possible weights each method is first.

    Every division of the weight among the criteria is held equally likely: the uniform distribution on the simplex.
    Methods that are first together share the place. Exact for one and for two criteria.

    Args:
        utilities: (methods, criteria).
        draws: of weights, for three criteria and more.
        seed: the only source of randomness.

    Returns: shares (methods,), sum 1, and the standard error of each (methods,), 0 where they are exact.
    Source: the rank acceptability index of Lahdelma, Hokkanen and Salminen, "SMAA: stochastic multiobjective
        acceptability analysis", European Journal of Operational Research 106 (1998).
    """
    methods, criteria = utilities.shape
    if criteria == 1:
        return _firsts(utilities.T)[0], np.zeros(methods)
    if criteria == 2:
        return _exact_shares(utilities), np.zeros(methods)
    generator = np.random.default_rng(seed)
    total, squares = np.zeros(methods), np.zeros(methods)
    for start in range(0, draws, _CHUNK):
        drawn = generator.standard_exponential((min(_CHUNK, draws - start), criteria))
        firsts = _firsts((drawn / drawn.sum(axis=1, keepdims=True)) @ utilities.T)
        total += firsts.sum(axis=0)
        squares += (firsts**2).sum(axis=0)
    shares = total / draws
    return shares, np.sqrt(np.maximum(squares / draws - shares**2, 0.0) / draws)


def choosable(utilities: Floats) -> Bools:
    """Whether some weights make a method the only first one; those equal to it in everything do not count as others.

    utilities: (methods, criteria); returns (methods,). What is not dominated can still never be first, where a mixture
    of others is better: the front may bend inwards.
    """
    from scipy.optimize import linprog

    methods, criteria = utilities.shape
    found = np.zeros(methods, dtype=np.bool_)
    for method in range(methods):
        gaps = utilities[method] - utilities
        gaps = gaps[np.abs(gaps).max(axis=1) > TIE]
        if not len(gaps):
            found[method] = True
            continue
        scale = np.abs(gaps).max()  # the lead is the last unknown: the largest one that weights give over every rival
        answer = linprog(
            c=[*np.zeros(criteria), -1.0],
            A_ub=np.column_stack([-gaps / scale, np.ones(len(gaps))]),
            b_ub=np.zeros(len(gaps)),
            A_eq=[[*np.ones(criteria), 0.0]],
            b_eq=[1.0],
            bounds=[*[(0.0, 1.0)] * criteria, (None, None)],
        )
        found[method] = answer.x is not None and answer.x[-1] > 1e-9
    return found


def smallest_shift(gap: Floats, weights: Floats) -> Floats | None:
    """The nearest weights under which a rival draws level with the winner.

    Near is what has the least weight moved from some criteria to others, which is half the sum of absolute changes. All
    of it goes to the criterion that favours the rival most, and comes from those that favour the winner most.

    Args:
        gap: (criteria,), utilities of the winner minus those of the rival.
        weights: (criteria,), sum 1, under which the winner is not behind.

    Returns: (criteria,), sum 1; None where the rival is better in no criterion, so that no weights put it first.
    """
    to = int(gap.argmin())
    if gap[to] >= -TIE:
        return None
    moved = weights.copy()
    lead = float(weights @ gap)
    for at in np.argsort(-gap, kind="stable"):
        if lead <= 0 or gap[at] - gap[to] <= 0:
            break
        taken = min(float(weights[at]), lead / float(gap[at] - gap[to]))
        moved[at] -= taken
        moved[to] += taken
        lead -= taken * float(gap[at] - gap[to])
    return moved


@dataclass(frozen=True)
class WeightRange:
    """Between which values of one weight, all others as given, the winner stays first.

    Attributes:
        low, high: on the scale of the given weights; high is infinite where no weight is too much.
        below, above: row of the method that is first beyond each end; None where there is none.
    """

    low: float
    high: float
    below: int | None
    above: int | None


def weight_range(utilities: Floats, weights: Floats, winner: int, criterion: int) -> WeightRange:
    """How much one weight can change alone.

    Args:
        utilities: (methods, criteria).
        weights: (criteria,), on any scale.
        winner: row of the first method.
        criterion: column of the weight.
    """
    gaps = utilities[winner] - utilities
    slope = gaps[:, criterion]
    rest = gaps @ weights - weights[criterion] * slope  # the lead is rest + weight x slope, and not negative as given
    low, high = 0.0, np.inf
    below = above = None
    for rival in range(len(utilities)):
        if slope[rival] > TIE and rest[rival] < 0 and -rest[rival] / slope[rival] > low:
            low, below = float(-rest[rival] / slope[rival]), rival
        if slope[rival] < -TIE and (end := max(0.0, float(-rest[rival] / slope[rival]))) < high:
            high, above = end, rival
    given = float(weights[criterion])  # rounding must not put a tie outside its own range
    return WeightRange(min(low, given), max(high, given), below, above)


def _firsts(scores: Floats) -> Floats:
    """The first place under each of several weights, shared by those that are equal.

    scores: (weights, methods); returns (weights, methods), each row with the sum 1.
    """
    first = scores >= scores.max(axis=1, keepdims=True) - TIE
    shared: Floats = first / first.sum(axis=1, keepdims=True)
    return shared


def _exact_shares(utilities: Floats) -> Floats:
    """With two criteria every score is a straight line in one weight; between two crossings the first one is the same.

    utilities: (methods, 2); returns (methods,).
    """
    start, slope = utilities[:, 1], utilities[:, 0] - utilities[:, 1]
    apart = slope[:, None] - slope[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = ((start[None, :] - start[:, None]) / apart)[apart != 0]
    ends = np.unique(np.concatenate([[0.0, 1.0], crossings[(crossings > 0) & (crossings < 1)]]))
    middles = (ends[:-1] + ends[1:]) / 2
    shares: Floats = np.diff(ends) @ _firsts(start[None, :] + middles[:, None] * slope[None, :])
    return shares
