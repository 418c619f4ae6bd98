"""What so many cases can show, and how many cases a question needs."""

from __future__ import annotations

from math import ceil, log2, sqrt
from typing import Final, Literal

from editguard.comparison.limits import constrained_gains
from editguard.measurements.intervals import normal_quantile

POWER: Final = 0.8
_TOLERANCE: Final = 1e-12
_UNCOUNTED: Final = 1e12


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
    cases: int, discordance: float, *, alpha: float = 0.05, power: float = POWER, sides: Literal[1, 2] = 2
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
    if _cases_for(discordance, discordance, alpha=alpha, power=power, sides=sides) > cases:
        return None
    low, high = 1e-9, discordance
    for _ in range(100):
        middle = (low + high) / 2
        enough = _cases_for(middle, discordance, alpha=alpha, power=power, sides=sides) <= cases
        low, high = (low, middle) if enough else (middle, high)
    return high


def cases_needed(
    drop: float, discordance: float, *, alpha: float = 0.05, power: float = POWER, sides: Literal[1, 2] = 2
) -> int | None:
    """How many cases McNemar's test needs to find a drop with the wanted power: `smallest_detectable_drop` inverted.

    Args:
        drop: net share of cases that get worse, above 0.
        discordance: share of cases that flip either way.
        alpha, power, sides: as there.

    Returns: a number of cases; None where the drop is larger than the discordance, which no number mends.
    Source: Connor, as there.
    """
    if not 0 < drop <= discordance <= 1:
        return None
    return _whole(_cases_for(drop, discordance, alpha=alpha, power=power, sides=sides))


def _cases_for(drop: float, discordance: float, *, alpha: float, power: float, sides: Literal[1, 2]) -> float:
    level, wanted = normal_quantile(1 - alpha / sides), normal_quantile(power)
    root = (level * sqrt(discordance) + wanted * sqrt(discordance - drop * drop)) / drop
    return root * root


def cases_to_hold(
    minimum_effect: float, square: float, *, level: float = 0.95, power: float = POWER, graded: bool = False
) -> int | None:
    """How many cases show that the model is not worse by the minimum effect, where it is not worse at all.

    Args:
        minimum_effect: the drop to rule out, above 0.
        square: mean square of a case's change; of binary values the share that flips either way.
        level: of the one-sided limit that must lie below the minimum effect.
        power: chance that it does.
        graded: whether cases change by degrees.

    Returns: a number of unrelated cases; None where there is no drop to rule out.
    Source: Nam, "Establishing equivalence of two treatments and sample size requirements in matched-pairs design",
        Biometrics 53 (1997), for the score statistic; with its correction by half a case.
    """
    if minimum_effect <= 0:
        return None
    if graded:
        spread, half = square, 0.0
    else:
        gaining = constrained_gains(square / 2, square / 2, 1.0, minimum_effect)
        spread, half = 2 * gaining + minimum_effect * (1 - minimum_effect), 0.5
    reach = normal_quantile(level) * sqrt(spread) + normal_quantile(power) * sqrt(square)
    root = (reach + sqrt(reach * reach + 4 * minimum_effect * half)) / (2 * minimum_effect)
    return _whole(root * root)


def _whole(cases: float) -> int | None:
    """At least one; None for more than anybody counts."""
    return max(1, ceil(cases - 1e-9)) if cases < _UNCOUNTED else None


def cases_to_settle(
    minimum_effect: float, square: float, *, alpha: float = 0.05, power: float = POWER, graded: bool = False
) -> int | None:
    """How many cases tell "not worse at all" from "worse by the minimum effect", each with the wanted power.

    Args:
        minimum_effect: the smallest drop that counts.
        square, graded: as for `cases_to_hold`; they are taken to stay as they are.
        alpha: one-sided level of the test for "worse", divided by the number of checks.
        power: chance of either finding, of the second that the test is significant.

    Returns: a number of unrelated cases; None where no drop is too small to count, which no number settles.
    """
    hold = cases_to_hold(minimum_effect, square, power=power, graded=graded)
    flips = min(1.0, max(square, minimum_effect**2) if graded else square)
    find = cases_needed(minimum_effect, flips, alpha=alpha, power=power, sides=1)
    return None if hold is None else max(hold, find or 0)


def minimum_detectable_effect(
    cases: float,
    square: float,
    *,
    alpha: float = 0.05,
    power: float = POWER,
    minimum_effect: float = 0.0,
    graded: bool = False,
) -> float | None:
    """The smallest true drop that a one-sided check finds with the wanted power.

    Found is a drop that is significant and, as it is seen, no smaller than the minimum effect. A true drop of the
    minimum effect alone is therefore found in half of the runs at most, whatever their size.

    Args:
        cases: number of unrelated cases.
        square: mean square of a case's change; of binary values the share that flips either way. A drop that is
            larger than this share brings the flips that it is made of.
        alpha: level of the test; divide it by the number of checks first.
        power: chance of finding the drop.
        minimum_effect: the smallest seen drop that counts.
        graded: whether cases change by degrees.

    Returns: unit: as the values'; None where no drop would be found so often.
    """
    level, wanted = normal_quantile(1 - alpha), normal_quantile(power)

    def found(drop: float) -> bool:
        flips = max(square, drop * drop if graded else drop)
        threshold = max(level * sqrt(flips / cases), minimum_effect)
        return threshold + wanted * sqrt(max(0.0, flips - drop * drop) / cases) <= drop

    low, high = 0.0, 1.0
    while graded and not found(high) and high < 1e9:
        low, high = high, 2 * high
    if not found(high):
        return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high
