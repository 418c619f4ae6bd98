"""WISE: edits go into a copy of one matrix, and a router sends only the prompts there that stir the copy enough.

Source: Wang, Li, Zhang et al., "WISE: Rethinking the Knowledge Memory for Lifelong Model Editing of Large Language
Models", NeurIPS 2024, sections 2.2 to 2.4, with the values of EasyEdit's configurations. The activation is the
paper's, ||(W' - W) a||, without the model's activation function that the released code puts around both outputs.
Other than there, weight decay pulls towards W and inside the mask alone, the prompt's own tokens decide, and the
decision holds for the whole sequence.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from editguard.edited import AppliedEdit, EditedModel, stored_bytes
from editguard.edited.routed import newest
from editguard.edited.side_memory import Memory, SideMemory, Support
from editguard.edits import EditRequest
from editguard.edits.request import content_id
from editguard.errors import InvalidSettings, MethodRefused, MissingMaterial, PromptTooLong
from editguard.methods.already_true import already_true, warn_already_true
from editguard.methods.chosen_matrix import MatrixChoice, chosen_matrix
from editguard.methods.context_templates import prefix_contexts
from editguard.methods.one_by_one import one_by_one
from editguard.methods.prompt_ends import at_prompt_ends
from editguard.methods.protocol import Preparation
from editguard.methods.settings import Published, Recipe
from editguard.methods.side_memory_training import Margins, Training
from editguard.methods.text_beginnings import beginnings

if TYPE_CHECKING:
    from editguard.models.anatomy import Matrix
    from editguard.models.answer_passes import Pair
    from editguard.models.language_model import LanguageModel

ACTIVATION_RULE: Final = "mean of ||(W' - W) a|| over the prompt's tokens"
"""For records: sources differ in it."""

LOCALITY_TEXTS: Final = 128
"""How many texts are kept to draw the out-of-scope prompt of an edit from, and to calibrate margins on."""

CONTEXT_LENGTHS: Final = ((6, 5), (11, 5))
"""Prefix contexts: five first words, each with five and with ten tokens behind it."""


@dataclass(frozen=True, kw_only=True)
class WiseSettings:
    """Defaults are those of EasyEdit for Llama 2 7B."""

    layer: int = 27
    """The edited block, counted from 0."""
    matrix: MatrixChoice = "down"
    """Which of its MLP's matrices is copied."""
    steps: int = 70
    """Updates per edit, at most."""
    step_size: float = 1.0
    """Learning rate of plain gradient descent, in units of the weights."""
    weight_decay: float = 1e-5
    """Per step and step size, the share of W' - W that is lost."""
    mask_ratio: float = 0.2
    """rho: the share of the matrix's entries that the edits of one shard may change."""
    clamp: float = 1.0
    """Most that an entry may differ from W."""
    margins: Margins | None = (5.0, 20.0, 10.0)
    """(alpha, beta, gamma) of the activation loss; None calibrates them, see `calibrated_margins`."""
    threshold_ratio: float = 0.88
    """epsilon, as a share of the least activation among a shard's edits."""
    shard_edits: int = 500
    """Edits of a shard; the next one begins with a new copy of W and a new mask."""
    merge_shards: int | None = 2
    """So many closed shards are merged into one memory; None keeps each."""
    density: float = 0.53
    """TIES: the share of the matrix's entries that a shard keeps when it is merged, the largest."""
    stop_below: float = 0.02
    """Loss at which an edit is done, once it hardly changes any more."""
    stop_change: float = 1e-4
    """What hardly is: most change of the loss from one step to the next."""
    locality_tokens: int = 32
    """Length of the out-of-scope prompts."""
    context_lengths: tuple[tuple[int, int], ...] = CONTEXT_LENGTHS
    """(length in tokens, number) of the prefix contexts."""
    seed: int = 0
    """Of masks, prefix contexts and the choice of out-of-scope prompts."""

    def __post_init__(self) -> None:
        for name in ("steps", "shard_edits", "locality_tokens"):
            if getattr(self, name) < 1:
                raise InvalidSettings(f"{name} is at least 1, not {getattr(self, name)}.")
        for name in ("layer", "weight_decay", "stop_below", "stop_change"):
            if getattr(self, name) < 0:
                raise InvalidSettings(f"{name} is not negative; got {getattr(self, name)}.")
        for name in ("step_size", "clamp"):
            if getattr(self, name) <= 0:
                raise InvalidSettings(f"{name} is positive, not {getattr(self, name)}.")
        for name in ("mask_ratio", "threshold_ratio", "density"):
            if not 0 < getattr(self, name) <= 1:
                raise InvalidSettings(f"{name} lies in (0, 1], not at {getattr(self, name)}.")
        if self.merge_shards is not None and self.merge_shards < 2:
            raise InvalidSettings(f"merge_shards is at least 2, or none at all; got {self.merge_shards}.")
        if self.margins is not None and min(self.margins) < 0:
            raise InvalidSettings(f"margins are not negative; got {self.margins}.")


_EASY: Final = "EasyEdit, hparams/WISE"

PUBLISHED: Final = (
    Published("llama", 32, 4096, f"{_EASY} (Llama 2 7B)", {"layer": 27, "margins": (5, 20, 10)}, d_ff=11008),
    Published(
        "llama",
        32,
        4096,
        f"{_EASY} (Llama 3 8B)",
        {"layer": 29, "step_size": 0.9, "steps": 30, "margins": (2, 20, 10), "threshold_ratio": 0.5},
        d_ff=14336,
    ),
    Published("llama", 28, 3072, _EASY, {"layer": 27, "margins": (5, 20, 10)}),
    Published("mistral", 32, 4096, _EASY, {"layer": 27, "margins": (5, 20, 10)}),
    Published("qwen2", 28, 3584, _EASY, {"layer": 23, "margins": (5, 20, 10)}),
    Published("gptj", 28, 4096, _EASY, {"layer": 21, "margins": (15, 40, 20)}),
    Published(
        "gpt2",
        12,
        768,
        f"{_EASY} (the file for GPT-2)",
        {"layer": 8, "matrix": "up", "steps": 40, "margins": (5, 20, 10), "threshold_ratio": 0.8},
    ),
)


def derived(layers: int) -> Mapping[str, tuple[Any, str]]:
    """Return layer and margins for a model that no source speaks of; margins are in units of its activations."""
    return {
        "layer": (5 * layers // 6, "five sixths of the blocks, as for Llama 2 7B"),
        "margins": (None, "published margins are absolute; calibrated on the model instead"),
    }


def ties(differences: Tensor, density: float) -> Tensor:
    """Merge differences (memories, ...) into one: trim, elect a sign per entry, average those who agree.

    density: the share of a memory's entries that survive the trimming, the largest by magnitude.

    Source: Yadav, Tam, Choshen, Raffel, Bansal, "TIES-Merging: Resolving Interference When Merging Models", NeurIPS
    2023, algorithm 1, with all weights one.
    """
    flat = differences.flatten(1)
    kept = max(1, round(density * flat.shape[1]))
    least = flat.abs().kthvalue(flat.shape[1] - kept + 1, dim=1, keepdim=True).values
    trimmed = torch.where(flat.abs() >= least, flat, 0.0)
    sign = torch.where(trimmed.sum(dim=0) >= 0, 1.0, -1.0)
    agreeing = (trimmed * sign > 0).to(flat)
    mean = (trimmed * agreeing).sum(dim=0) / agreeing.sum(dim=0).clamp(min=1)
    return mean.reshape(differences.shape[1:])


@dataclass(frozen=True, eq=False)
class _Prepared:
    """What a model's edits need beforehand: out-of-scope prompts by their texts, margins, and where these are from."""

    locality: Mapping[str, tuple[int, ...]]
    margins: Margins
    origin: str


class Wise:
    """One request after another, each trained into the side memory that the ones before have left."""

    name: ClassVar[str] = "wise"
    settings_type: ClassVar[type] = WiseSettings
    recipe: ClassVar[Recipe] = Recipe(WiseSettings, PUBLISHED, derived)

    def __init__(self, settings: WiseSettings | None = None, *, provenance: Mapping[str, str] | None = None) -> None:
        self.settings = settings or WiseSettings()
        self.provenance = dict(provenance or {})
        self._prepared: WeakKeyDictionary[LanguageModel, _Prepared] = WeakKeyDictionary()

    def prepare(self, model: LanguageModel, data: Preparation) -> None:
        """Draw the prefix contexts, keep out-of-scope prompts, and calibrate the margins where none are set.

        Other texts replace what is there for the model; a call without any keeps it.

        Raises: MethodRefused: the model has no such layer, or an encoder. MissingMaterial: there are not two texts.
        """
        matrix = self._matrix(model)
        prefix_contexts(model, lengths=self.settings.context_lengths, seed=self.settings.seed)
        locality = beginnings(model, data.texts, LOCALITY_TEXTS, self.settings.locality_tokens)
        if model in self._prepared and (not locality or locality == self._prepared[model].locality):
            return
        if len(locality) < 2:
            raise MissingMaterial(
                "wise needs running text for its out-of-scope prompts (--editguard-corpus FILE, one document per line; "
                "Preparation(texts=...) from Python)."
            )
        margins, origin = self.settings.margins, self.provenance.get("margins", "default")
        if margins is None:
            margins, origin = calibrated_margins(model, matrix, list(locality.values()))
        self._prepared[model] = _Prepared(locality, margins, origin)

    def apply(self, edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
        """Return `edited` with one further state of its side memory per request.

        Raises: ConflictingEdits: two requests want different targets for one fact. MethodRefused: no such layer, an
            encoder, not prepared, or the training broke down; then nothing has changed.
        """
        return one_by_one(edited, requests, self._edit)

    def _edit(self, edited: EditedModel, request: EditRequest) -> AppliedEdit:
        started = time.perf_counter()
        model, settings = edited.model, self.settings
        matrix, prepared = self._matrix(model), self._preparation(model)
        edited.activate()
        record: dict[str, Any] = {
            "settings": asdict(settings),
            "provenance": self.provenance,
            "margins": {"alpha, beta, gamma": list(prepared.margins), "from": prepared.origin},
            "activation_rule": ACTIVATION_RULE,
        }
        [record["already_true"]] = already_true(model, [request])
        if record["already_true"]:
            warn_already_true(self.name, [request.statement])
            return AppliedEdit(self.name, (request,), (), record, time.perf_counter() - started)

        before = newest(edited.changes, SideMemory, matrix) or SideMemory(matrix, (), None, edits=0, shards=0)
        shard = before.shards if before.current is not None else before.shards + 1
        memory = before.current or self._begun(matrix, shard)
        text, locality = self._out_of_scope(prepared, request)
        training = Training(model, matrix, self._pairs(model, request), locality, settings, prepared.margins)
        try:
            difference, found = training.run(memory)
        except FloatingPointError as failure:
            raise MethodRefused(
                f"wise gave up on {request.statement!r}: {failure}. Nothing was changed; use a smaller step_size, or "
                "load the model in a wider type."
            ) from failure
        threshold = min(memory.threshold, settings.threshold_ratio * found["activation"])
        learned = Memory.of(difference, memory.support, threshold)
        after = self._after(matrix, before, learned, shard)
        record |= found | {
            "locality_text": text,
            "threshold": threshold,
            "shard": shard,
            "shard_edits": before.edits + 1,
            "changed_entries": int((learned.values != 0).sum()),
            "memories": len(after.memories),
            "memory_bytes": stored_bytes([after]),
        }
        return AppliedEdit(self.name, (request,), (after,), record, time.perf_counter() - started)

    def _begun(self, matrix: Matrix, shard: int) -> Memory:
        """A copy of W, with the entries drawn that this shard may change; no prompt stirs it."""
        seed = int(content_id("a mask of wise", self.settings.seed, matrix.name, shard), 16) % 2**63
        support = Support.drawn(matrix.shape, self.settings.mask_ratio, seed)
        wide = torch.promote_types(matrix.parameter.dtype, torch.float32)
        count = int(support.kept().sum())
        return Memory(support, torch.zeros(count, dtype=wide, device=matrix.device), math.inf)

    def _after(self, matrix: Matrix, before: SideMemory, learned: Memory, shard: int) -> SideMemory:
        """The state after an edit: a full shard is closed, and enough closed ones are merged."""
        edits = before.edits + 1
        if edits < self.settings.shard_edits:
            return SideMemory(matrix, before.closed, learned, edits=edits, shards=shard)
        closed, merge = (*before.closed, learned), self.settings.merge_shards
        if merge is not None and shard % merge == 0:
            closed = (*closed[:-merge], merged_memory(closed[-merge:], self.settings.density))
        return SideMemory(matrix, closed, None, edits=0, shards=shard)

    def _out_of_scope(self, prepared: _Prepared, request: EditRequest) -> tuple[str, tuple[int, ...]]:
        """A text that does not mention the edit's subject; which one, the request and the seed decide."""
        subject = request.subject.casefold().strip()
        others = [text for text in prepared.locality if subject not in text.casefold()]
        if not others:
            raise MethodRefused(
                f"wise has no out-of-scope prompt for {request.statement!r}: all texts that it was prepared with "
                "mention the subject; prepare it with others."
            )
        text = random.Random(content_id("locality of wise", self.settings.seed, request.id)).choice(others)
        return text, prepared.locality[text]

    def _pairs(self, model: LanguageModel, request: EditRequest) -> list[Pair]:
        """The request behind each prefix context, the bare one first, and its target, in tokens."""
        contexts = prefix_contexts(model, lengths=self.settings.context_lengths, seed=self.settings.seed)
        _, target = model.encode_answer(request.text, request.target)
        prompts = [model.encode(context + request.text) for context in contexts]
        longest = max(map(len, prompts)) + len(target) - 1
        if model.context_length is not None and longest > model.context_length:
            raise PromptTooLong(f"{request.text} {request.target}", longest, model.context_length)
        return [(prompt, target) for prompt in prompts]

    def _matrix(self, model: LanguageModel) -> Matrix:
        if model.anatomy.encoder_layers:
            raise MethodRefused(
                f"wise cannot edit {model.name}, an encoder-decoder model: its side memory reads prompt and answer in "
                "one stream, and its prefix contexts are running text. `editguard methods` says which methods edit "
                "such models."
            )
        return chosen_matrix(model, self.name, self.settings.layer, self.settings.matrix)

    def _preparation(self, model: LanguageModel) -> _Prepared:
        if model not in self._prepared:
            raise MethodRefused(
                "wise was not prepared for this model: call prepare(model, Preparation(texts=...)) first."
            )
        return self._prepared[model]


def calibrated_margins(model: LanguageModel, matrix: Matrix, prompts: Sequence[Sequence[int]]) -> tuple[Margins, str]:
    """Return margins in the unedited model's own units, and the rule in words.

    The unit s is the median distance between the matrix's outputs at the ends of unrelated texts: an edit in scope
    should move the output as far as another prompt would. (alpha, beta, gamma) = (s/4, s, s/2), in the proportions of
    most published margins.

    Raises: MethodRefused: the outputs do not differ.
    """
    with EditedModel.original(model):
        [outputs] = at_prompt_ends(model, prompts, [(matrix.module, "output")])
    unit = float(torch.nn.functional.pdist(outputs.double()).median())
    if not unit > 0:
        raise MethodRefused("wise cannot calibrate its margins: the layer puts out the same for all texts.")
    rule = f"calibrated: 1/4, 1 and 1/2 of the median distance between the layer's outputs at {len(prompts)} texts"
    return (unit / 4, unit, unit / 2), rule


def merged_memory(memories: Sequence[Memory], density: float) -> Memory:
    """Merge memories by TIES; the threshold is the least of theirs."""
    merged = ties(torch.stack([memory.difference() for memory in memories]), density)
    return Memory.of(merged, Support.of(merged != 0), min(memory.threshold for memory in memories))
