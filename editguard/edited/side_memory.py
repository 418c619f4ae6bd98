"""Side memories of one matrix: copies of it that edits have changed, one of which answers the prompts that stir it.

Source: Wang, Li, Zhang et al., "WISE: Rethinking the Knowledge Memory for Lifelong Model Editing of Large Language
Models", NeurIPS 2024, section 2.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from editguard.edited.routed import RoutedChange

if TYPE_CHECKING:
    from editguard.models.anatomy import Matrix
    from editguard.models.reading import Reading


@dataclass(frozen=True, eq=False)
class Support:
    """Which entries of a matrix may differ from zero: one bit each.

    Attributes:
        shape: of the matrix, (d_out, d_in).
        bits: in row-major order, eight entries per byte, the first in the highest bit; uint8.
    """

    shape: tuple[int, int]
    bits: Tensor

    @classmethod
    def of(cls, kept: Tensor) -> Support:
        """Return the entries that `kept`, bool (d_out, d_in), names."""
        rows, columns = kept.shape
        return cls((rows, columns), torch.from_numpy(np.packbits(kept.cpu().numpy())))

    @classmethod
    def drawn(cls, shape: tuple[int, int], ratio: float, seed: int) -> Support:
        """Return entries drawn one by one with the probability `ratio`; the same seed gives the same."""
        return cls.of(torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < ratio)

    def kept(self) -> Tensor:
        """The entries as bool (d_out, d_in), in main memory."""
        flat = np.unpackbits(self.bits.numpy(), count=math.prod(self.shape))
        return torch.from_numpy(flat).reshape(self.shape).bool()


@dataclass(frozen=True, eq=False)
class Memory:
    """One side memory W', as its difference from the matrix W.

    Attributes:
        support: where it may differ; shared by the versions of a memory.
        values: (entries of the support,), W' - W there in row-major order, at least float32.
        threshold: epsilon; the memory answers prompts whose activation reaches it.
    """

    support: Support
    values: Tensor
    threshold: float

    @classmethod
    def of(cls, difference: Tensor, support: Support, threshold: float) -> Memory:
        """Return the memory with a dense difference (d_out, d_in), all of which lies in the support."""
        kept = support.kept().to(difference.device)
        return cls(support, difference.detach()[kept], threshold)

    def difference(self) -> Tensor:
        """W' - W, dense (d_out, d_in)."""
        dense = self.values.new_zeros(self.support.shape)
        dense[self.support.kept().to(dense.device)] = self.values
        return dense


def activations(entering: Tensor, prompts: Tensor, difference: Tensor) -> Tensor:
    """Return how much a memory stirs at each row, (rows,): the mean of ||(W' - W) a|| over the prompt's tokens.

    Args:
        entering: a, the matrix's input, (rows, columns, d_in).
        prompts: (rows, columns), bool: the prompts' tokens; whatever else there is does not count.
        difference: W' - W, (d_out, d_in), at least float32.

    Source: equation 5, for a sequence the mean over its tokens. A bias cancels.
    """
    prompts = prompts.to(entering.device)
    at_prompts = entering[prompts].to(difference.dtype)  # (tokens, d_in)
    norms = torch.linalg.vector_norm(at_prompts @ difference.T, dim=-1)
    row_of_token = prompts.nonzero()[:, 0]
    totals = torch.zeros(len(prompts), dtype=norms.dtype, device=norms.device).index_add(0, row_of_token, norms)
    return totals / prompts.sum(dim=1)


class SideMemory(RoutedChange):
    """All side memories of one matrix after an edit; the state that the next edit goes on from.

    Args:
        closed: memories that are finished.
        current: the memory that edits go into; None where none has since the last one was closed.
        edits: how many edits `current` holds.
        shards: how many memories have been begun, closed and merged ones included.
    """

    def __init__(
        self, matrix: Matrix, closed: Sequence[Memory], current: Memory | None, *, edits: int, shards: int
    ) -> None:
        super().__init__(matrix)
        self.closed = tuple(closed)
        self.current = current
        self.edits = edits
        self.shards = shards
        self._differences: list[Tensor] | None = None

    @property
    def memories(self) -> tuple[Memory, ...]:
        """The closed memories, and the current one."""
        return self.closed if self.current is None else (*self.closed, self.current)

    def stored_tensors(self) -> list[Tensor]:
        """The memories' values and supports."""
        return [tensor for memory in self.memories for tensor in (memory.values, memory.support.bits)]

    def decide(self, entering: Tensor, reading: Reading) -> list[int]:
        """Return the memory that the prompt stirs most among those that it stirs enough, else -1."""
        assert reading.prompts is not None
        best = [(0.0, -1)] * len(entering)
        for number, memory in enumerate(self.memories):
            stirred = activations(entering, reading.prompts, self._difference(number, entering)).tolist()
            best = [
                (activation, number) if activation >= memory.threshold and activation > most else (most, chosen)
                for activation, (most, chosen) in zip(stirred, best, strict=True)
            ]
        return [chosen for _, chosen in best]

    def act(self, entering: Tensor, output: Tensor, decided: Tensor, reading: Reading) -> Tensor | None:
        """Add (W' - W) a to the output of the rows that a memory answers, at all of their tokens."""
        del reading
        changed = output.clone()
        for number in sorted({number for number in decided.tolist() if number >= 0}):
            rows = (decided == number).nonzero()[:, 0].to(output.device)
            changed[rows] = with_difference(output[rows], entering[rows], self._difference(number, entering))
        return changed

    def _difference(self, number: int, like: Tensor) -> Tensor:
        if self._differences is None:
            self._differences = [memory.difference().to(like.device) for memory in self.memories]
        return self._differences[number]

    def _rest(self) -> None:
        super()._rest()
        self._differences = None  # dense copies are for the version in force alone


def with_difference(output: Tensor, entering: Tensor, difference: Tensor) -> Tensor:
    """Return W' a (+ b) from W a (+ b), in the output's type; the sum is formed in the difference's."""
    return (output.to(difference.dtype) + entering.to(difference.dtype) @ difference.T).to(output.dtype)
