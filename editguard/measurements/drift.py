"""How a model drifts as edits are added: a property over the checkpoints of a sequence, and where values begin to fall.

A curve is one measurement over pairs of a checkpoint and a probe, so that what a baseline keeps and compares is the
whole curve: a slow drift that no checkpoint shows alone adds up over all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from editguard.edits import content_id
from editguard.errors import ConfigurationError
from editguard.measurements.intervals import SEED
from editguard.measurements.record import CaseValue, Measurement

CURVE: Final = " curve"
"""How the name of what joins all checkpoints ends."""
DRAWS: Final = 2_000
LEVEL: Final = 0.01
FEWEST: Final = 6
"""Points without which no change is looked for."""


def curve(parts: Sequence[Measurement]) -> Measurement:
    """Join the measurements of one property after more and more edits of one sequence into one measurement.

    Args:
        parts: one per checkpoint, in the order of the checkpoints.

    Returns: a measurement named "<property> curve". Each probe counts once per checkpoint at which it was asked; those
        of one edit are correlated, whatever the checkpoint.
    Raises: ConfigurationError: there is none, or they are not of one property and one growing sequence.
    """
    if not parts:
        raise ConfigurationError("a curve needs a measurement at one checkpoint or more.")
    last = parts[-1]
    for before, after in pairwise(parts):
        if (before.name, before.kind, before.method) != (after.name, after.kind, after.method):
            raise ConfigurationError(f"a curve is of one property; {before.title} and {after.title} are two.")
        if before.edits >= after.edits or before.edit_ids != after.edit_ids[: before.edits]:
            raise ConfigurationError(
                "the checkpoints of a curve belong to one growing sequence, in its order; "
                f"{before.edits} and {after.edits} edits are none."
            )
    return replace(
        last,
        name=f"{last.name}{CURVE}",
        protocol="+".join(dict.fromkeys(part.protocol for part in parts)),
        values=tuple(_at(part.edits, value) for part in parts for value in part.values),
        excluded_probes=tuple(_key(part.edits, probe) for part in parts for probe in part.excluded_probes),
    )


def _at(edits: int, value: CaseValue) -> CaseValue:
    after = "1 edit" if edits == 1 else f"{edits} edits"
    return replace(value, probe=_key(edits, value.probe), prompt=f"after {after}: {value.prompt}")


def _key(edits: int, probe: str) -> str:
    return content_id("after", edits, probe)


@dataclass(frozen=True)
class Onset:
    """Where a series begins to change.

    Attributes:
        after: number of edits up to which it is level.
        slope: change per edit from there on, by least squares.
        p_value: of the series in an order drawn at random being fitted as well.
    """

    after: int
    slope: float
    p_value: float


def onset(
    edits: Sequence[int], values: Sequence[float | None], *, rises: bool, draws: int = DRAWS, seed: int = SEED
) -> Onset | None:
    """Find the edit after which values begin to rise, or to fall: a level, then a straight line.

    The line that fits best, over all places at which it can begin, is compared with the best one of the same values in
    orders drawn at random. That tells a trend from noise; in a walk without a trend it would find one too often: it
    describes a series, and decides nothing.

    Args:
        edits: how many edits each value belongs to, ascending.
        values: None ones are left out.
        rises: whether a rise is looked for, or a fall.
        draws: orders drawn.
        seed: the only source of randomness.

    Returns: None where there are fewer than six values, or the change could be chance (p > 0.01).
    Raises: ValueError: both have different lengths, or the numbers of edits do not ascend.
    """
    import numpy as np

    if any(before >= after for before, after in pairwise(edits)):
        raise ValueError("the numbers of edits of a series ascend.")

    points = [(count, value) for count, value in zip(edits, values, strict=True) if value is not None]
    if len(points) < FEWEST:
        return None
    at = np.array([count for count, _ in points], dtype=float)
    level = np.array([value for _, value in points], dtype=float)
    starts = at[:-2]
    lines = np.maximum(0.0, at[None, :] - starts[:, None])
    lines -= lines.mean(axis=1, keepdims=True)
    squares = (lines**2).sum(axis=1)
    sign = 1.0 if rises else -1.0
    centred = sign * (level - level.mean())
    if not np.any(np.abs(centred) > 1e-12):
        return None

    def explained(series: np.ndarray) -> np.ndarray:
        """Sum of squares that each line explains, (starts, series); 0 for one in the other direction."""
        found: np.ndarray = np.maximum(0.0, lines @ series) ** 2 / squares[:, None]
        return found

    seen = explained(centred[:, None])[:, 0]
    best = int(seen.argmax())
    generator = np.random.default_rng(seed)
    orders = generator.permuted(np.tile(centred, (draws, 1)), axis=1).T
    reached = int((explained(orders).max(axis=0) >= seen[best] - 1e-12).sum())
    p_value = (1 + reached) / (1 + draws)
    if p_value > LEVEL:
        return None
    return Onset(int(starts[best]), sign * float(lines[best] @ centred / squares[best]), p_value)
