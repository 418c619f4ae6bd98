"""IKE: edit by demonstrations and the new fact in front of the prompt; no weight changes.

Source: Zheng, Li, Dong, Fan, Wu, Xu, Chang, "Can We Edit Factual Knowledge by In-Context Learning?", EMNLP 2023.
Several requests form one memory: every prompt is answered with the nearest request as the new fact. The paper's IKE is
always on, so a prompt that no request concerns meets the nearest one all the same; with a `scope`, prompts that are not
so near to any go to the model as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal
from weakref import WeakKeyDictionary

from editguard.edited import Consulted, EditMemory, MemoryRow, Retrieved, Search
from editguard.edited.edit_memory import by_key, by_text
from editguard.edited.searching import Encoder
from editguard.edits import EditRequest
from editguard.errors import InvalidSettings, MethodRefused, MissingMaterial
from editguard.methods.demonstrations import (
    Demonstration,
    Pool,
    TypeOrder,
    demonstration_text,
    kept_when_shortened,
    query_text,
)
from editguard.methods.memory_method import MemoryMethod
from editguard.methods.protocol import DemonstrationRecord, Preparation
from editguard.methods.retrieval import check_encoder
from editguard.methods.settings import Recipe

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel

SearchedBy = Literal["either", "statement", "prompt"]
SEARCHED_BY: Final = {"either": (by_key, by_text), "statement": (by_text,), "prompt": (by_key,)}


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
    encoder: str = "tf-idf"
    """What measures the nearness of texts: "tf-idf", "mean-pooled" (the model's own states, which find fewer edits), or
    "sentences:NAME"."""
    searched_by: SearchedBy = "either"
    """What of a remembered edit a question is compared with: its prompt, which lacks the target, its statement, by
    which reversed questions find their edit too, or whichever of the two is nearer (docs/benchmarks.md)."""
    scope: float | None = None
    """Prompts less similar than this to every edit are answered as they are; None = none are (the paper)."""
    memory_limit: int | None = None
    """Most edits in the memory."""
    context_limit: int | None = None
    """Tokens that the model may read and write; None = its own context length."""
    answer_tokens: int = 24
    """Tokens kept free for the answer; none behind an encoder, which reads the prompt alone."""
    seed: int = 0
    """Of the choice among paraphrases and neighbours, and of the shuffle."""

    def __post_init__(self) -> None:
        check_encoder(self.encoder)
        if self.demonstrations < 0:
            raise InvalidSettings(f"demonstrations is not negative; got {self.demonstrations}.")
        if min(self.proportion) < 0 or not any(self.proportion):
            raise InvalidSettings(f"proportion has weights >= 0, not all 0; got {self.proportion}.")
        if self.memory_limit is not None and self.memory_limit < 1:
            raise InvalidSettings(f"memory_limit is at least 1; got {self.memory_limit}.")
        if self.answer_tokens < 1 or (self.context_limit is not None and self.context_limit < 1):
            raise InvalidSettings("answer_tokens and context_limit are at least 1.")


@dataclass(frozen=True)
class Written:
    """A prompt as the model reads it, and how it came about.

    Attributes:
        text: the whole prompt.
        demonstrations: in the order of the text.
        dropped: how many did not fit the context.
        tokens: length of the text.
    """

    text: str
    demonstrations: tuple[Demonstration, ...]
    dropped: int
    tokens: int


class InContextFront:
    """Writes prompts from a memory of requests and a pool of demonstrations."""

    def __init__(self, model: LanguageModel, settings: InContextSettings, pool: Pool | None, nearness: Encoder) -> None:
        self.model = model
        self._settings = settings
        self._pool = pool
        self._searches = [Search(nearness, text) for text in SEARCHED_BY[settings.searched_by]]

    def consult(self, memory: EditMemory, prompts: Sequence[str]) -> list[Consulted]:
        """See `Front`."""
        return [
            Consulted(prompt=probe, route="out-of-scope", retrieved=(found,))
            if made is None
            else Consulted(prompt=made.text, route="in-scope", retrieved=(found,))
            for probe, found, made in self.written(memory, prompts)
        ]

    def written(self, memory: EditMemory, prompts: Sequence[str]) -> list[tuple[str, Retrieved, Written | None]]:
        """Return each prompt, the row that it was compared with, and what is written for it, if it is in scope."""
        subjects = memory.subjects
        scope = self._settings.scope
        found = []
        for probe, (row, similarity) in zip(prompts, nearest_edits(memory, self._searches, prompts), strict=True):
            near = scope is None or similarity >= scope
            made = self.compose(row, probe, subjects) if near else None
            found.append((probe, Retrieved(row.id, similarity), made))
        return found

    def compose(self, row: MemoryRow, probe: str, subjects: frozenset[str]) -> Written:
        """Return the prompt for a probe, with a row as the new fact, cut to the context."""
        settings, request = self._settings, row.request
        nearest = (
            []
            if self._pool is None or request is None
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
            return self._composed(row, probe, nearest, count, copies)

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
        self, row: MemoryRow, probe: str, nearest: Sequence[Demonstration], count: int, copies: bool
    ) -> Written:
        """Return the prompt with `count` of the demonstrations, the nearest one next to the query."""
        kinds = [demonstration.kind for demonstration in nearest]
        kept = kept_when_shortened(kinds, count, self._settings.proportion)
        chosen = [nearest[place] for place in reversed(kept)]
        if copies and row.request is not None:
            own = demonstration_text(row.text, row.key.rstrip(), row.request.target.strip())
            chosen.append(Demonstration(None, "copy", own))
        text = "".join(demonstration.text for demonstration in chosen) + query_text(row.text, probe)
        return Written(text, tuple(chosen), len(nearest) - len(kept), len(self.model.encode(text)))

    def _fits(self, written: Written) -> bool:
        settings = self._settings
        return self.model.fits(written.tokens, answer=settings.answer_tokens, limit=settings.context_limit)


def nearest_edits(
    memory: EditMemory, searches: Sequence[Search], prompts: Sequence[str]
) -> list[tuple[MemoryRow, float]]:
    """Return for each prompt the row that is nearest by any of some searches, of equals that of the first search."""
    found = [[nearest for [nearest] in memory.nearest(search, prompts)] for search in searches]
    return [max(each, key=itemgetter(1)) for each in zip(*found, strict=True)]


class InContextEditing(MemoryMethod):
    """IKE: a memory of requests in front of the prompt, with demonstrations of how to use a new fact."""

    name: ClassVar[str] = "ike"
    settings_type: ClassVar[type] = InContextSettings
    recipe: ClassVar[Recipe] = Recipe(InContextSettings)

    settings: InContextSettings

    def __init__(self, settings: InContextSettings | None = None, **shared: Any) -> None:
        """What else there is goes to `MemoryMethod`."""
        super().__init__(settings, **shared)
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
        pool = Pool.of(data.demonstrations, self.settings.proportion, self.nearness(model))
        if pool is None:
            raise MissingMaterial(
                f"ike needs records to demonstrate with, and of the {len(data.demonstrations)} given none has "
                "paraphrases and neighbours: name a file in [tool.editguard] demonstrations, one JSON object per line "
                "with prompt, subject, target_new, target_true, paraphrases and neighbours "
                "(Preparation(demonstrations=...) from Python), or set demonstrations = 0 to state the new fact alone."
            )
        self._pools[model], self._given[model] = pool, given

    def front(self, model: LanguageModel) -> InContextFront:
        """See `MemoryMethod`."""
        pool = self._pools.get(model)
        if pool is None and self.settings.demonstrations:
            raise MethodRefused(
                "ike was not prepared for this model: call prepare(model, Preparation(demonstrations=[...])) first."
            )
        return InContextFront(model, self.settings, pool, self.nearness(model))

    def recorded(self, front: Any, memory: EditMemory, requests: Sequence[EditRequest]) -> Mapping[str, Any]:
        """How the prompts of the requests themselves come out."""
        own = [front.compose(MemoryRow.of(request), request.text, memory.subjects) for request in requests]
        pool = self._pools.get(front.model)
        return {
            "records": len(pool.records) if pool else 0,
            "records_left_out": pool.left_out if pool else 0,
            "demonstrations": [len(written.demonstrations) for written in own],
            "demonstrations_dropped": [written.dropped for written in own],
            "prompt_tokens": [written.tokens for written in own],
        }
