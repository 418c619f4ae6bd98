"""IKE: edit by demonstrations and the new fact in front of the prompt; no weight changes.

Source: Zheng, Li, Dong, Fan, Wu, Xu, Chang, "Can We Edit Factual Knowledge by In-Context Learning?", EMNLP 2023.
Several requests form one memory: every prompt is answered with the nearest request as the new fact ("always on"; a
prompt that no request concerns meets the nearest one all the same), and a later request on the same fact replaces the
earlier one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakKeyDictionary

from editguard.edited import AppliedEdit, EditedModel, PromptMemory, remembered
from editguard.edits import EditRequest, refuse_conflicts
from editguard.errors import InvalidSettings, MethodRefused, MissingMaterial
from editguard.methods.demonstrations import (
    Demonstration,
    Pool,
    TypeOrder,
    demonstration_text,
    kept_when_shortened,
    query_text,
)
from editguard.methods.protocol import DemonstrationRecord, Preparation
from editguard.methods.retrieval import Encoder, EncoderName, Index, encoder
from editguard.methods.settings import Recipe

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class InContextSettings:
    """Defaults are the paper's; the copy of the edit itself is the released code's."""

    demonstrations: int = 32
    """k: how many, the edit's own copy not counted; fewer where the context is short."""
    proportion: tuple[int, int, int] = (1, 3, 4)
    """Weights of copy, update and retain demonstrations."""
    type_order: TypeOrder = "spread"
    """"spread": kinds alternate evenly (the paper); "shuffled": at random (the released code)."""
    copies_edit: bool = True
    """Whether a copy demonstration of the edit itself stands last."""
    encoder: EncoderName = "tf-idf"
    """What measures the nearness of texts."""
    context_limit: int | None = None
    """Tokens that the model may read and write; None = its own context length."""
    answer_tokens: int = 24
    """Tokens kept free for the answer; none behind an encoder, which reads the prompt alone."""
    seed: int = 0
    """Of the choice among paraphrases and neighbours, and of the shuffle."""

    def __post_init__(self) -> None:
        if self.demonstrations < 0:
            raise InvalidSettings(f"demonstrations is not negative; got {self.demonstrations}.")
        if min(self.proportion) < 0 or not any(self.proportion):
            raise InvalidSettings(f"proportion has weights >= 0, not all 0; got {self.proportion}.")
        if self.answer_tokens < 1 or (self.context_limit is not None and self.context_limit < 1):
            raise InvalidSettings("answer_tokens and context_limit are at least 1.")


@dataclass(frozen=True)
class Written:
    """A prompt as the model reads it, and how it came about.

    Attributes:
        text: the whole prompt.
        row: id of the request used as the new fact, with its `similarity` to the probe.
        demonstrations: in the order of the text.
        dropped: how many did not fit the context.
        tokens: length of the text.
    """

    text: str
    row: str
    similarity: float
    demonstrations: tuple[Demonstration, ...]
    dropped: int
    tokens: int


class InContextPrompter:
    """Writes prompts from a memory of requests and a pool of demonstrations."""

    def __init__(self, model: LanguageModel, settings: InContextSettings, pool: Pool | None, nearness: Encoder) -> None:
        self._model = model
        self._settings = settings
        self._pool = pool
        self._encoder = nearness
        self._routes: tuple[tuple[EditRequest, ...], Index] | None = None

    def __call__(self, rows: Sequence[EditRequest], prompts: Sequence[str]) -> list[str]:
        """Return the prompts that the model reads."""
        return [written.text for written in self.written(rows, prompts)]

    def written(self, rows: Sequence[EditRequest], prompts: Sequence[str]) -> list[Written]:
        """Return the prompts with their history."""
        unique = list(dict.fromkeys(prompts))
        subjects = [row.subject for row in rows]
        made = {
            probe: self.compose(rows[place], probe, subjects, similarity)
            for probe, (place, similarity) in zip(unique, self._routed(rows, unique), strict=True)
        }
        return [made[prompt] for prompt in prompts]

    def compose(self, request: EditRequest, probe: str, subjects: Sequence[str], similarity: float = 1.0) -> Written:
        """Return the prompt for a probe, with `request` as the new fact, cut to the context."""
        settings = self._settings
        nearest = (
            []
            if self._pool is None
            else self._pool.nearest(
                request,
                probe,
                settings.demonstrations,
                proportion=settings.proportion,
                order=settings.type_order,
                edited_subjects=subjects,
                seed=settings.seed,
            )
        )

        def attempt(count: int, copies: bool = settings.copies_edit) -> Written:
            return self._composed(request, probe, nearest, count, copies, similarity)

        whole = attempt(len(nearest))
        if self._fits(whole):
            return whole
        fitting, too_many = 0, len(nearest)
        while too_many - fitting > 1:  # the length grows with the count: each selection is part of the longer ones
            middle = (fitting + too_many) // 2
            fitting, too_many = (middle, too_many) if self._fits(attempt(middle)) else (fitting, middle)
        shortened = attempt(fitting)
        return shortened if self._fits(shortened) else attempt(0, copies=False)

    def _composed(
        self,
        request: EditRequest,
        probe: str,
        nearest: Sequence[Demonstration],
        count: int,
        copies: bool,
        similarity: float,
    ) -> Written:
        """Return the prompt with `count` of the demonstrations, the nearest one next to the query."""
        kinds = [demonstration.kind for demonstration in nearest]
        kept = kept_when_shortened(kinds, count, self._settings.proportion)
        chosen = [nearest[place] for place in reversed(kept)]
        if copies:
            own = demonstration_text(request.statement, request.text.rstrip(), request.target.strip())
            chosen.append(Demonstration(None, "copy", own))
        text = "".join(demonstration.text for demonstration in chosen) + query_text(request.statement, probe)
        tokens = len(self._model.encode(text))
        return Written(text, request.id, similarity, tuple(chosen), len(nearest) - len(kept), tokens)

    def _fits(self, written: Written) -> bool:
        limits = (self._settings.context_limit, self._model.context_length)
        known = [limit for limit in limits if limit is not None]
        beside = 0 if self._model.anatomy.encoder_layers else self._settings.answer_tokens
        return not known or written.tokens + beside <= min(known)

    def _routed(self, rows: Sequence[EditRequest], probes: Sequence[str]) -> list[tuple[int, float]]:
        """Return for each probe the nearest row and its similarity; of equals the older one."""
        if len(rows) == 1:
            return [(0, 1.0)] * len(probes)
        memory = tuple(rows)
        if self._routes is None or self._routes[0] != memory:
            self._routes = (memory, self._encoder.index([row.text for row in memory]))
        nearness = self._routes[1].similarities(probes)
        return [(int(row.argmax()), float(row.max())) for row in nearness]


class InContextEditing:
    """IKE: a memory of requests in front of the prompt, with demonstrations of how to use a new fact."""

    name: ClassVar[str] = "ike"
    settings_type: ClassVar[type] = InContextSettings
    recipe: ClassVar[Recipe] = Recipe(InContextSettings)

    def __init__(
        self,
        settings: InContextSettings | None = None,
        *,
        provenance: Mapping[str, str] | None = None,
        nearness: Encoder | None = None,
    ) -> None:
        """`nearness` is an encoder of the caller's own, in place of the one that the settings name."""
        self.settings = settings or InContextSettings()
        self.provenance = dict(provenance or {})
        self._nearness = nearness
        self._pools: WeakKeyDictionary[LanguageModel, Pool] = WeakKeyDictionary()
        self._given: WeakKeyDictionary[LanguageModel, tuple[DemonstrationRecord, ...]] = WeakKeyDictionary()

    def prepare(self, model: LanguageModel, data: Preparation) -> None:
        """Index the demonstration records; others than last time replace them, so that no order of calls matters.

        Raises: MethodRefused: there are none, or none that can serve as every kind.
        """
        given = tuple(data.demonstrations)
        if not self.settings.demonstrations or self._given.get(model) == given:
            return
        data.on_progress(f"ike: indexing {len(data.demonstrations)} demonstration records")
        pool = Pool.of(data.demonstrations, self.settings.proportion, self._encoder(model))
        if pool is None:
            raise MissingMaterial(
                f"ike needs records to demonstrate with, and of the {len(data.demonstrations)} given none has "
                "paraphrases and neighbours: name a file in [tool.editguard] demonstrations, one JSON object per line "
                "with prompt, subject, target_new, target_true, paraphrases and neighbours "
                "(Preparation(demonstrations=...) from Python), or set demonstrations = 0 to state the new fact alone."
            )
        self._pools[model], self._given[model] = pool, given

    def apply(self, edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
        """Return `edited` with the requests in its memory.

        Raises: ConflictingEdits: two requests want different targets for one fact. MethodRefused: not prepared.
        """
        if not requests:
            return edited
        refuse_conflicts(requests)
        started = time.perf_counter()
        model = edited.model
        pool = self._pools.get(model)
        if pool is None and self.settings.demonstrations:
            raise MethodRefused(
                "ike was not prepared for this model: call prepare(model, Preparation(demonstrations=[...])) first."
            )
        earlier = next((change for change in reversed(edited.changes) if isinstance(change, PromptMemory)), None)
        rows = remembered(earlier.rows if earlier else (), requests)
        prompter = InContextPrompter(model, self.settings, pool, self._encoder(model))
        subjects = [row.subject for row in rows]
        own = [prompter.compose(request, request.text, subjects) for request in requests]
        record = {
            "settings": asdict(self.settings),
            "provenance": self.provenance,
            "memory_rows": len(rows),
            "records": len(pool.records) if pool else 0,
            "records_left_out": pool.left_out if pool else 0,
            "demonstrations": [len(written.demonstrations) for written in own],
            "demonstrations_dropped": [written.dropped for written in own],
            "prompt_tokens": [written.tokens for written in own],
        }
        memory = PromptMemory(rows, prompter, continues=earlier)
        return edited.extended(
            AppliedEdit(self.name, tuple(requests), (memory,), record, time.perf_counter() - started)
        )

    def _encoder(self, model: LanguageModel) -> Encoder:
        return self._nearness or encoder(self.settings.encoder, model)
