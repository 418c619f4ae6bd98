"""Training one edit into a side memory: the answer's likelihood, and the activations in and out of scope.

Source: Wang, Li, Zhang et al., "WISE: Rethinking the Knowledge Memory for Lifelong Model Editing of Large Language
Models", NeurIPS 2024, section 2.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editguard.edited.side_memory import Memory, activations, with_difference
from editguard.methods.fine_tuning import target_new_loss
from editguard.models.answer_passes import Pair, answer_passes
from editguard.models.hooks import capture, stop_after

if TYPE_CHECKING:
    from editguard.methods.wise import WiseSettings
    from editguard.models.anatomy import Matrix
    from editguard.models.language_model import LanguageModel

Margins = tuple[float, float, float]
"""(alpha, beta, gamma): most activation out of scope, least in scope, least difference of the two."""


def activation_loss(in_scope: Tensor, out_of_scope: Tensor, margins: Margins) -> Tensor:
    """[D_i - alpha]_+ + [beta - D_e]_+ + [gamma - (D_e - D_i)]_+, elementwise.

    in_scope, out_of_scope: activations D_e and D_i of any shapes that go together.

    Source: equation 6.
    """
    alpha, beta, gamma = margins
    difference = in_scope - out_of_scope
    return (out_of_scope - alpha).relu() + (beta - in_scope).relu() + (gamma - difference).relu()


class Training:
    """The training of one edit: the target's likelihood behind every context, and the activations in and out of scope.

    The matrix's inputs do not depend on the memory: blocks below it run once, and the out-of-scope prompt alone up to
    the matrix.
    """

    def __init__(
        self,
        model: LanguageModel,
        matrix: Matrix,
        pairs: Sequence[Pair],
        locality: Sequence[int],
        settings: WiseSettings,
        margins: Margins,
    ) -> None:
        self._matrix = matrix
        self._settings = settings
        self._margins = margins
        self._targets = [target for _, target in pairs]
        self._passes = answer_passes(model, pairs, settings.layer)
        self._prompt_lengths = torch.tensor([len(prompt) for prompt, _ in pairs])
        self._elsewhere = inputs(model, matrix, locality)

    def run(self, memory: Memory) -> tuple[Tensor, dict[str, Any]]:
        """Return W' - W after the edit, (d_out, d_in), and diagnostics.

        Raises: FloatingPointError: the loss or its gradient became infinite or undefined.
        """
        settings, history = self._settings, list[float]()
        difference, kept = memory.difference(), memory.support.kept()
        kept = kept.to(difference.device)
        for updates in range(settings.steps + 1):
            with torch.enable_grad():
                nll, within, outside = self._evaluate(difference.requires_grad_())
                loss = nll + activation_loss(within, outside, self._margins).mean()
                history.append(float(loss.detach()))
                if not math.isfinite(history[-1]):
                    raise FloatingPointError(f"the loss became {history[-1]} after {updates} updates")
                if self._done(history) or updates == settings.steps:
                    break
                [gradient] = torch.autograd.grad(loss, [difference])
            if not gradient.isfinite().all():
                raise FloatingPointError(f"a gradient became infinite or undefined after {updates} updates")
            difference = stepped(difference.detach(), gradient, kept, settings)
        return difference.detach(), {
            "updates": updates,
            "loss": history[-1],
            "nll": float(nll.detach()),
            "activation": float(within[0].detach()),
            "activation_in_contexts": float(within.detach().mean()),
            "activation_out_of_scope": float(outside.detach()),
        }

    def _done(self, history: Sequence[float]) -> bool:
        settlement = len(history) > 1 and abs(history[-1] - history[-2]) <= self._settings.stop_change
        return history[-1] <= self._settings.stop_below and settlement

    def _evaluate(self, difference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """NLL of the target (nats), activations (rows,) in scope, and the activation out of scope."""
        with self._in_force(difference) as entered:
            nll = target_new_loss(self._passes.logits(), self._targets)
        [entering] = entered
        prompts = torch.arange(entering.shape[1]) < self._prompt_lengths[:, None]
        everywhere = torch.ones(self._elsewhere.shape[:2], dtype=torch.bool)
        within = activations(entering, prompts, difference)
        return nll.to(within.device), within, activations(self._elsewhere, everywhere, difference)[0]

    @contextmanager
    def _in_force(self, difference: Tensor) -> Iterator[list[Tensor]]:
        """Let the matrix compute with W'; its inputs (rows, columns, d_in) are kept."""
        entered: list[Tensor] = []
        rows = len(self._targets)

        def forward(_: object, args: tuple[Any, ...], output: Tensor) -> Tensor:
            entered.append(args[0].detach().reshape(rows, -1, args[0].shape[-1]))
            return with_difference(output, args[0], difference)

        handle = self._matrix.module.register_forward_hook(forward)
        try:
            yield entered
        finally:
            handle.remove()


def stepped(difference: Tensor, gradient: Tensor, kept: Tensor, settings: WiseSettings) -> Tensor:
    """Return W' - W after a step: down the gradient and towards zero, inside the mask, and within the clamp.

    difference, gradient: (d_out, d_in); kept: bool of that shape.
    """
    moved = difference - settings.step_size * (gradient + settings.weight_decay * difference)
    return torch.where(kept, moved.clamp(-settings.clamp, settings.clamp), difference)


def inputs(model: LanguageModel, matrix: Matrix, ids: Sequence[int]) -> Tensor:
    """Return what enters the matrix at every token, (1, tokens, d_in)."""
    row = torch.tensor([list(ids)])
    with torch.no_grad(), capture(matrix.module, "input") as captured, stop_after(matrix.module, "input"):
        model.forward(row, torch.ones_like(row))
    return captured.value.reshape(1, len(ids), -1)
