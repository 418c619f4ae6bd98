"""Letting linear modules compute with changed weights without touching any weight: low-rank changes, one per row.

An editor that is trained needs the gradient of the edited model's loss with respect to the change itself. Here the
change acts on the output, y + (x right^T) left for each row of the pass, so that no changed matrix is ever made and
many edits run side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from editguard.models.weights import LowRank

if TYPE_CHECKING:
    from editguard.models.anatomy import Matrix


@dataclass(frozen=True, eq=False)
class RowShifts:
    """Changes of one matrix W (d_out, d_in), one for each edit: the sum of left_i right_i^T over the edit's terms.

    Attributes:
        left: (terms, d_out).
        right: (terms, d_in).
        edit: (terms,), int64, the edit that a term belongs to.
        edits: how many edits there are; one without terms changes nothing.
    """

    left: Tensor
    right: Tensor
    edit: Tensor
    edits: int

    def together(self) -> LowRank:
        """Return the sum of all edits' changes."""
        return LowRank(self.left.T, self.right.T)

    def alone(self, number: int) -> LowRank:
        """Return one edit's change."""
        own = self.edit == number
        return LowRank(self.left[own].T, self.right[own].T)

    def padded(self) -> tuple[Tensor, Tensor]:
        """Return left (edits, most terms, d_out) and right (edits, most terms, d_in), with zeros where terms lack."""
        counts = torch.bincount(self.edit, minlength=self.edits)
        order = torch.argsort(self.edit, stable=True)
        owner = self.edit[order]
        column = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[owner]
        most = int(counts.max()) if self.edits else 0

        def spread(terms: Tensor) -> Tensor:
            room = terms.new_zeros(self.edits, most, terms.shape[1])
            return room.index_put((owner, column), terms[order])

        return spread(self.left), spread(self.right)


@contextmanager
def shifted(changes: Iterable[tuple[Matrix, RowShifts]], edit_of_row: Tensor) -> Iterator[None]:
    """Within the block, each row of a pass meets the matrices as its edit has changed them.

    Args:
        changes: a matrix, and its changes by edit; gradients flow into them.
        edit_of_row: (rows of the pass,), int64.
    """
    with ExitStack() as hooks:
        for matrix, shifts in changes:
            left, right = (each[edit_of_row.to(each.device)] for each in shifts.padded())
            hooks.callback(matrix.module.register_forward_hook(partial(_plus, left, right)).remove)
        yield


def _plus(left: Tensor, right: Tensor, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """The output plus every row's own change of it; rows may come flattened with their tokens."""
    del module
    entering = args[0].reshape(len(right), -1, right.shape[-1]).to(right.device, right.dtype)
    change = (entering @ right.mT) @ left
    return output + change.reshape(output.shape).to(output.device, output.dtype)
