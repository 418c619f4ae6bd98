"""SERAC: a memory of edits, a classifier that tells which one concerns a prompt, and a small model that answers then.

Source: Mitchell, Lin, Bosselut, Manning, Finn, "Memory-Based Model Editing at Scale", ICML 2022.
A prompt is compared with every remembered edit. Where the best score is above the threshold, the counterfactual model
reads that edit and the prompt, and answers alone; everywhere else the model under edit answers, untouched. The scope is
decided on the prompt alone. Classifier and counterfactual model are trained on edit cases; the model under edit is
never run in that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from editguard.edited import Consulted, EditMemory, Retrieved, Search
from editguard.edited.edit_memory import by_text
from editguard.edits import EditRequest, content_id
from editguard.errors import InvalidSettings, ModelNotLoaded
from editguard.methods.counterfactual_model import question, started_from, untrained
from editguard.methods.editor_examples import Draws
from editguard.methods.memory_method import MemoryMethod
from editguard.methods.protocol import Preparation
from editguard.methods.retrieval import check_encoder, encoder
from editguard.methods.scope_calibration import threshold_for
from editguard.methods.scope_classifier import Form, OwnTokens, ScopeClassifier, SharedTokens, small_encoder
from editguard.methods.serac_training import SeracEditor, SeracTraining
from editguard.methods.settings import Recipe
from editguard.methods.trained_editors import Matrices, TrainedEditors, TrainedEditorSettings
from editguard.models.weights import tensor_digests

if TYPE_CHECKING:
    from pathlib import Path

    from editguard.models.language_model import LanguageModel

CODE: Final = 1
"""Version of the training: raised when the same input would give other networks."""


@dataclass(frozen=True, kw_only=True)
class SeracSettings(TrainedEditorSettings):
    """Defaults are the released code's, but for the networks, which start from nothing unless models are named."""

    steps: int = 1_000_000
    """Optimiser steps, at most."""
    edits_per_step: int = 100
    """Edits whose gradients are averaged for a step."""
    validate_every: int = 5_000
    """Steps between two validations."""
    patience: int | None = 40_000
    """Steps without a better validation after which the training ends; None goes on to the last step."""
    form: Form = "embedding"
    """"embedding": one vector a text, and distances; "cross-attention": a pass for every pair of edit and prompt."""
    classifier_model: str | None = None
    """Name or folder of the encoder that the classifier starts from (the paper: distilbert-base-cased); None makes a
    small one with the tokens of the model under edit."""
    classifier_layers: int = 4
    """Blocks of a small one."""
    classifier_width: int = 256
    """Width of a small one; a multiple of 32, or less than that."""
    counterfactual_model: str | None = None
    """Name or folder of the model that the counterfactual model starts from, with the same tokens as the model under
    edit (the paper: T5-small for T5-large); None makes a small one of the same family."""
    counterfactual_layers: int | None = None
    """Blocks of a small one, in each stack; None = a quarter of the model's own, at least 2."""
    counterfactual_width: int | None = None
    """Width of a small one, in whole attention heads; None = half of the model's own."""
    step_size: float = 1e-5
    """Adam's learning rate for a network that starts from a model."""
    untrained_step_size: float = 1e-3
    """Adam's learning rate for a network that starts from nothing, of which the paper has none."""
    schedule: int | None = None
    """Steps over which the learning rates fall to 0, in a straight line; None keeps them."""
    counterfactual_weight: float = 0.1
    """Weight of the counterfactual model's loss, nats per token."""
    classifier_weight: float = 1.0
    """Weight of the classifier's loss, nats."""
    hard_negatives: float = 0.5
    """Share of the prompts of other edits that are drawn among those near to the edit."""
    nearness: str = "tf-idf"
    """What measures that nearness: "tf-idf", "mean-pooled" (the model's own states), or "sentences:NAME"."""
    threshold: float = 0.5
    """Score above which a prompt is in scope."""
    false_hits: float | None = None
    """Share of held-out prompts out of scope that may be taken for being in it: chooses the threshold in its place."""
    memory_limit: int | None = None
    """Most edits in the memory."""

    of_use: ClassVar[frozenset[str]] = frozenset({"editor", "threshold", "false_hits", "memory_limit"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_encoder(self.nearness)
        for name in ("classifier_layers", "classifier_width", "counterfactual_layers", "counterfactual_width"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InvalidSettings(f"{name} is at least 1, not {value}.")
        if self.classifier_width > 32 and self.classifier_width % 32:
            raise InvalidSettings(
                f"classifier_width is a multiple of 32, or less than that; not {self.classifier_width}."
            )
        for name in ("step_size", "untrained_step_size"):
            if getattr(self, name) <= 0:
                raise InvalidSettings(f"{name} is positive, not {getattr(self, name)}.")
        for name in ("counterfactual_weight", "classifier_weight"):
            if getattr(self, name) <= 0:
                raise InvalidSettings(f"{name} is positive, not {getattr(self, name)}.")
        for name in ("hard_negatives", "threshold", "false_hits"):
            if (value := getattr(self, name)) is not None and not 0 <= value <= 1:
                raise InvalidSettings(f"{name} is between 0 and 1, not {value}.")
        for name in ("schedule", "memory_limit"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InvalidSettings(f"{name} is at least 1, or none; not {value}.")


class SeracFront:
    """Decides for prompts whether an edit concerns them, and who answers.

    Args:
        search: how a memory's rows are scored.
        answering: the counterfactual model.
        threshold: score above which a prompt is in scope.
        editor: what an edit's record says of the networks.
    """

    def __init__(
        self, search: Search, answering: LanguageModel, threshold: float, editor: Mapping[str, Any] | None = None
    ) -> None:
        self.search, self.answering, self.threshold, self.editor = search, answering, threshold, dict(editor or {})

    def consult(self, memory: EditMemory, prompts: Sequence[str]) -> list[Consulted]:
        """See `Front`."""
        found = []
        for prompt, [(row, score)] in zip(prompts, memory.nearest(self.search, prompts), strict=True):
            retrieved = (Retrieved(row.id, score),)
            if score > self.threshold:
                read = question(row.text, prompt)
                found.append(Consulted(prompt=read, route="in-scope", retrieved=retrieved, answered_by=self.answering))
            else:
                found.append(Consulted(prompt=prompt, route="out-of-scope", retrieved=retrieved))
        return found


class Serac(MemoryMethod):
    """SERAC: any number of requests in one memory; the weights of the model keep their bytes."""

    name: ClassVar[str] = "serac"
    settings_type: ClassVar[type] = SeracSettings
    recipe: ClassVar[Recipe] = Recipe(SeracSettings)

    settings: SeracSettings

    def __init__(self, settings: SeracSettings | None = None, *, provenance: Mapping[str, str] | None = None) -> None:
        super().__init__(settings, provenance=provenance)
        self._editors = TrainedEditors(
            self.name,
            CODE,
            self.settings,
            build=self._build,
            trainee=self._trainee,
            asks_model=False,
            started_from=self._started_from,
        )

    def prepare(self, model: LanguageModel, data: Preparation) -> None:
        """Find the model's trained networks, or train them; see `TrainedEditors.prepare`."""
        self._editors.prepare(model, data)

    def train(self, model: LanguageModel, data: Preparation, folder: Path | None) -> Path | None:
        """Train the model's networks and return where they are; see `TrainedEditors.train`."""
        return self._editors.train(model, data, folder)

    def front(self, model: LanguageModel) -> SeracFront:
        """See `MemoryMethod`."""
        ready = self._editors.of(model)
        editor, settings = ready.editor, self.settings
        threshold = settings.threshold
        if settings.false_hits is not None:
            threshold = threshold_for(editor.out_of_scope_scores, settings.false_hits)
        return SeracFront(Search(editor.encoder, by_text), editor.answering, threshold, ready.record)

    def recorded(self, front: Any, memory: EditMemory, requests: Sequence[EditRequest]) -> Mapping[str, Any]:
        """Which networks, the threshold in force, and how the requests' own prompts are scored."""
        scores = memory.nearest(front.search, [request.text for request in requests])
        return {
            "editor": front.editor,
            "threshold": front.threshold,
            "own_scores": [score for [(_, score)] in scores],
        }

    # ---- the networks

    def _started_from(self, model: LanguageModel) -> Mapping[str, str]:
        """The models that the settings name, with a digest of what is in them."""
        found = {}
        if (name := self.settings.classifier_model) is not None:
            found["classifier_model"] = f"{name}: {_digest(_encoder(name, model.offline)[0])}"
        if (name := self.settings.counterfactual_model) is not None:
            found["counterfactual_model"] = f"{name}: {_digest(started_from(name, model))}"
        return found

    def _build(self, model: LanguageModel, matrices: Matrices, seed: int) -> SeracEditor:
        del matrices
        settings = self.settings
        if settings.counterfactual_model is None:
            layers, width = settings.counterfactual_layers, settings.counterfactual_width
            counterfactual = untrained(model, layers, width, seed)
        else:
            counterfactual = started_from(settings.counterfactual_model, model)
        return SeracEditor(self._classifier(model, seed), counterfactual, model)

    def _classifier(self, model: LanguageModel, seed: int) -> ScopeClassifier:
        settings = self.settings
        if settings.classifier_model is None:
            tokens = SharedTokens(model.tokenizer)
            network = small_encoder(tokens, settings.classifier_layers, settings.classifier_width, seed)
            reader: SharedTokens | OwnTokens = tokens
        else:
            network, tokenizer = _encoder(settings.classifier_model, model.offline)
            limits = (tokenizer.model_max_length, getattr(network.config, "max_position_embeddings", None))
            reader = OwnTokens(tokenizer, min(limit for limit in limits if limit is not None))
        head = None
        if settings.form == "cross-attention":
            head = 0.02 * torch.randn(2, network.config.hidden_size, generator=torch.Generator().manual_seed(seed))
        return ScopeClassifier(network, reader, head)

    def _trainee(
        self, model: LanguageModel, matrices: Matrices, editor: SeracEditor, train: Draws, validation: Draws
    ) -> SeracTraining:
        del matrices
        settings = self.settings
        named = {"classifier": settings.classifier_model, "counterfactual": settings.counterfactual_model}
        return SeracTraining(
            self.name,
            model,
            editor,
            settings,
            rates={
                part: settings.untrained_step_size if n is None else settings.step_size for part, n in named.items()
            },
            nearness=encoder(settings.nearness, model),
            train=train,
            validation=validation,
            seed=train.seed,
        )


def _encoder(name: str, offline: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The encoder of that name or folder in float32, and its tokenizer.

    Raises: ModelNotLoaded: there is none, or it is not stored as safetensors.
    """
    try:
        common = {"local_files_only": offline, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(name, **common)
        network = AutoModel.from_pretrained(name, dtype=torch.float32, use_safetensors=True, **common)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as failure:
        first = (str(failure).strip() or type(failure).__name__).splitlines()[0]
        raise ModelNotLoaded(
            f"serac cannot load the classifier model {name!r}: {first} Give a folder, or a name on the hub, of an "
            "encoder in safetensors; or leave classifier_model out."
        ) from failure
    return network.train(False), tokenizer


def _digest(network: PreTrainedModel) -> str:
    return content_id(tensor_digests(network))
