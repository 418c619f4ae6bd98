"""RECT: of every update keep the entries that change their weight most, relative to its size.

Source: Gu, Xu, Ma, Lu, Ling, Chang, Peng, "Model Editing Harms General Abilities of Large Language Models:
Regularization to the Rescue", EMNLP 2024, with the figures of the AlphaEdit repository. It wraps any method that
changes weights.
"""

from __future__ import annotations

import math
import time
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

import torch
from torch import Tensor

from editguard.edited import AppliedEdit, EditedModel, WeightDelta, stack_kept
from editguard.edits import EditRequest
from editguard.errors import InvalidSettings
from editguard.methods.memit import Memit
from editguard.methods.protocol import EditMethod, Preparation
from editguard.methods.settings import Recipe, joined
from editguard.models.weights import Dense, LowRank, Masked

if TYPE_CHECKING:
    from editguard.models.language_model import Change, LanguageModel

SMALLEST_WEIGHT: Final = 1e-8
"""Added to |W|: an entry that was zero changes by much, not infinitely."""


@dataclass(frozen=True, kw_only=True)
class RectSettings:
    """What RECT adds to the settings of the method that it wraps; the default is the AlphaEdit repository's."""

    kept_percent: float = 40.0
    """k: the share of entries that an update keeps, in percent."""

    def __post_init__(self) -> None:
        if not 0 <= self.kept_percent <= 100:
            raise InvalidSettings(f"kept_percent lies in [0, 100], not at {self.kept_percent}.")


def relative_change(update: Tensor, weight: Tensor) -> Tensor:
    """|Delta| / (|W| + epsilon), entry by entry, at least float32; update and weight (d_out, d_in)."""
    wide = torch.promote_types(update.dtype, torch.float32)
    return update.abs().to(wide) / (weight.to(update.device, wide).abs() + SMALLEST_WEIGHT)


def most_changed(update: Tensor, weight: Tensor, percent: float) -> Tensor:
    """Return which entries stay: those whose relative change is not below that of rank floor((1 - k/100) N) from below.

    Args:
        update, weight: Delta and W before it, (d_out, d_in).
        percent: k; without ties N - floor((1 - k/100) N) + 1 entries stay, at 100 all and at 0 none.
    """
    rank = math.floor((100 - percent) * update.numel() / 100)
    if percent == 0 or rank == 0:
        return torch.full(update.shape, percent > 0, device=update.device)
    scores = relative_change(update, weight)
    return scores >= scores.flatten().kthvalue(rank).values


class Rect(ABC):
    """A method that changes weights, with the small entries of each application's updates left out.

    Every request that the inner method edits by itself is one application, on the model that the thinned updates
    before have left. A class that wraps a method names it, and itself.
    """

    name: ClassVar[str]
    inner: ClassVar[type[EditMethod]]
    batches: ClassVar[bool]
    """Whether the inner method edits several requests in one application."""
    settings_type: ClassVar[type]
    recipe: ClassVar[Recipe]

    def __init__(self, settings: Any = None, *, provenance: Mapping[str, str] | None = None) -> None:
        self.settings = settings or self.settings_type()
        self._method = cast("Any", self.inner)(self.settings, provenance=provenance)

    def prepare(self, model: LanguageModel, data: Preparation) -> None:
        """Prepare the inner method."""
        self._method.prepare(model, data)

    def apply(self, edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
        """Return `edited` with the requests on top, as the inner method edits them but for the small entries.

        Raises: whatever the inner method does.
        """
        applications = [requests] if self.batches else [[request] for request in requests]
        with stack_kept(edited.model):
            for application in applications:
                whole = self._method.apply(edited, application)
                for applied in whole.edits[len(edited.edits) :]:
                    edited = edited.extended(self._thinned(edited, applied))
        return edited

    def _thinned(self, edited: EditedModel, applied: AppliedEdit) -> AppliedEdit:
        started = time.perf_counter()
        edited.activate()
        shares: dict[str, float] = {}

        def thinned(change: Change) -> Change:
            if not isinstance(change, WeightDelta):
                return change
            deltas = {}
            for name, delta in change.deltas.items():
                update = delta.dense()
                kept = most_changed(update, edited.model.weights.present(name), self.settings.kept_percent)
                shares[name] = float(kept.double().mean())
                deltas[name] = Masked.keeping(delta if isinstance(delta, LowRank | Dense) else Dense(update), kept)
            return WeightDelta(deltas)

        changes = tuple(thinned(change) for change in applied.changes)
        return replace(
            applied,
            method=self.name,
            changes=changes,
            record={**applied.record, "rect": {"share_kept": shares}},
            seconds=applied.seconds + time.perf_counter() - started,
        )


class MemitRect(Rect):
    """MEMIT with RECT after every batch."""

    name = "memit-rect"
    inner = Memit
    batches = True
    recipe = joined(RectSettings, Memit.recipe, Memit.name)
    settings_type = recipe.type
