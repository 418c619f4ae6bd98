"""PRUNE: after any number of edits, the singular values of the weights' accumulated change are capped.

Source: Ma, Wang, Xu, Ling, Gu, "Perturbation-Restrained Sequential Model Editing", ICLR 2025. It wraps any method that
changes weights. The edits themselves are those of the inner method alone; the cap is what the paper does when a run
ends, here at every point of the sequence, from W_0: what an earlier cap took is given back first.
"""

from __future__ import annotations

import math
import time
from abc import ABC
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from editguard.edited import EditedModel, WeightDelta
from editguard.edits import EditRequest
from editguard.errors import InvalidSettings
from editguard.methods.memit import Memit
from editguard.methods.protocol import EditMethod, Preparation
from editguard.methods.settings import Recipe, joined
from editguard.models.weights import Delta, LowRank, Total

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class PruneSettings:
    """What PRUNE adds to the settings of the method that it wraps; the default is the AlphaEdit repository's."""

    logarithm_base: float = math.e
    """a: the larger, the nearer to the cap large singular values come."""

    def __post_init__(self) -> None:
        if self.logarithm_base <= 1:
            raise InvalidSettings(f"logarithm_base is above 1, not {self.logarithm_base}.")


def capped(values: Tensor, limit: float, base: float = math.e) -> Tensor:
    """Singular values (n,) with s above the limit moved to log_a(s / s_max) + s_max, and the others as they are.

    Where s_max ln a < 1 that function lies above s next to the limit; no value is raised.
    """
    moved = (values / limit).log() / math.log(base) + limit
    return torch.where(values > limit, torch.minimum(moved, values), values)


def largest_singular_value(weight: Tensor) -> float:
    """sigma_max of a matrix, by the eigenvalues of its smaller Gram matrix in float64."""
    wide = weight.detach().double()
    gram = wide @ wide.T if wide.shape[0] <= wide.shape[1] else wide.T @ wide
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh(gram)[-1])))


def singular_parts(updates: Sequence[Delta]) -> tuple[Tensor, Tensor, Tensor]:
    """U (d_out, r), s (r,), V (d_in, r) of the sum of updates of one matrix, float64, s descending.

    As long as the updates are factors of a low rank together, the cost is that of a QR factorisation of both sides and
    of an SVD as small as the rank.
    """
    factors = [update for update in updates if isinstance(update, LowRank)]
    rank = sum(update.right.shape[1] for update in factors)
    if len(factors) < len(updates) or rank >= min(updates[0].shape):
        left, values, right = torch.linalg.svd(summed(updates), full_matrices=False)
        return left, values, right.T
    outer, inner = (
        torch.linalg.qr(torch.cat([getattr(update, side).detach().double() for update in factors], dim=1))
        for side in ("left", "right")
    )
    left, values, right = torch.linalg.svd(outer.R @ inner.R.T)
    return outer.Q @ left, values, inner.Q @ right.T


def summed(updates: Iterable[Delta]) -> Tensor:
    """The sum of updates, float64."""
    return torch.stack([update.dense().detach().double() for update in updates]).sum(0)


@dataclass(frozen=True, eq=False)
class SpectralCap(WeightDelta):
    """What brings the weights from one capped sum to the next.

    Attributes:
        standing: by parameter, capped sum minus sum of the edits; what earlier caps have added is part of it.
    """

    standing: Mapping[str, LowRank] = field(default_factory=dict)


class Prune(ABC):
    """A method that changes weights, with the singular values of everything it has accumulated capped.

    A class that wraps a method names it, and itself.
    """

    name: ClassVar[str]
    inner: ClassVar[type[EditMethod]]
    settings_type: ClassVar[type]
    recipe: ClassVar[Recipe]

    def __init__(self, settings: Any = None, *, provenance: Mapping[str, str] | None = None) -> None:
        self.settings = settings or self.settings_type()
        self._method = cast("Any", self.inner)(self.settings, provenance=provenance)
        self._limits: WeakKeyDictionary[LanguageModel, dict[str, float]] = WeakKeyDictionary()

    def prepare(self, model: LanguageModel, data: Preparation) -> None:
        """Prepare the inner method."""
        self._method.prepare(model, data)

    def apply(self, edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
        """Return `edited` with the requests on top, and the sum of all its weight updates capped.

        Raises: whatever the inner method does.
        """
        uncapped = without_caps(edited)
        for applied in self._method.apply(uncapped, requests).edits[len(edited.edits) :]:
            started = time.perf_counter()
            uncapped = uncapped.extended(applied)
            cap, report = self._cap(edited, uncapped)
            edited = edited.extended(
                replace(
                    applied,
                    method=self.name,
                    changes=(*applied.changes, cap) if cap.deltas else applied.changes,
                    record={**applied.record, "prune": report},
                    seconds=applied.seconds + time.perf_counter() - started,
                )
            )
        return edited

    def _cap(self, edited: EditedModel, uncapped: EditedModel) -> tuple[SpectralCap, dict[str, Any]]:
        """The change that caps the sum of the uncapped chain on top of the chain so far, and what to report of it."""
        before = standing_cap(edited)
        wide = torch.promote_types(edited.model.dtype, torch.float32)
        updates: dict[str, list[Delta]] = {}
        for change in uncapped.changes:
            for name, delta in getattr(change, "deltas", {}).items():
                if len(delta.shape) == 2:
                    earlier = [] if isinstance(delta, Total) else updates.get(name, [])
                    updates[name] = [*earlier, delta]
        standing: dict[str, LowRank] = {}
        report: dict[str, Any] = {}
        for name, each in updates.items():
            limit = self._limit(edited.model, name)
            left, values, right = singular_parts(each)
            lowered = capped(values, limit, self.settings.logarithm_base)
            moved = lowered < values
            report[name] = {"largest": float(values[0]), "limit": limit, "capped": int(moved.sum())}
            if moved.any():
                shift = (lowered - values)[moved]
                standing[name] = LowRank((left[:, moved] * shift).to(wide), right[:, moved].to(wide))
        deltas = {
            name: _difference(standing.get(name), before.get(name)) for name in dict.fromkeys([*before, *standing])
        }
        return SpectralCap(deltas, standing), report

    def _limit(self, model: LanguageModel, name: str) -> float:
        limits = self._limits.setdefault(model, {})
        if name not in limits:
            limits[name] = largest_singular_value(model.weights.pristine(name))
        return limits[name]


def without_caps(edited: EditedModel) -> EditedModel:
    """Return the chain as the inner method alone would have left it."""
    edits = [
        replace(edit, changes=tuple(change for change in edit.changes if not isinstance(change, SpectralCap)))
        for edit in edited.edits
    ]
    return EditedModel(edited.model, edits)


def standing_cap(edited: EditedModel) -> Mapping[str, LowRank]:
    """Return what the caps of a chain have added so far, by parameter."""
    caps = [change for change in edited.changes if isinstance(change, SpectralCap)]
    return caps[-1].standing if caps else {}


def _difference(now: LowRank | None, before: LowRank | None) -> LowRank:
    parts = [part for part in (now, LowRank(-before.left, before.right) if before else None) if part is not None]
    return LowRank(torch.cat([part.left for part in parts], dim=1), torch.cat([part.right for part in parts], dim=1))


class MemitPrune(Prune):
    """MEMIT with PRUNE."""

    name = "memit-prune"
    inner = Memit
    recipe = joined(PruneSettings, Memit.recipe, Memit.name)
    settings_type = recipe.type
