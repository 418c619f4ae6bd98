"""The gradient of an edit's loss with respect to weight matrices, as the factors that it is made of.

For a matrix with y = W x the gradient is dL/dW = sum over tokens of delta_t u_t^T, where u_t (d_in,) is what enters at
token t, and delta_t (d_out,) the gradient of the loss with respect to what leaves. Trained editors read these factors.
Only modules' outputs are differentiated: no parameter gets a gradient, and no block below the lowest edited one runs
with gradients.

Source: Mitchell, Lin, Bosselut, Finn, Manning, "Fast Model Editing at Scale", ICLR 2022, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from editguard.models.answer_rows import AnswerRows, TextPair, answer_rows

if TYPE_CHECKING:
    from editguard.models.anatomy import Matrix
    from editguard.models.language_model import LanguageModel


@dataclass(frozen=True, eq=False)
class Factors:
    """The factors of one matrix's gradients over a batch of rows, each row's loss being its own.

    Tokens where one of the two vectors is zero are left out: they add nothing to the gradient. These are padding, and
    in the last block all tokens that no read position attends to.

    Attributes:
        inputs: u, (tokens, d_in), at least float32.
        gradients: delta, (tokens, d_out), likewise.
        row: (tokens,), int64, the row that a token belongs to.
        rows: how many rows there are.
    """

    inputs: Tensor
    gradients: Tensor
    row: Tensor
    rows: int

    def to(self, device: torch.device) -> Factors:
        """The same factors there."""
        return Factors(self.inputs.to(device), self.gradients.to(device), self.row.to(device), self.rows)

    def gradient(self) -> Tensor:
        """Return the gradient of the sum of all rows' losses, (d_out, d_in)."""
        return self.gradients.T @ self.inputs


@dataclass(eq=False)
class _Calls:
    """What one matrix's module was given at real tokens and has put out, call by call.

    tokens: (rows, columns), bool, the real ones among those that it sees.
    """

    tokens: Tensor
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    def tap(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """A forward hook: keep the call, and make its output one that can be differentiated with respect to."""
        del module
        self.inputs.append(self._real(args[0].detach()))
        self.outputs.append(output if output.requires_grad else output.detach().requires_grad_())
        return self.outputs[-1].clone()  # what follows may write into it

    def factors(self, gradients: Sequence[Tensor | None]) -> Factors:
        """The factors from the gradients of the outputs; None for one that the loss does not depend on."""
        pairs = zip(self.outputs, gradients, strict=True)
        deltas = [torch.zeros_like(output) if gradient is None else gradient for output, gradient in pairs]
        inputs, delta = torch.cat(self.inputs), torch.cat([self._real(each) for each in deltas])
        row = self.tokens.nonzero()[:, 0].repeat(len(deltas)).to(inputs.device)
        used = inputs.any(-1) & delta.any(-1)
        return Factors(inputs[used], delta[used], row[used], len(self.tokens))

    def _real(self, values: Tensor) -> Tensor:
        """The vectors at real tokens, (tokens, width), at least float32; rows may come flattened with their tokens."""
        grid = values.reshape(*self.tokens.shape, -1)
        return grid[self.tokens.to(values.device)].to(torch.promote_types(values.dtype, torch.float32))


def gradient_factors(
    model: LanguageModel,
    pairs: Sequence[TextPair],
    matrices: Mapping[int, Sequence[Matrix]],
    *,
    device: torch.device | None = None,
) -> tuple[dict[str, Factors], Tensor]:
    """Return the factors by parameter name, and every row's loss (rows,) in nats.

    A row's loss is the mean negative log-likelihood of its answer's tokens; rows do not share a mean, so that a row's
    factors are those that it has alone.

    Args:
        pairs: prompts and answers.
        matrices: the matrices of each layer.
        device: where the factors are wanted, as by an editor that reads those of all matrices; None leaves each where
            its matrix is.

    Raises: PromptTooLong: a pair does not fit the model's context.
    """
    rows = answer_rows(model, pairs, min(matrices))
    with torch.enable_grad(), tapped(matrices, rows) as calls:
        losses = rows.losses(rows.passes.logits())
        outputs = [output for of_matrix in calls.values() for output in of_matrix.outputs]
        gradients = iter(torch.autograd.grad(losses.sum(), outputs, allow_unused=True))
        found = {name: each.factors([next(gradients) for _ in each.outputs]) for name, each in calls.items()}
    there = found if device is None else {name: each.to(device) for name, each in found.items()}
    return there, losses.detach()


@contextmanager
def tapped(matrices: Mapping[int, Sequence[Matrix]], rows: AnswerRows) -> Iterator[dict[str, _Calls]]:
    """Within the block, keep what enters the matrices at real tokens, and what leaves them, call by call."""
    found: dict[str, _Calls] = {}
    with ExitStack() as hooks:
        for layer, of_layer in matrices.items():
            for matrix in of_layer:
                found[matrix.name] = _Calls(rows.tokens(layer))
                hooks.callback(matrix.module.register_forward_hook(found[matrix.name].tap).remove)
        yield found
