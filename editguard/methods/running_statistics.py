"""Mean and variance of all vectors ever seen, kept up in chunks; editors normalise what they read by them.

Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from editguard.errors import MethodRefused

SMALLEST_DEVIATION: Final = 1e-7
"""Added to the standard deviation, as MEND's code does: a coordinate that never changes is not divided by zero."""


class RunningStatistics(nn.Module):
    """Statistics per coordinate of vectors (width,); all of their state is saved with the module they belong to.

    Whether there are statistics is told by the count alone. They change when `add` is called, never by normalising.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(width, dtype=torch.float64))  # of the distances from the mean

    def add(self, vectors: Tensor) -> None:
        """Count in a chunk of vectors (vectors, width); the chunk's size makes no difference beyond rounding."""
        if not len(vectors):
            return
        chunk = vectors.detach().to(self.mean)
        total = self.count + len(chunk)
        mean = chunk.mean(0)
        shift = mean - self.mean
        self.squares += ((chunk - mean) ** 2).sum(0) + shift**2 * self.count * len(chunk) / total
        self.mean += shift * len(chunk) / total
        self.count.copy_(total)

    @property
    def deviation(self) -> Tensor:
        """The standard deviation (width,), with denominator k - 1.

        Raises: MethodRefused: fewer than two vectors were seen.
        """
        seen = int(self.count)
        if seen < 2:
            raise MethodRefused(
                f"an editor has seen {seen} tokens, too few to normalise by: train it on more edit cases."
            )
        return (self.squares / (seen - 1)).sqrt()

    def normalised(self, vectors: Tensor) -> Tensor:
        """Return the vectors (vectors, width) with the mean taken off, in standard deviations."""
        scale = self.deviation + SMALLEST_DEVIATION
        return (vectors - self.mean.to(vectors)) / scale.to(vectors)
