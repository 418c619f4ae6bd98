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

from editguard.models.answer_rows import AnswerRows, Pair, answer_rows

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

    def gradient(self) -> Tensor:
        """Return the gradient of the sum of all rows' losses, (d_out, d_in)."""
        return self.gradients.T @ self.inputs


@dataclass
class _Calls:
    """What one matrix's module was given and has put out, call by call."""

    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)


def gradient_factors(
    model: LanguageModel, pairs: Sequence[Pair], matrices: Mapping[int, Sequence[Matrix]]
) -> tuple[dict[str, Factors], Tensor]:
    """Return the factors by parameter name, and every row's loss (rows,) in nats.

    A row's loss is the mean negative log-likelihood of its answer's tokens; rows do not share a mean, so that a row's
    factors are those that it has alone.

    Args:
        pairs: prompts and answers.
        matrices: the matrices of each layer.

    Raises: PromptTooLong: a pair does not fit the model's context.
    """
    rows = answer_rows(model, pairs, min(matrices))
    with torch.enable_grad(), tapped(matrices, rows) as calls:
        losses = rows.losses(rows.passes.logits())
        outputs = [output for of_matrix in calls.values() for output in of_matrix.outputs]
        gradients = iter(torch.autograd.grad(losses.sum(), outputs, allow_unused=True))
        found = {
            name: _factors(of_matrix, [next(gradients) for _ in of_matrix.outputs], rows.tokens)
            for name, of_matrix in calls.items()
        }
    return found, losses.detach()


@contextmanager
def tapped(matrices: Mapping[int, Sequence[Matrix]], rows: AnswerRows) -> Iterator[dict[str, _Calls]]:
    """Within the block, keep what enters the matrices at real tokens, and what leaves them, call by call.

    The outputs can be differentiated with respect to; a module that is called several times has all its calls kept.
    """
    found: dict[str, _Calls] = {}
    with ExitStack() as hooks:
        for matrix in (matrix for of_layer in matrices.values() for matrix in of_layer):
            calls = found[matrix.name] = _Calls()

            def tap(module: nn.Module, args: tuple[Tensor, ...], output: Tensor, calls: _Calls = calls) -> Tensor:
                del module
                tokens = rows.tokens.to(output.device)
                calls.inputs.append(_widened(args[0].detach().reshape(*tokens.shape, -1)[tokens]))
                calls.rows.append(tokens.nonzero()[:, 0])
                calls.outputs.append(output if output.requires_grad else output.detach().requires_grad_())
                return calls.outputs[-1].clone()  # what follows may write into it

            hooks.callback(matrix.module.register_forward_hook(tap).remove)
        yield found


def _factors(calls: _Calls, gradients: Sequence[Tensor | None], tokens: Tensor) -> Factors:
    """The factors of a matrix from its calls and the gradients of their outputs, which may not have been needed."""
    inputs, row = torch.cat(calls.inputs), torch.cat(calls.rows)
    deltas = torch.cat(
        [
            _widened(torch.zeros_like(output) if gradient is None else gradient).reshape(*tokens.shape, -1)[
                tokens.to(output.device)
            ]
            for output, gradient in zip(calls.outputs, gradients, strict=True)
        ]
    )
    used = inputs.any(-1) & deltas.any(-1)
    return Factors(inputs[used], deltas[used], row[used], len(tokens))


def _widened(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
