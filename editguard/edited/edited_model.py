"""A model with edits in force: it answers and scores like a model, whatever the methods did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from editguard.edited.memory import PromptMemory
from editguard.edited.stack import switch
from editguard.edited.stored import stored_bytes
from editguard.edits import EditRequest

if TYPE_CHECKING:
    from types import TracebackType

    from editguard.models.generation import Generation
    from editguard.models.language_model import Change, LanguageModel
    from editguard.models.scoring import Score


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

    def rewrite(self, prompts: Sequence[str]) -> list[str]:
        """Return what the physical model reads instead of `prompts`."""
        changes = self.changes
        continued = {id(change.continues) for change in changes if isinstance(change, PromptMemory)}
        rewritten = list(prompts)
        for change in changes:
            if id(change) not in continued:
                rewritten = change.rewrite(rewritten)
        return rewritten

    def generate(self, prompts: Sequence[str], **options: Any) -> list[Generation]:
        """Answer the prompts greedily; options as for `LanguageModel.generate`."""
        self.activate()
        return self.model.generate(self.rewrite(prompts), **options)

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        """Score (prompt, answer) pairs by teacher forcing, through the same prompts as decoding."""
        self.activate()
        prompts = self.rewrite([prompt for prompt, _ in pairs])
        answers = [answer for _, answer in pairs]
        return self.model.score(list(zip(prompts, answers, strict=True)))

    def next_tokens(self, prompts: Sequence[str], k: int = 5) -> list[list[tuple[str, float]]]:
        """Return the `k` most likely next tokens after each prompt, with probabilities."""
        self.activate()
        return self.model.next_tokens(self.rewrite(prompts), k)

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
