"""R-ROME and p-ROME: ROME with one and the same key throughout.

Source: Gupta, Baskaran, Anumanchipalli, "Rebuilding ROME: Resolving Model Collapse during Sequential Model Editing",
EMNLP 2024. ROME's released code takes its update's direction from the key averaged over prefix contexts, and rewrites
the output at the bare prompt's key; u . k of two different keys may come near zero, and the update then wrecks the
model. With one key, u . k = k^T C^-1 k / ||C^-1 k|| is positive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from torch import Tensor

from editguard.edited import EditedModel
from editguard.edits import EditRequest
from editguard.methods import rome
from editguard.methods.protocol import Preparation
from editguard.methods.settings import Recipe

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel

Key = Literal["averaged", "prompt"]
"""The mean over the prefix contexts (R-ROME), or the bare prompt's (p-ROME)."""


@dataclass(frozen=True, kw_only=True)
class RRomeSettings(rome.RomeSettings):
    """ROME's settings, and the choice of the key."""

    key: Key = "averaged"
    """See `Key`."""


PUBLISHED: Final = tuple(replace(row, source=f"{row.source}; R-ROME keeps ROME's values") for row in rome.PUBLISHED)


def averaged_key(keys: Tensor, outputs: Tensor) -> rome.Association:
    """R-ROME's association: means over the contexts of keys (contexts, d_ff) and outputs (contexts, d_model)."""
    average = keys.mean(0)
    return rome.Association(average, average, outputs.mean(0))


def prompt_key(keys: Tensor, outputs: Tensor) -> rome.Association:
    """p-ROME's association: key and output of the bare prompt, row 0."""
    return rome.Association(keys[0], keys[0], outputs[0])


ASSOCIATIONS: Final[Mapping[Key, Callable[[Tensor, Tensor], rome.Association]]] = {
    "averaged": averaged_key,
    "prompt": prompt_key,
}


class RRome:
    """One request at a time, each on the model that the ones before have left; no bias and no other matrix changes."""

    name: ClassVar[str] = "r-rome"
    settings_type: ClassVar[type] = RRomeSettings
    recipe: ClassVar[Recipe] = Recipe(RRomeSettings, PUBLISHED, rome.derived)

    def __init__(self, settings: RRomeSettings | None = None, *, provenance: Mapping[str, str] | None = None) -> None:
        self.settings = settings or RRomeSettings()
        self.provenance = dict(provenance or {})
        self._insertion = rome.RankOneInsertion(self.name, self.settings, self.provenance)

    def prepare(self, model: LanguageModel, data: Preparation) -> None:
        """Draw the prefix contexts and factorise the second moment of the layer's keys, on the unedited model.

        Raises: MethodRefused: the model has no such layer. MissingMaterial: there is no text.
        """
        self._insertion.prepare(model, data)

    def apply(self, edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
        """Return `edited` with one rank-one update per request on top.

        Raises: MethodRefused: no such layer, not prepared, or no target vector was found.
        """
        return self._insertion.apply(edited, requests, ASSOCIATIONS[self.settings.key])
