"""What a threshold on a scope classifier's scores does: hits against false hits, on pairs held out of training.

A prompt is a hit where its score is above the threshold. All rates are of single pairs, of a prompt with one edit: a
prompt meets every row of a memory, so that its false hits are the more frequent the more rows there are.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor

RATES: Final = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""False-hit rates for which a record states the threshold."""


@dataclass(frozen=True)
class RocPoint:
    """A threshold, and the shares of pairs in scope and out of scope whose scores are above it."""

    threshold: float
    hits: float
    false_hits: float


def roc_point(in_scope: Tensor, out_of_scope: Tensor, threshold: float) -> RocPoint:
    """Return what a threshold does on scores (pairs,) of either kind."""
    hits, false = (float((scores > threshold).double().mean()) for scores in (in_scope, out_of_scope))
    return RocPoint(threshold, hits, false)


def threshold_for(out_of_scope: Tensor, rate: float) -> float:
    """Return the lowest threshold above which no more than that share of scores (pairs,) lies; at most 1."""
    falling = out_of_scope.sort(descending=True).values
    allowed = int(rate * len(falling) + 1e-9)
    return float(falling[allowed]) if allowed < len(falling) else 0.0


def area(in_scope: Tensor, out_of_scope: Tensor) -> float:
    """Return the chance that a pair in scope has a higher score than one out of scope, ties counted half."""
    rising = out_of_scope.sort().values.contiguous()
    scores = in_scope.contiguous()
    below = torch.searchsorted(rising, scores, side="left") + torch.searchsorted(rising, scores, side="right")
    return float(below.double().mean()) / (2 * len(rising))


def report(in_scope: Tensor, out_of_scope: Tensor) -> dict[str, Any]:
    """Return the counts, the area under the curve, and the point of every rate, plain data."""
    rates = {}
    for rate in RATES:
        threshold = threshold_for(out_of_scope, rate)
        rates[f"{rate:g}"] = asdict(roc_point(in_scope, out_of_scope, threshold))
    return {
        "pairs": {"in_scope": len(in_scope), "out_of_scope": len(out_of_scope)},
        "area": area(in_scope, out_of_scope),
        "at_0.5": asdict(roc_point(in_scope, out_of_scope, 0.5)),
        "at_false_hits": rates,
    }
