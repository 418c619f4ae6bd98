"""An edit that adds to weights, kept as factors wherever the method has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel
    from editguard.models.weights import Delta


@dataclass(frozen=True, eq=False)
class WeightDelta:
    """Sums added to named parameters.

    Attributes:
        deltas: parameter name -> update, float32 inside, in the orientation (d_out, d_in).
    """

    deltas: Mapping[str, Delta]

    def __post_init__(self) -> None:
        object.__setattr__(self, "deltas", MappingProxyType(dict(self.deltas)))

    def install(self, model: LanguageModel) -> None:
        """Add the deltas: one step of the model's ledger."""
        model.weights.push(self.deltas)

    def uninstall(self, model: LanguageModel) -> None:
        """Take back the ledger's newest step."""
        model.weights.pop()
