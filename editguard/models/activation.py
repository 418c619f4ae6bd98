"""The activation of an MLP, found by what it does, as every family's configuration names it in its own way."""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor
from transformers.activations import ACT2FN

from editguard.models.answer_passes import Pair, whole_answer_passes
from editguard.models.hooks import capture, stop_after
from editguard.models.language_model import LanguageModel

KNOWN: Final = ("relu", "gelu", "gelu_new", "silu", "quick_gelu", "relu2", "tanh", "mish")
"""Names of activations in the library; of two that fit equally well the first is meant."""


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function of that name."""
    function: Callable[[Tensor], Tensor] = ACT2FN[name]
    return function


def fitting_activation(before: Tensor, after: Tensor) -> str | None:
    """Name of the known function that maps `before` to `after`, tensors of one shape; None where none does.

    One fits when it is off by no more than the rounding of the tensors' type, at the largest of the values.
    """
    given, wanted = before.double(), after.double()
    errors = {name: float((activation(name)(given) - wanted).abs().max()) for name in KNOWN}
    best = min(KNOWN, key=lambda name: errors[name])
    tolerance = 4 * max(torch.finfo(after.dtype).eps, torch.finfo(torch.float32).eps)
    return best if errors[best] <= tolerance * max(float(wanted.abs().max()), 1.0) else None


def mlp_activation(model: LanguageModel, layer: int, pairs: Sequence[Pair]) -> str | None:
    """Name of the activation between the up and the down projection of a block's MLP.

    Args:
        pairs: anything that the model can read, in tokens.

    Returns: None where the MLP is gated, so that no such function is, or the function is not a known one.
    """
    anatomy = model.anatomy
    if anatomy.gate_projection(layer) is not None:
        return None
    up, down = anatomy.up_projections(layer)[0].module, anatomy.down_projection(layer).module
    passes = whole_answer_passes(model, pairs)
    with torch.no_grad(), capture(up) as before, capture(down, "input") as after, stop_after(down, "input"):
        passes.logits()
    return fitting_activation(before.value, after.value)
