"""MEMIT: write many facts at once into the down projections of a few consecutive layers.

Source: Meng, Sen Sharma, Andonian, Belinkov, Bau, "Mass-Editing Memory in a Transformer", ICLR 2023, equations 14 to 20
and algorithm 1. The option that earlier edits' keys are kept too is the MEMIT-seq of the AlphaEdit paper (Fang et al.
2025).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from editguard.errors import InvalidSettings
from editguard.methods.residual_spreading import (
    Gain,
    Spreading,
    SpreadingSettings,
    block_or_mlp,
    derived_layers,
    refuse_bad_shrinkage,
)
from editguard.methods.settings import Published, Recipe
from editguard.methods.spreading_method import WhitenedSpreading
from editguard.methods.whitening import Whitening

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel

WeightUnit = Literal["absolute", "d_ff"]
"""What a weight of the second moment counts: itself, or multiples of the width of the keys."""


@dataclass(frozen=True, kw_only=True)
class MemitSettings(SpreadingSettings):
    """Symbols as in the paper; defaults are the released values for GPT-2 XL."""

    second_moment_weight: float = 20_000.0
    """lambda: how many remembered facts the second moment stands for against the new ones."""
    weight_unit: WeightUnit = "absolute"
    """The unit of `second_moment_weight`. The mean of k^T C^-1 k over text is d_ff, so that lambda in that unit means
    the same for models of every width."""
    shrinkage: float = 1e-4
    """a in C' = (1 - a) C + a tr(C)/d_ff I, dimensionless; 0 is the paper."""
    keep_earlier_keys: bool = False
    """Whether the keys of this chain's earlier edits are held like the remembered ones (MEMIT-seq)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_bad_shrinkage(self.shrinkage)
        if self.second_moment_weight <= 0:
            raise InvalidSettings(f"second_moment_weight is positive, not {self.second_moment_weight}.")


_MEMIT = "MEMIT repository, hparams/MEMIT"
_EASY = "EasyEdit, hparams/MEMIT"
_LIGHT = {"steps": 25, "weight_decay": 1e-3, "clamp_factor": 4.0, "second_moment_weight": 15_000.0}
_FOUR_TO_EIGHT = {"layers": (4, 5, 6, 7, 8)}

PUBLISHED = (
    Published("gpt2", 48, 1600, _MEMIT, {"layers": (13, 14, 15, 16, 17), "second_moment_weight": 20_000.0}),
    Published("gptj", 28, 4096, _MEMIT, {"layers": (3, 4, 5, 6, 7, 8), "steps": 25, "second_moment_weight": 15_000.0}),
    Published(
        "gpt_neox",
        44,
        6144,
        "PMET repository, hparams/MEMIT",
        {"layers": (6, 7, 8, 9, 10), "clamp_factor": 0.8, "second_moment_weight": 6_000.0},
    ),
    Published("llama", 32, 4096, _EASY, {**_FOUR_TO_EIGHT, **_LIGHT}, d_ff=11008),
    Published(
        "llama",
        32,
        4096,
        "AlphaEdit repository, hparams/MEMIT",
        {**_FOUR_TO_EIGHT, "steps": 25, "step_size": 0.1, "second_moment_weight": 15_000.0},
        d_ff=14336,
    ),
    Published("llama", 28, 3072, _EASY, {**_FOUR_TO_EIGHT, **_LIGHT}),
    Published("mistral", 32, 4096, _EASY, {**_FOUR_TO_EIGHT, **_LIGHT}),
    Published("qwen2", 28, 3584, _EASY, {**_FOUR_TO_EIGHT, **_LIGHT}),
)


def derived(layers: int) -> Mapping[str, tuple[Any, str]]:
    """Return the settings for a model that no source speaks of."""
    rule = "the width of the keys, as published for models from 6,400 to 24,576 wide (0.2 to 3 widths)"
    return {
        "layers": derived_layers(layers),
        "second_moment_weight": (1.0, rule),
        "weight_unit": ("d_ff", rule),
    }


def ridge_gain(keys: Tensor, whitening: Whitening, weight: float, earlier: Tensor) -> Tensor:
    """A = (lambda C + K_e K_e^T + K K^T)^-1 K, by way of C^-1 K alone.

    With G = [K, K_e]: (lambda C + G G^T)^-1 G = C^-1 G (lambda I + G^T C^-1 G)^-1, of which the first columns are
    wanted. One factorisation of C serves every batch, and what is left to solve has as many rows as there are keys.

    Args:
        keys: K, (d_ff, edits), float64.
        whitening: the factorised C, (d_ff, d_ff).
        weight: lambda, positive.
        earlier: K_e, (d_ff, any number).

    Returns: A, (d_ff, edits); the update is R A^T for residuals R (d_model, edits).
    """
    together = torch.cat([keys, earlier], dim=1)
    whitened = whitening.solve(together)
    gram = together.T @ whitened
    system = (gram + gram.T) / 2 + weight * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    wanted = torch.eye(len(gram), keys.shape[1], dtype=gram.dtype, device=gram.device)
    return whitened @ torch.cholesky_solve(wanted, torch.linalg.cholesky(system))


def ridge(
    model: LanguageModel, whitenings: Mapping[int, Whitening], weight: float, unit: WeightUnit
) -> Callable[[int, Tensor, Tensor], Gain]:
    """Return how each layer takes up its share by `ridge_gain`, for a weight of the second moment in that unit."""
    absolute = weight * (model.anatomy.d_ff if unit == "d_ff" else 1)

    def gain(layer: int, keys: Tensor, earlier: Tensor) -> Gain:
        factor = ridge_gain(keys, whitenings[layer], absolute, earlier)
        return Gain(factor, {"second_moment": dict(whitenings[layer].record), "second_moment_weight": absolute})

    return gain


class Memit(WhitenedSpreading):
    """All requests in one computation; one low-rank update of each layer's down projection."""

    name = "memit"
    settings_type = MemitSettings
    recipe = Recipe(MemitSettings, PUBLISHED, derived)
    settings: MemitSettings

    def course(self, model: LanguageModel, statistics: Mapping[int, Whitening]) -> Spreading:
        """Ridge regression onto the targets at the block's output, in equal shares."""
        settings = self.settings
        return Spreading(
            method=self.name,
            settings=settings,
            provenance=self.provenance,
            place=block_or_mlp(model),
            gain=ridge(model, statistics, settings.second_moment_weight, settings.weight_unit),
            remembers_keys=settings.keep_earlier_keys,
        )
