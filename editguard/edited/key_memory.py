"""What later edits of a chain may need of earlier ones: the keys that they were written at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from editguard.models.language_model import Change, LanguageModel


@dataclass(frozen=True, eq=False)
class KeyMemory:
    """Keys that an edit has used, kept in the chain beside its weights, so that both are rolled back together.

    Attributes:
        keys: parameter name -> (d_in, edits).
    """

    keys: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", MappingProxyType(dict(self.keys)))

    def install(self, model: LanguageModel) -> None:
        """Do nothing: the model computes without it."""

    def uninstall(self, model: LanguageModel) -> None:
        """Do nothing: the model computes without it."""


def earlier_keys(changes: Sequence[Change], parameter: str) -> Tensor | None:
    """Return the keys (d_in, all edits) that a chain remembers for a parameter, oldest first; None without any."""
    found = [change.keys[parameter] for change in changes if isinstance(change, KeyMemory) and parameter in change.keys]
    return torch.cat(found, dim=1) if found else None
