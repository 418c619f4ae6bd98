"""AlphaEdit: write facts only where remembered keys have next to nothing, so that their outputs stay.

Each layer's second moment is split into directions that the keys of running text use and directions that they hardly
use; the update is confined to the latter, and there solves a ridge problem in which the keys of the chain's earlier
edits are held too.

Source: Fang, Jiang, Wang, Ma, Shi, Wang, He, Chua, "AlphaEdit: Null-Space Constrained Knowledge Editing for Language
Models", ICLR 2025, equations 11 to 14; targets, keys and shares are MEMIT's.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from editguard.errors import InvalidSettings, MethodRefused
from editguard.methods.residual_spreading import (
    Gain,
    Spreading,
    SpreadingSettings,
    block_or_mlp,
    derived_layers,
)
from editguard.methods.settings import Published, Recipe
from editguard.methods.spreading_method import SpreadingMethod

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel
    from editguard.models.second_moment import SecondMoment

Unit = Literal["absolute", "relative"]
"""Whether a number counts itself, or multiples of the mean eigenvalue tr(C)/d_ff: the mean square of a coordinate."""


@dataclass(frozen=True, kw_only=True)
class AlphaEditSettings(SpreadingSettings):
    """Defaults are the released values for GPT-2 XL."""

    nullspace_threshold: float = 2e-2
    """Eigenvalue of C below which a direction is free for edits; see `unit`."""
    regulariser: float = 10.0
    """Weight of ||Delta||^2; see `unit`."""
    unit: Unit = "absolute"
    """The unit of `nullspace_threshold` and `regulariser`. Absolute numbers depend on the scale of a model's keys."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nullspace_threshold < 0:
            raise InvalidSettings(f"nullspace_threshold is not negative; got {self.nullspace_threshold}.")
        if self.regulariser <= 0:
            raise InvalidSettings(f"regulariser is positive, not {self.regulariser}.")


_ALPHA = "AlphaEdit repository, hparams/AlphaEdit"
_EASY = "EasyEdit, hparams/AlphaEdit"
_FOUR_TO_EIGHT = {"layers": (4, 5, 6, 7, 8), "steps": 25}

PUBLISHED = (
    Published("gpt2", 48, 1600, _ALPHA, {"layers": (13, 14, 15, 16, 17), "steps": 20}),
    Published("gptj", 28, 4096, _ALPHA, {"layers": (3, 4, 5, 6, 7, 8), "steps": 25}),
    Published("llama", 32, 4096, _ALPHA, {**_FOUR_TO_EIGHT, "step_size": 0.1}, d_ff=14336),
    Published(
        "qwen2",
        28,
        3584,
        _EASY,
        {**_FOUR_TO_EIGHT, "weight_decay": 1e-3, "clamp_factor": 4.0, "regulariser": 1.0},
    ),
)


def derived(layers: int) -> Mapping[str, tuple[Any, str]]:
    """Return the settings for a model that no source speaks of."""
    scale = "the published numbers are absolute and belong to their models' scale of keys; this one goes by C's own"
    return {
        "layers": derived_layers(layers),
        "nullspace_threshold": (0.1, scale),
        "regulariser": (1.0, scale),
        "unit": ("relative", scale),
    }


@dataclass(frozen=True, eq=False)
class NullSpace:
    """The directions of a layer's keys that running text hardly uses.

    Attributes:
        basis: orthonormal columns, (d_ff, columns), float64: those directions, or, where they are fewer, the others.
        of_others: whether `basis` spans the others.
        rank: how many directions are free.
        scale: tr(C)/d_ff.
        record: how it was obtained, ready for JSON.
    """

    basis: Tensor
    of_others: bool
    rank: int
    scale: float
    record: Mapping[str, Any]

    @classmethod
    def of(cls, moment: SecondMoment, threshold: float, unit: Unit = "absolute") -> NullSpace:
        """Split the eigenvectors of C at an eigenvalue."""
        bound = threshold * (moment.scale if unit == "relative" else 1.0)
        values, directions = torch.linalg.eigh(moment.matrix)
        free = values < bound
        rank = int(free.sum())
        of_others = 2 * rank > len(values)
        record = {
            "key": moment.key,
            "tokens": moment.tokens,
            "eigenvalue_threshold": bound,
            "rank": rank,
            "rank_fraction": rank / len(values),
            "trace_fraction": float(values[free].clamp_min(0).sum() / values.sum()),
            "mean_eigenvalue": moment.scale,
            "dead_units": moment.dead_units,
        }
        return cls(directions[:, ~free if of_others else free], of_others, rank, moment.scale, record)

    def project(self, keys: Tensor) -> Tensor:
        """P k for keys (d_ff, columns); float64, on their device."""
        basis = self.basis.to(keys.device)
        part = basis @ (basis.T @ keys.double())
        return keys.double() - part if self.of_others else part


def confined_gain(keys: Tensor, null_space: NullSpace, regulariser: float, earlier: Tensor) -> Tensor:
    """A with R A^T = R K^T P (K K^T P + K_e K_e^T P + L I)^-1, the published form, by a system of the keys' number.

    With G = [K, K_e], A is the first columns of P G (L I + G^T P G)^-1: symmetric and positive definite.

    Args:
        keys: K, (d_ff, edits), float64.
        null_space: the projector P.
        regulariser: L, positive.
        earlier: K_e, (d_ff, any number).

    Returns: A, (d_ff, edits), in the range of P.
    """
    projected = null_space.project(torch.cat([keys, earlier], dim=1))
    system = projected.T @ projected + regulariser * torch.eye(
        projected.shape[1], dtype=projected.dtype, device=projected.device
    )
    wanted = torch.eye(len(system), keys.shape[1], dtype=system.dtype, device=system.device)
    return projected @ torch.cholesky_solve(wanted, torch.linalg.cholesky(system))


class AlphaEdit(SpreadingMethod[NullSpace]):
    """All requests in one computation, confined to the null spaces of what text uses."""

    name = "alphaedit"
    settings_type = AlphaEditSettings
    recipe = Recipe(AlphaEditSettings, PUBLISHED, derived)
    settings: AlphaEditSettings

    def derived(self, moment: SecondMoment) -> NullSpace:
        """Split the space of a layer's keys."""
        return NullSpace.of(moment, self.settings.nullspace_threshold, self.settings.unit)

    def course(self, model: LanguageModel, statistics: Mapping[int, NullSpace]) -> Spreading:
        """Ridge regression inside the null spaces, onto the targets at the block's output, in equal shares.

        Raises: MethodRefused: no layer has a free direction.
        """
        settings = self.settings
        full = [layer for layer, space in statistics.items() if space.rank == 0]
        if len(full) == len(statistics):
            raise MethodRefused(
                f"alphaedit finds no free direction in layers {', '.join(map(str, full))}: every eigenvalue of their "
                f"second moments is above {settings.nullspace_threshold:g} ({settings.unit}). Raise "
                "nullspace_threshold."
            )
        if full:
            warnings.warn(
                f"alphaedit: layers {', '.join(map(str, full))} have no free direction and stay as they are.",
                RuntimeWarning,
                stacklevel=3,
            )

        def gain(layer: int, keys: Tensor, earlier: Tensor) -> Gain:
            space = statistics[layer]
            regulariser = settings.regulariser * (space.scale if settings.unit == "relative" else 1.0)
            projected = space.project(keys)
            report = {
                "null_space": dict(space.record),
                "regulariser": regulariser,
                "free_part_of_keys": float(projected.norm() / keys.norm()),
            }
            return Gain(confined_gain(keys, space, regulariser, earlier), report)

        return Spreading(
            method=self.name,
            settings=settings,
            provenance=self.provenance,
            place=block_or_mlp(model),
            gain=gain,
            remembers_keys=True,
        )
