"""CaliNet: a few slots beside the last MLP, trained on many facts at once; nothing decides when they act.

Source: Dong, Dai, Song, Xu, Sui, Li, "Calibrating Factual Knowledge in Pretrained Language Models", Findings of EMNLP
2022: FFN(z) + V relu(K z), where z is what the MLP reads, without biases. Where this differs from the released code:

- V starts at zero, so that slots change nothing before they are trained (there: the library's random values);
- the facts' wordings are the request's own prompt, bare and behind prefix contexts, as edit requests bring no
  paraphrases (there: several templates of each relation); a model with an encoder writes no prefix contexts, so that
  the bare prompt is all;
- a step is the gradient of all wordings at once, of which everything below the slots is computed once, so that some
  hundred steps stand for the published 5,000 of 2,048 examples each;
- beside a gated MLP the slots are plain all the same (there: gated);
- a term that holds the predictions on running text can be added; its weight is 0 as published.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.optimization import Adafactor

from editguard.edited import AddedNeurons, EditedModel
from editguard.edited.added_neurons import Neurons
from editguard.edits import EditRequest, content_id
from editguard.errors import InvalidSettings, MethodRefused, MissingMaterial
from editguard.methods.batch_training import Course, Trained, trained_on_batch
from editguard.methods.branch_training import (
    Branches,
    Supervised,
    refuse_missing_layers,
    request_pairs,
    supervised,
)
from editguard.methods.context_templates import prefix_contexts
from editguard.methods.protocol import Preparation
from editguard.methods.settings import Published, Recipe
from editguard.methods.value_objective import drift
from editguard.models.answer_passes import Pair
from editguard.models.running_text import text_pairs

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class CaliNetSettings:
    """Defaults are the published values for T5-base and 100 facts."""

    layers: tuple[int, ...] = (23,)
    """The blocks whose MLPs get slots, counted from 0 and through an encoder and a decoder, ascending."""
    slots: int = 64
    """In each of the blocks, for all requests of a batch together."""
    step_size: float = 1e-2
    """Adafactor's, constant: neither relative to the step nor to the parameters."""
    steps: int = 300
    """Updates, at most."""
    stop_below: float = 0.01
    """Loss (nats per token): below it, with every token of every wording the likeliest, the training ends."""
    context_lengths: tuple[tuple[int, int], ...] = ((10, 5),)
    """(length in tokens, number) of the prefix contexts."""
    drift_weight: float = 0.0
    """Weight of the divergence (nats per token) of the predictions on running text from those before the edit."""
    drift_tokens: int = 512
    """How many tokens of running text that is measured at."""
    seed: int = 0
    """Of the slots' initial keys, and of the prefix contexts."""

    def __post_init__(self) -> None:
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise InvalidSettings(f"layers are different blocks in ascending order, from 0; got {list(self.layers)}.")
        for name in ("slots", "steps", "drift_tokens"):
            if getattr(self, name) < 1:
                raise InvalidSettings(f"{name} is at least 1, not {getattr(self, name)}.")
        for name in ("stop_below", "drift_weight"):
            if getattr(self, name) < 0:
                raise InvalidSettings(f"{name} is not negative; got {getattr(self, name)}.")
        if self.step_size <= 0:
            raise InvalidSettings(f"step_size is positive, not {self.step_size}.")


PUBLISHED = (
    Published("t5", 24, 768, "CaliNet repository, 100 facts", {"layers": (23,), "slots": 64, "step_size": 1e-2}),
)


def derived(layers: int) -> Mapping[str, tuple[Any, str]]:
    """Return the layer for any model: the last one, which is the decoder's where there is an encoder too."""
    return {"layers": ((layers - 1,), "the last block")}


def initial_slots(slots: int, width: int, generator: torch.Generator) -> Neurons:
    """Slots that change nothing: V = 0, and K uniform within 1 / sqrt(d_model), as the library draws a linear layer."""
    keys = (2 * torch.rand(slots, width, generator=generator) - 1) / math.sqrt(width)
    return Neurons(keys, torch.zeros(slots), torch.zeros(width, slots), "relu")


class CaliNet:
    """All requests in one training of slots that belong to this batch; earlier batches keep theirs."""

    name: ClassVar[str] = "calinet"
    settings_type: ClassVar[type] = CaliNetSettings
    recipe: ClassVar[Recipe] = Recipe(CaliNetSettings, PUBLISHED, derived)

    def __init__(self, settings: CaliNetSettings | None = None, *, provenance: Mapping[str, str] | None = None) -> None:
        self.settings = settings or CaliNetSettings()
        self.provenance = dict(provenance or {})
        self._texts: WeakKeyDictionary[LanguageModel, Sequence[Pair]] = WeakKeyDictionary()

    def prepare(self, model: LanguageModel, data: Preparation) -> None:
        """Draw the prefix contexts, and the running text where its predictions are to be held.

        Raises: MethodRefused: the model has no such layer. MissingMaterial: `drift_weight` without any text.
        """
        refuse_missing_layers(model, self.name, "layers", self.settings.layers)
        self._contexts(model)
        if not self.settings.drift_weight:
            return
        texts = tuple(data.texts)
        if texts:
            self._texts[model] = text_pairs(
                model, texts, self.settings.drift_tokens, data.seed, purpose=f"{self.name}'s drift"
            )
        elif model not in self._texts:
            raise MissingMaterial(
                f"{self.name} needs running text for its drift_weight of {self.settings.drift_weight} "
                "(--editguard-corpus FILE, one document per line; Preparation(texts=...) from Python), or drift_weight "
                "= 0 as published."
            )

    def apply(self, edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
        """Return `edited` with slots for the requests on top.

        Identical requests count once. What is the model's answer already is trained on beside the others; where all of
        them are, nothing changes.

        Raises: ConflictingEdits: two requests want different targets for one fact. MethodRefused: no such layer, not
            prepared, or the training broke down; then nothing has changed.
        """
        refuse_missing_layers(edited.model, self.name, "layers", self.settings.layers)
        texts = self._prepared_texts(edited.model)

        def train(unique: Sequence[EditRequest]) -> Trained:
            contexts = self._contexts(edited.model)
            pairs = request_pairs(edited.model, unique, contexts)
            slots, course, figures = trained_slots(edited.model, pairs, texts, self.settings, self._generators(unique))
            added = [AddedNeurons(layer, neurons) for layer, neurons in slots.items()]
            return added, course, {"wordings": len(contexts), **figures}

        return trained_on_batch(self.name, edited, requests, self.settings, self.provenance, train)

    def _contexts(self, model: LanguageModel) -> tuple[str, ...]:
        if model.anatomy.encoder_layers:
            return ("",)
        return prefix_contexts(model, lengths=self.settings.context_lengths, seed=self.settings.seed)

    def _prepared_texts(self, model: LanguageModel) -> Sequence[Pair]:
        if not self.settings.drift_weight:
            return []
        if model not in self._texts:
            raise MethodRefused(
                f"{self.name} was not prepared for this model: call prepare(model, Preparation(texts=...)) first."
            )
        return self._texts[model]

    def _generators(self, requests: Sequence[EditRequest]) -> dict[int, torch.Generator]:
        """A generator for each block, which other requests give another start."""
        ids = sorted({request.id for request in requests})
        return {
            layer: torch.Generator().manual_seed(int(content_id(self.name, self.settings.seed, layer, ids), 16))
            for layer in self.settings.layers
        }


def trained_slots(
    model: LanguageModel,
    pairs: Sequence[Pair],
    texts: Sequence[Pair],
    settings: CaliNetSettings,
    generators: Mapping[int, torch.Generator],
) -> tuple[dict[int, Neurons], Course, dict[str, Any]]:
    """Return slots by block, without gradients, what the training did, and diagnostics.

    Args:
        pairs: prompts and targets in tokens; without any there are no slots.
        texts: running text whose predictions are held; none for a weight of 0.
        generators: of the initial keys, by block.

    Raises: FloatingPointError: the loss or a gradient is infinite or undefined.
    """
    if not pairs:
        return {}, Course((), 0), {}
    parts = supervised(model, pairs, settings.layers)
    held = supervised(model, texts, settings.layers)
    slots = {
        layer: _trainable(initial_slots(settings.slots, each.shape[1], generators[layer]), each)
        for layer, each in parts[0].inputs.items()
    }
    with torch.no_grad():
        before = [part.logits({}).log_softmax(-1) for part in held]
    parameters = [part for neurons in slots.values() for part in (neurons.keys, neurons.values)]
    optimiser = Adafactor(  # type: ignore[no-untyped-call]
        parameters, lr=settings.step_size, scale_parameter=False, relative_step=False, warmup_init=False
    )
    tokens = sum(len(part.labels) for part in parts)
    history, updates = list[float](), 0
    while True:
        found = _evaluated(parts, list(zip(held, before, strict=True)), slots, parameters, settings.drift_weight)
        history.append(found.loss)
        if not found.is_finite:
            raise FloatingPointError(f"the loss or its gradient became infinite or undefined after {updates} updates")
        if updates == settings.steps or (found.right == tokens and found.loss < settings.stop_below):
            break
        for parameter, gradient in zip(parameters, found.gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()  # type: ignore[no-untyped-call]
        updates += 1
    figures = {"drift": found.drift if held else None, "tokens": tokens, "tokens_right": found.right}
    return {layer: neurons.detached() for layer, neurons in slots.items()}, Course(tuple(history), updates), figures


@dataclass(frozen=True)
class _Evaluation:
    """One look at all tokens: losses in nats per token, how many tokens are right, and the parameters' gradients."""

    loss: float
    drift: float
    right: int
    gradients: Sequence[Tensor]

    @property
    def is_finite(self) -> bool:
        """Whether nothing is infinite or undefined."""
        return math.isfinite(self.loss + self.drift) and all(bool(each.isfinite().all()) for each in self.gradients)


def _evaluated(
    parts: Sequence[Supervised],
    held: Sequence[tuple[Supervised, Tensor]],
    slots: Branches,
    parameters: Sequence[Tensor],
    drift_weight: float,
) -> _Evaluation:
    """Evaluate the mean loss over all tokens part by part, so that one part's logits are held at a time."""
    gradients = [torch.zeros_like(parameter) for parameter in parameters]
    tokens = sum(len(part.labels) for part in parts)
    held_tokens = sum(len(part.labels) for part, _ in held)
    loss, divergence, right = 0.0, 0.0, 0
    for part in parts:
        with torch.enable_grad():
            logits = part.logits(slots)
            labels = part.labels.to(logits.device)
            nll = nn.functional.cross_entropy(logits, labels, reduction="sum") / tokens
            _accumulate(gradients, nll, parameters)
        loss += float(nll.detach())
        right += int((logits.detach().argmax(-1) == labels).sum())
    for part, before in held:
        with torch.enable_grad():
            moved = drift(part.logits(slots).log_softmax(-1), before).sum() / held_tokens
            _accumulate(gradients, drift_weight * moved, parameters)
        divergence += float(moved.detach())
    return _Evaluation(loss, divergence, right, gradients)


def _trainable(neurons: Neurons, inputs: Tensor) -> Neurons:
    """The slots where the inputs are, at least in float32, with keys and values to be trained; they have no biases."""
    there = inputs.new_empty(0, dtype=torch.promote_types(inputs.dtype, torch.float32))
    keys, values = nn.Parameter(neurons.keys.to(there)), nn.Parameter(neurons.values.to(there))
    return Neurons(keys, neurons.biases.to(there), values, neurons.activation)


def _accumulate(gradients: Sequence[Tensor], loss: Tensor, parameters: Sequence[Tensor]) -> None:
    """Add the gradients of a loss; a parameter that it does not depend on gets none."""
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    for total, gradient in zip(gradients, found, strict=True):
        if gradient is not None:
            total += gradient
