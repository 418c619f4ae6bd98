"""PMET: optimise what attention and MLP put out together, and write the MLP's part alone.

Source: Li, Li, Song, Yang, Ma, Yu, "PMET: Precise Model Editing in a Transformer", AAAI 2024, section 3, as the
released code computes it: the attention's vector takes part in the optimisation and is then dropped. The order of
updates, the keys and the closed form are MEMIT's; the shares go by square roots.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from editguard.errors import InvalidSettings
from editguard.methods.memit import WeightUnit, derived, ridge
from editguard.methods.residual_spreading import (
    Spreading,
    SpreadingSettings,
    refuse_bad_shrinkage,
    square_root_share,
)
from editguard.methods.settings import Published, Recipe
from editguard.methods.spreading_method import WhitenedSpreading
from editguard.methods.value_optimisation import OnceAnswered
from editguard.methods.whitening import Whitening

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class PmetSettings(SpreadingSettings):
    """Defaults are the released values for GPT-J."""

    layers: tuple[int, ...] = (3, 4, 5, 6, 7, 8)
    """R: the edited blocks, counted from 0, ascending; the targets are at the last one."""
    steps: int = 30
    """Forward passes of the optimisation; one update fewer."""
    step_size: float = 0.2
    """Adam's learning rate for both vectors, dimensionless."""
    drift_weight: float = 1.0
    """Weight of the essence-drift term, a divergence in nats."""
    answered_likelihood_weight: float = 0.1
    """Factor of the target's likelihood in the loss while the target is the likeliest token everywhere."""
    answered_drift: float = 0.01
    """Weighted drift (nats) not above which an edit in that state is done."""
    second_moment_weight: float = 6_000.0
    """lambda: how many remembered facts the second moment stands for against the new ones."""
    weight_unit: WeightUnit = "absolute"
    """The unit of `second_moment_weight`: itself, or multiples of the width of the keys."""
    shrinkage: float = 1e-4
    """a in C' = (1 - a) C + a tr(C)/d_ff I, dimensionless; 0 is the paper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_bad_shrinkage(self.shrinkage)
        if self.second_moment_weight <= 0:
            raise InvalidSettings(f"second_moment_weight is positive, not {self.second_moment_weight}.")
        for name in ("answered_likelihood_weight", "answered_drift"):
            if getattr(self, name) < 0:
                raise InvalidSettings(f"{name} is not negative; got {getattr(self, name)}.")


_PMET = "PMET repository, hparams/PMET"
_EASY = "EasyEdit, hparams/PMET"
_LLAMA = {
    "layers": (4, 5, 6, 7, 8),
    "step_size": 0.5,
    "clamp_factor": 1.0,
    "drift_weight": 0.0625,
    "second_moment_weight": 15_000.0,
}

PUBLISHED = (
    Published("gptj", 28, 4096, _PMET, {"layers": (3, 4, 5, 6, 7, 8), "second_moment_weight": 6_000.0}),
    Published(
        "gpt_neox",
        44,
        6144,
        _PMET,
        {
            "layers": (6, 7, 8, 9, 10),
            "step_size": 0.5,
            "clamp_factor": 0.8,
            "drift_weight": 0.8,
            "second_moment_weight": 15_000.0,
        },
    ),
    Published("llama", 32, 4096, _EASY, {**_LLAMA, "steps": 20}, d_ff=11008),
    Published("llama", 28, 3072, _EASY, {**_LLAMA, "steps": 25}),
)


class Pmet(WhitenedSpreading):
    """All requests in one computation; one low-rank update of each layer's down projection, none of attention."""

    name = "pmet"
    settings_type = PmetSettings
    recipe = Recipe(PmetSettings, PUBLISHED, derived)
    settings: PmetSettings

    def course(self, model: LanguageModel, statistics: Mapping[int, Whitening]) -> Spreading:
        """Ridge regression onto the MLP's part of the targets, in shares that go by square roots."""
        settings = self.settings
        return Spreading(
            method=self.name,
            settings=settings,
            provenance=self.provenance,
            place="attention and mlp",
            gain=ridge(model, statistics, settings.second_moment_weight, settings.weight_unit),
            share=square_root_share,
            once_answered=OnceAnswered(
                likelihood_weight=settings.answered_likelihood_weight,
                stop_below_drift=settings.answered_drift,
            ),
        )
