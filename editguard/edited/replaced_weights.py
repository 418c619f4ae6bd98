"""Weights that were made elsewhere, in the place of the model's own: what a candidate differs in from its base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel
    from editguard.models.weights import Replacement


@dataclass(frozen=True, eq=False)
class ReplacedWeights:
    """Values of named parameters, to the bit.

    Attributes:
        deltas: parameter name -> value, in the orientation (d_out, d_in).
    """

    deltas: Mapping[str, Replacement]

    def __post_init__(self) -> None:
        object.__setattr__(self, "deltas", MappingProxyType(dict(self.deltas)))

    def install(self, model: LanguageModel) -> None:
        """Put the values in force: one step of the model's ledger."""
        model.weights.push(self.deltas)

    def uninstall(self, model: LanguageModel) -> None:
        """Take back the ledger's newest step."""
        model.weights.pop()
