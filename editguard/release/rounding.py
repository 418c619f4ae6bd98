"""Weights rounded to what another number type or a few integers can hold, as a reversible change.

Quantisation here is the plain kind, round to nearest: symmetric, a scale for each output row, no calibration. Libraries
that quantise better keep more; an edit that does not survive here is close to what any rounding takes away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from editguard.models.weights import Replacement

if TYPE_CHECKING:
    from editguard.edited import EditedModel
    from editguard.models.language_model import LanguageModel


def rounded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The values that are left of a tensor once it was stored in another type; shape and type stay."""
    return weight.to(dtype).to(weight.dtype)


def scales(weight: Tensor, bits: int) -> Tensor:
    """The step of each output row: its largest magnitude over the largest integer, 2^(bits-1) - 1.

    weight: (d_out, d_in); returns (d_out, 1) in float32 (float64 for a float64 weight). A row of zeros has the step 1.
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    steps = wide.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
    return torch.where(steps > 0, steps, torch.ones_like(steps))


def quantised(weight: Tensor, bits: int) -> Tensor:
    """A matrix rounded to the nearest of 2^bits - 1 multiples of each row's step, and back.

    weight: (d_out, d_in); returns the same shape and type. No entry moves by more than half its row's step (and the
    rounding of its type), and the zeros stay.
    Source: round-to-nearest with an absolute-maximum scale per row, the baseline of Dettmers et al., "LLM.int8()",
    NeurIPS 2022, and Frantar et al., "GPTQ", ICLR 2023.
    """
    step, most = scales(weight, bits), 2 ** (bits - 1) - 1
    return ((weight.to(step.dtype) / step).round().clamp(-most, most) * step).to(weight.dtype)


@dataclass(frozen=True)
class Rounding:
    """What is left of weights, each by itself.

    Attributes:
        label: its name.
        rounds: a parameter's value in the orientation (d_out, d_in), or a vector, to what is left of it.
        matrices: whether it concerns the linear matrices of the blocks alone; otherwise every parameter.
        require: raises a ConfigurationError where something is missing that it needs.
    """

    label: str
    rounds: Callable[[Tensor], Tensor]
    matrices: bool = False
    require: Callable[[], object] | None = None

    def change(self, edited: EditedModel) -> Rounded:
        """Return the change; nothing is computed before it is in force."""
        del edited
        return Rounded(self)


@dataclass(frozen=True, eq=False)
class Rounded:
    """A change that rounds all weights as they are; taken back to the byte.

    While it is in force the model's memory holds each changed tensor three times: as it is, as it was without any
    edit, and as the update.
    """

    by: Rounding

    def install(self, model: LanguageModel) -> None:
        """Change what is there now.

        Raises: MethodRefused: weights are offloaded, or become infinite in the type.
        """
        names = linear_weights(model) if self.by.matrices else [name for name, _ in model.module.named_parameters()]
        model.weights.push({name: Replacement(self.by.rounds(model.weights.present(name))) for name in names})

    def uninstall(self, model: LanguageModel) -> None:
        """Take back the ledger's newest step."""
        model.weights.pop()


def linear_weights(model: LanguageModel) -> list[str]:
    """Names of the weights of all linear modules but the output head and whatever shares its matrix or the embedding's.

    These are what libraries quantise: they leave embeddings, norms, biases and the head in the model's type.
    """
    left = {id(parameter) for part in (model.anatomy.embedding, model.anatomy.head) for parameter in part.parameters()}
    found = {
        id(part.weight): f"{path}.weight"
        for path, part in model.module.named_modules()
        if isinstance(part, nn.Linear | Conv1D) and id(part.weight) not in left
    }
    return list(found.values())
