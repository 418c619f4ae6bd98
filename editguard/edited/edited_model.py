"""A model with edits in force: it answers and scores like a model, whatever the methods did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from editguard.edited.consulted import Answered, Consulted
from editguard.edited.edit_memory import EditMemory
from editguard.edited.memory import PromptMemory
from editguard.edited.stack import switch
from editguard.edited.stored import stored_bytes
from editguard.edits import EditRequest

if TYPE_CHECKING:
    from types import TracebackType

    from editguard.models.generation import Generation
    from editguard.models.language_model import Change, LanguageModel
    from editguard.models.scoring import Score

_Found = TypeVar("_Found")


@dataclass(frozen=True, eq=False)
class AppliedEdit:
    """One application of a method.

    Attributes:
        method: the method's registered name.
        requests: what was asked, in order; several when the method edits in batches.
        changes: what it left behind, oldest first.
        record: diagnostics and the settings in force, ready for JSON.
        seconds: wall-clock time of the application, preparation not included.
    """

    method: str
    requests: tuple[EditRequest, ...]
    changes: tuple[Change, ...]
    record: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "requests", tuple(self.requests))
        object.__setattr__(self, "changes", tuple(self.changes))
        object.__setattr__(self, "record", MappingProxyType(dict(self.record)))


class EditedModel:
    """An immutable chain of applied edits over one physical model.

    Many edited models share the physical model: each call first brings it to its own stack of changes, which
    costs nothing when that stack is in force already. As a context manager it keeps its stack in force inside
    the block, and puts back the one before.
    """

    def __init__(self, model: LanguageModel, edits: Sequence[AppliedEdit] = ()) -> None:
        self.model = model
        self.edits = tuple(edits)
        self._outer: list[tuple[Change, ...]] = []
        self._consulted: dict[str, Consulted] = {}

    @classmethod
    def original(cls, model: LanguageModel) -> Self:
        """Return the model without any edit."""
        return cls(model)

    def extended(self, applied: AppliedEdit) -> EditedModel:
        """Return the chain with one more edit on top; this one stays as it is."""
        return EditedModel(self.model, (*self.edits, applied))

    def prefix(self, n_edits: int) -> EditedModel:
        """Return the chain of the first `n_edits` applied edits; nothing is computed anew.

        Raises: ValueError: `n_edits` is negative or more than there are.
        """
        if not 0 <= n_edits <= len(self.edits):
            raise ValueError(f"the chain has {len(self.edits)} edits; a prefix of {n_edits} does not exist.")
        return EditedModel(self.model, self.edits[:n_edits])

    def anew(self) -> EditedModel:
        """Return the same chain without what it has found in its memories for the prompts so far."""
        return self.prefix(len(self.edits))

    @property
    def requests(self) -> tuple[EditRequest, ...]:
        """All requests in the order of their application."""
        return tuple(request for edit in self.edits for request in edit.requests)

    @property
    def changes(self) -> tuple[Change, ...]:
        """All changes, oldest first."""
        return tuple(change for edit in self.edits for change in edit.changes)

    def stored_bytes(self) -> int | None:
        """Return the bytes of all numbers that the edits left behind; see `editguard.edited.stored`."""
        return stored_bytes(self.changes)

    def activate(self) -> None:
        """Bring the physical model to exactly this stack; nothing happens when it is there already."""
        switch(self.model, self.changes)

    def count_tokens(self, prompts: Sequence[str]) -> int:
        """Return how many tokens the prompts have together, before any memory writes them anew."""
        return sum(len(self.model.encode(prompt)) for prompt in prompts)

    def memory(self, method: str | None = None) -> EditMemory | None:
        """Return the newest memory of edits, or that of one method; None where there is none."""
        found = newest_memory(self.changes, method)
        return None if found is None else found.memory

    def consult(self, prompts: Sequence[str]) -> list[Consulted]:
        """Return what is read in place of each prompt, by which model, and how that came about.

        It is found once for each prompt, and holds for every later question of this chain.
        """
        self.activate()
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._consulted]
        if new:
            self._consulted.update(zip(new, self._consult(new), strict=True))
        return [self._consulted[prompt] for prompt in prompts]

    def _consult(self, prompts: Sequence[str]) -> list[Consulted]:
        found = [Consulted(prompt=prompt) for prompt in prompts]
        memories = [change for change in self.changes if isinstance(change, PromptMemory)]
        continued = {id(memory.continues) for memory in memories}
        for memory in memories:
            if id(memory) in continued:
                continue
            # a prompt that another model answers already is not the next memory's business
            asked = dict.fromkeys(each.prompt for each in found if each.answered_by is None)
            written = dict(zip(asked, memory.consult(list(asked)), strict=True))
            found = [each if each.answered_by is not None else written[each.prompt].after(each) for each in found]
        return found

    def by_model(self, prompts: Sequence[str]) -> list[tuple[LanguageModel, list[int], list[str]]]:
        """Return who reads what: for each model the places of its prompts, and the texts that it reads.

        Models are asked apart, so that what one reads does not change the other's batches. The model under edit is in
        this chain's state.
        """
        groups: dict[int, tuple[LanguageModel, list[int], list[str]]] = {}
        for place, consulted in enumerate(self.consult(prompts)):
            model = consulted.answered_by or self.model
            _, places, texts = groups.setdefault(id(model), (model, [], []))
            places.append(place)
            texts.append(consulted.prompt)
        return list(groups.values())

    def generate(self, prompts: Sequence[str], **options: Any) -> list[Answered]:
        """Answer the prompts greedily; options as for `LanguageModel.generate`."""

        def ask(model: LanguageModel, places: Sequence[int], texts: Sequence[str]) -> list[Answered]:
            return [
                self._answered(prompts[place], made)
                for place, made in zip(places, model.generate(texts, **options), strict=True)
            ]

        return self._asked(prompts, ask)

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        """Score (prompt, answer) pairs by teacher forcing, through the same prompts as decoding."""

        def ask(model: LanguageModel, places: Sequence[int], texts: Sequence[str]) -> list[Score]:
            return model.score([(text, pairs[place][1]) for place, text in zip(places, texts, strict=True)])

        return self._asked([prompt for prompt, _ in pairs], ask)

    def next_tokens(self, prompts: Sequence[str], k: int = 5) -> list[list[tuple[str, float]]]:
        """Return the `k` most likely next tokens after each prompt, with probabilities."""
        return self._asked(prompts, lambda model, _, texts: model.next_tokens(texts, k))

    def _asked(self, prompts: Sequence[str], ask: Callable[..., Sequence[_Found]]) -> list[_Found]:
        """What `ask(model, places, texts)` finds for the prompts of each model, in the order of the prompts."""
        found: dict[int, _Found] = {}
        for model, places, texts in self.by_model(prompts):
            found.update(zip(places, ask(model, places, texts), strict=True))
        return [found[place] for place in range(len(prompts))]

    def _answered(self, prompt: str, made: Generation) -> Answered:
        consulted = self._consulted[prompt]
        tokens = consulted.read + consulted.written + made.prompt_tokens + len(made.token_ids)
        return Answered(**vars(made), consulted=consulted, tokens=tokens)

    def __enter__(self) -> Self:
        before = tuple(self.model.installed)
        self.activate()
        self._outer.append(before)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        switch(self.model, self._outer.pop())

    def __repr__(self) -> str:
        methods = ", ".join(dict.fromkeys(edit.method for edit in self.edits)) or "no edit"
        return f"EditedModel({self.model.name!r}, {len(self.requests)} requests, {methods})"


def newest_memory(changes: Sequence[Change], method: str | None = None) -> PromptMemory | None:
    """Return the newest memory among changes, or that of one method; None where there is none."""
    for change in reversed(changes):
        if isinstance(change, PromptMemory) and method in (None, change.method):
            return change
    return None
