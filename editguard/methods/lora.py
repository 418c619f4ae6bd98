"""LoRA as an editor: a low-rank update of some matrices of many blocks, trained on the requests alone.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, section 4.1; as an editor, and with
the settings below, in EasyEdit (Wang et al. 2024). Different from there: the update is plain LoRA where EasyEdit has
AdaLoRA, whose ranks are not the configured ones and whose pruning never begins; requests of one batch share steps
instead of taking turns; the target alone is learned, closed by a token where an encoder-decoder's answers are; each
application trains adapters of its own on top of the earlier edits; and nothing of it stays in the model but the update
of its weights. The published settings overfit a single sentence, so that much else is answered by its target too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import torch

from editguard.edited import EditedModel, WeightDelta
from editguard.edits import EditRequest
from editguard.errors import InvalidSettings, MethodRefused
from editguard.methods.batch_training import Course, Trained, descend, trained_on_batch
from editguard.methods.fine_tuning import batch_losses, examples
from editguard.methods.protocol import Preparation
from editguard.methods.residual_spreading import frobenius
from editguard.methods.settings import Published, Recipe
from editguard.models.adapters import Adapter, low_rank_adapters, require_peft
from editguard.models.placement import in_memory
from editguard.models.weights import Delta

if TYPE_CHECKING:
    from editguard.models.anatomy import Matrix
    from editguard.models.language_model import LanguageModel

Target = Literal["attention", "mlp"]
"""Matrices of a block: those of the attention's queries and values (with the keys, where one matrix makes them all), or
those of the MLP (up, gate where there is one, down)."""


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Defaults are EasyEdit's for Llama-2-7B."""

    layers: tuple[int, ...] | None = None
    """The adapted blocks, counted from 0, an encoder's first; None = all."""
    targets: tuple[Target, ...] = ("attention",)
    """The adapted matrices of each; see `Target`."""
    rank: int = 8
    """r: rank of the update of a matrix, at most."""
    alpha: int = 32
    """The update is alpha / r times B A."""
    dropout: float = 0.1
    """Share of the entries of A's input that are left out, at each training pass anew."""
    step_size: float = 5e-3
    """Adam's learning rate for A and B."""
    epochs: int = 70
    """Passes over the requests, at most."""
    batch_size: int = 128
    """Requests per step."""
    stop_below: float | None = None
    """Loss (nats): a batch below it makes no step, an epoch below it is the last; None = all epochs."""
    seed: int = 0
    """Of A's first values and the dropout."""

    def __post_init__(self) -> None:
        if self.layers is not None and (not _distinct(self.layers) or min(self.layers) < 0):
            raise InvalidSettings(f"layers are different numbers from 0 on, or none for all; got {self.layers}.")
        if not _distinct(self.targets):
            raise InvalidSettings(f"targets are attention, mlp or both; got {self.targets}.")
        for name in ("rank", "alpha", "batch_size"):
            if getattr(self, name) < 1:
                raise InvalidSettings(f"{name} is at least 1, not {getattr(self, name)}.")
        if not 0 <= self.dropout < 1:
            raise InvalidSettings(f"dropout is at least 0 and below 1, not {self.dropout}.")
        if self.step_size <= 0:
            raise InvalidSettings(f"step_size is positive, not {self.step_size}.")
        for name in ("epochs", "stop_below"):
            if (getattr(self, name) or 0) < 0:
                raise InvalidSettings(f"{name} is not negative; got {getattr(self, name)}.")


def _distinct(values: Sequence[object]) -> bool:
    return 0 < len(values) == len(set(values))


_EASY: Final = "EasyEdit, hparams/LoRA"
_ADAPTIVE: Final = f"{_EASY}, with plain LoRA for AdaLoRA"

PUBLISHED: Final = (
    Published("gpt2", 48, 1600, _ADAPTIVE, {"targets": ("attention",), "epochs": 30}),
    Published("gptj", 28, 4096, _ADAPTIVE, {"targets": ("mlp",), "epochs": 50}),
    Published("llama", 32, 4096, _ADAPTIVE, {"targets": ("attention",), "epochs": 70}, d_ff=11008),
    Published(
        "llama",
        32,
        4096,
        f"{_ADAPTIVE}, Llama 3 (for Llama 3.1, of the same shape, 50 epochs)",
        {"targets": ("attention",), "epochs": 70},
        d_ff=14336,
    ),
    Published("llama", 28, 3072, _ADAPTIVE, {"targets": ("attention",), "epochs": 70}),
    Published("llama", 16, 2048, _ADAPTIVE, {"targets": ("attention",), "epochs": 70}),
    Published("qwen2", 28, 3584, _EASY, {"targets": ("attention",), "epochs": 60}),
)
"""Their batch size, 1, is left off: it would forbid that requests share a step."""


class Lora:
    """The requests trained into low-rank updates of the attention's or the MLP's matrices."""

    name: ClassVar[str] = "lora"
    settings_type: ClassVar[type[LoraSettings]] = LoraSettings
    recipe: ClassVar[Recipe] = Recipe(LoraSettings, PUBLISHED)

    def __init__(self, settings: LoraSettings | None = None, *, provenance: Mapping[str, str] | None = None) -> None:
        self.settings = settings or LoraSettings()
        self.provenance = dict(provenance or {})

    def prepare(self, model: LanguageModel, data: Preparation) -> None:
        """Need nothing but the layers, and the package `peft`.

        Raises: MethodRefused: one of them is missing.
        """
        del data
        require_peft()
        adapted_matrices(model, self.settings)

    def apply(self, edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
        """Return `edited` with the requests trained in on top, as one low-rank update of each adapted matrix.

        Identical requests count once. What is the model's answer already is trained on beside the others, which might
        undo it; where all of them are, nothing changes.

        Raises: ConflictingEdits: two requests want different targets for one fact. MethodRefused: no such layer, no
            `peft`, or the training broke down; then nothing has changed.
        """
        matrices = adapted_matrices(edited.model, self.settings)

        def train(unique: Sequence[EditRequest]) -> Trained:
            deltas, course, figures = trained_adapters(edited.model, matrices, unique, self.settings)
            return [WeightDelta(deltas)], course, figures

        return trained_on_batch(self.name, edited, requests, self.settings, self.provenance, train)


def adapted_matrices(model: LanguageModel, settings: LoraSettings) -> list[Matrix]:
    """Return the matrices that get an adapter, block by block.

    Raises: MethodRefused: the model lacks a layer, or has one of them offloaded.
    """
    anatomy = model.anatomy
    layers = range(anatomy.layers) if settings.layers is None else settings.layers
    if max(layers) >= anatomy.layers:
        raise MethodRefused(
            f"lora should edit layers {', '.join(map(str, layers))} of {model.name}, which has layers 0 to "
            f"{anatomy.layers - 1}: set `layers` in its settings."
        )
    found: list[Matrix] = []
    for layer in layers:
        if "attention" in settings.targets:
            found += anatomy.queries_and_values(layer)
        if "mlp" in settings.targets:
            found += (*anatomy.up_projections(layer), anatomy.down_projection(layer))
    return in_memory("lora", found)


def trained_adapters(
    model: LanguageModel, matrices: Sequence[Matrix], requests: Sequence[EditRequest], settings: LoraSettings
) -> tuple[dict[str, Delta], Course, dict[str, Any]]:
    """Return the matrices' updates after training on the requests, what the training did, and diagnostics.

    Afterwards the model has the modules, flags and bytes that it had before.

    Raises: FloatingPointError: the loss or a gradient is infinite or undefined. MethodRefused: `peft` is missing.
    """
    lowest = 0 if settings.layers is None else min(settings.layers)
    losses = batch_losses(model, examples(model, requests, "target-new"), lowest, settings.batch_size, "target-new")
    with low_rank_adapters(
        model.module,
        matrices,
        rank=settings.rank,
        alpha=settings.alpha,
        dropout=settings.dropout,
        generator=torch.Generator().manual_seed(settings.seed),
    ) as adapters:
        course = descend(
            [parameter for adapter in adapters for parameter in adapter.parameters],
            losses,
            step_size=settings.step_size,
            epochs=settings.epochs,
            stop_below=settings.stop_below,
        )
    updates: dict[str, Delta] = {adapter.matrix.name: adapter.update() for adapter in adapters}
    return updates, course, {"matrices": len(adapters), "relative_norm": relative_norm(adapters)}


def relative_norm(adapters: Sequence[Adapter]) -> float:
    """Return ||updates|| / ||matrices||, Frobenius, over all adapted matrices together."""
    moved = sum(frobenius(update.left, update.right) ** 2 for update in (adapter.update() for adapter in adapters))
    whole = sum(float(adapter.matrix.weight().detach().double().norm()) ** 2 for adapter in adapters)
    return float((moved / whole) ** 0.5) if whole else 0.0
