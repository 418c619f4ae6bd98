"""EMMET: ROME's exact insertion for many facts at once.

Source: Gupta, Sajnani, Anumanchipalli, "A Unified Framework for Model Editing", Findings of EMNLP 2024, section 3.3.
The released code adds `emmet_lambda` = 0.1 to the system and multiplies C by `second_moment_weight`; that is MEMIT
with lambda = emmet_lambda x second_moment_weight, and the constraint is then no longer met. Here the paper's
constraint is the default; `emmet_lambda = 0.1` gives the method as it was released.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from editguard.errors import InvalidSettings
from editguard.methods.memit import ridge_gain
from editguard.methods.residual_spreading import (
    Gain,
    Spreading,
    SpreadingSettings,
    block_or_mlp,
    refuse_bad_shrinkage,
)
from editguard.methods.settings import Published, Recipe
from editguard.methods.spreading_method import WhitenedSpreading
from editguard.methods.whitening import Whitening

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel

NEARLY_DEPENDENT: Final = 1e-8
"""The part of a key's whitened square length that the other keys leave unexplained, below which it counts as one of
their combinations: keys are known to single precision, and this is the square of its rounding, amplified."""


@dataclass(frozen=True, kw_only=True)
class EmmetSettings(SpreadingSettings):
    """Defaults are the released values for GPT-2 XL, but for `emmet_lambda`."""

    layers: tuple[int, ...] = (17,)
    """The edited blocks, counted from 0, ascending; one in the paper."""
    emmet_lambda: float = 0.0
    """mu: 0 is the paper's equality constraint; 0.1 is the method as it was released, which is a MEMIT."""
    second_moment_weight: float = 10_000.0
    """w: what C is multiplied with; it cancels unless `emmet_lambda` is positive."""
    shrinkage: float = 1e-4
    """a in C' = (1 - a) C + a tr(C)/d_ff I, dimensionless; 0 is the paper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_bad_shrinkage(self.shrinkage)
        if self.emmet_lambda < 0:
            raise InvalidSettings(f"emmet_lambda is not negative; got {self.emmet_lambda}.")
        if self.second_moment_weight <= 0:
            raise InvalidSettings(f"second_moment_weight is positive, not {self.second_moment_weight}.")


_EASY = "EasyEdit, hparams/EMMET (there with emmet_lambda = 0.1)"
_LLAMA = {
    "layers": (5,),
    "steps": 25,
    "weight_decay": 1e-3,
    "clamp_factor": 4.0,
    "second_moment_weight": 100_000.0,
}

PUBLISHED = (
    Published("gpt2", 48, 1600, _EASY, {"layers": (17,), "second_moment_weight": 10_000.0}),
    Published("gptj", 28, 4096, _EASY, {"layers": (5,), "steps": 25, "second_moment_weight": 100_000.0}),
    Published("llama", 32, 4096, _EASY, _LLAMA, d_ff=11008),
    Published("llama", 28, 3072, _EASY, _LLAMA),
)


def derived(layers: int) -> Mapping[str, tuple[Any, str]]:
    """Return the layer for a model that no source speaks of: ROME's, a third of the depth."""
    return {"layers": ((layers // 3,), "a third of the blocks, ROME's layer")}


def exact_gain(keys: Tensor, whitening: Whitening) -> tuple[Tensor, int]:
    """A = C^-1 K (K^T C^-1 K)^-1, so that R A^T maps every key to its residual and disturbs remembered keys least.

    The system is scaled to a diagonal of ones and factorised. Where some key is a combination of the others, exact
    insertion is impossible in general, and the pseudo-inverse takes the system's place.

    Args:
        keys: K, (d_ff, edits), float64.
        whitening: the factorised C, (d_ff, d_ff); its scale cancels.

    Returns: A, (d_ff, edits), and how many independent directions the keys have.
    """
    whitened = whitening.solve(keys)
    gram = keys.T @ whitened
    scale = gram.diagonal().clamp_min(torch.finfo(gram.dtype).tiny).rsqrt()
    system = scale[:, None] * (gram + gram.T) / 2 * scale
    lower, failed = torch.linalg.cholesky_ex(system)
    if not failed and bool((lower.diagonal() ** 2 > NEARLY_DEPENDENT).all()):
        identity = torch.eye(len(system), dtype=system.dtype, device=system.device)
        return whitened * scale @ torch.cholesky_solve(identity, lower) * scale, len(system)
    values, directions = torch.linalg.eigh(system)
    usable = values > NEARLY_DEPENDENT
    inverse = directions[:, usable] / values[usable] @ directions[:, usable].T
    return whitened * scale @ inverse * scale, int(usable.sum())


class Emmet(WhitenedSpreading):
    """All requests in one computation; one low-rank update of each layer's down projection."""

    name = "emmet"
    settings_type = EmmetSettings
    recipe = Recipe(EmmetSettings, PUBLISHED, derived)
    settings: EmmetSettings

    def course(self, model: LanguageModel, statistics: Mapping[int, Whitening]) -> Spreading:
        """Exact insertion of the targets, or MEMIT's ridge where `emmet_lambda` is positive."""
        settings = self.settings

        def gain(layer: int, keys: Tensor, earlier: Tensor) -> Gain:
            report: dict[str, Any] = {"second_moment": dict(statistics[layer].record)}
            if settings.emmet_lambda > 0:
                weight = settings.emmet_lambda * settings.second_moment_weight
                return Gain(ridge_gain(keys, statistics[layer], weight, earlier), report)
            factor, rank = exact_gain(keys, statistics[layer])
            if rank < keys.shape[1]:
                warnings.warn(
                    f"emmet: the {keys.shape[1]} keys of layer {layer} have only {rank} independent directions, so "
                    "that not every edit can be inserted exactly: prompts that begin alike up to the end of one "
                    "subject have one key.",
                    RuntimeWarning,
                    stacklevel=5,
                )
            return Gain(factor, {**report, "independent_keys": rank})

        return Spreading(
            method=self.name,
            settings=settings,
            provenance=self.provenance,
            place=block_or_mlp(model),
            gain=gain,
        )
