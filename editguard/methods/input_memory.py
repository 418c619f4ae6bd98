"""Memories of what an MLP reads on running text: what neurons beside it should be silent on.

One part is for training, one for validation. They come from different texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from editguard.edited import EditedModel
from editguard.errors import MethodRefused, MissingMaterial
from editguard.methods.patch_training import column_major
from editguard.models.activation import mlp_activation
from editguard.models.running_text import corpus_digest, text_pairs
from editguard.models.second_moment import Pace
from editguard.models.text_states import mlp_inputs

if TYPE_CHECKING:
    from editguard.methods.protocol import Preparation
    from editguard.models.language_model import LanguageModel

PROBED_TOKENS: Final = 64
"""How many tokens the MLP's activation is looked at."""


@dataclass(frozen=True, eq=False)
class InputMemory:
    """The states of the unedited model at one block.

    Attributes:
        training, validation: (states, d_model), at least float32, see `column_major`.
        activation: name of the MLP's own activation, None where it has none that is known.
        record: where they come from, ready for JSON.
    """

    training: Tensor
    validation: Tensor
    activation: str | None
    record: Mapping[str, Any]


def divided(texts: Sequence[str], training: int, validation: int) -> tuple[list[str], list[str]]:
    """Return the texts for training and those for validation, in proportion to the tokens wanted of each.

    Every n-th text is for validation, so that both have texts from everywhere; a text that stands in the corpus twice
    counts once, as no text may be in both.
    """
    different = list(dict.fromkeys(texts))
    every = min(max(2, round((training + validation) / validation)), max(2, len(different)))
    held_out = different[::every]
    return [text for number, text in enumerate(different) if number % every], held_out


class InputMemories:
    """The memories of a method, for each model apart.

    Args:
        method: registered name, for messages.
        training, validation: how many states of each.
    """

    def __init__(self, method: str, training: int, validation: int) -> None:
        self._method = method
        self._training, self._validation = training, validation
        self._kept: WeakKeyDictionary[LanguageModel, tuple[tuple[object, ...], InputMemory]] = WeakKeyDictionary()

    def prepare(self, model: LanguageModel, layer: int, data: Preparation) -> None:
        """Collect the memories of a block from the unedited model.

        Nothing happens when that was done for this model from the same texts and seed; other ones replace what is
        there. A call without texts keeps what is there.

        Raises: MissingMaterial: there are not two different texts, now or earlier.
        """
        texts = tuple(data.texts)
        if not texts and model in self._kept:
            return
        training, validation = divided(texts, self._training, self._validation)
        if not training:
            raise MissingMaterial(
                f"{self._method} needs running text, of at least two different documents, for the memory of what its "
                "neurons should be silent on (--editguard-corpus FILE, one document per line; "
                "Preparation(texts=...) from Python)."
            )
        key = (layer, corpus_digest(texts), data.seed)
        if model in self._kept and self._kept[model][0] == key:
            return
        with EditedModel.original(model):
            parts = [
                self._collected(model, layer, part, tokens, data, name)
                for name, part, tokens in (
                    ("training", training, self._training),
                    ("validation", validation, self._validation),
                )
            ]
            pairs = text_pairs(model, training, PROBED_TOKENS, data.seed, purpose="the activation")
            own = mlp_activation(model, layer, pairs)
        record = {"training": len(parts[0]), "validation": len(parts[1]), "layer": layer, "seed": data.seed}
        self._kept[model] = (key, InputMemory(parts[0], parts[1], own, record))

    def of(self, model: LanguageModel) -> InputMemory:
        """Return the memories.

        Raises: MethodRefused: nothing was prepared for this model.
        """
        if model not in self._kept:
            raise MethodRefused(
                f"{self._method} was not prepared for this model: call prepare(model, Preparation(texts=...)) first."
            )
        return self._kept[model][1]

    def _collected(
        self, model: LanguageModel, layer: int, texts: Sequence[str], tokens: int, data: Preparation, name: str
    ) -> Tensor:
        pace = Pace()
        states = mlp_inputs(
            model,
            layer,
            texts,
            tokens=tokens,
            seed=data.seed,
            cache_dir=data.cache_dir,
            on_progress=lambda done, of: data.on_progress(
                f"{self._method}: {name} memory of layer {layer}'s inputs, {pace(done, of)}"
            ),
        )
        wide = states.to(torch.promote_types(states.dtype, torch.float32))
        return column_major(_beside(wide, model, layer))


def _beside(states: Tensor, model: LanguageModel, layer: int) -> Tensor:
    """The states where the block is, so that a step moves none of them; in main memory where there is no room."""
    device = model.anatomy.up_projections(layer)[0].device
    if device.type == "cuda":
        try:
            return states.to(device)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    return states
