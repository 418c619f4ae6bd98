"""What all memory-based methods do alike: edits become rows of a memory in front of the unchanged model."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from editguard.edited import AppliedEdit, EditedModel, EditMemory, Front, MemoryRow, PromptMemory, newest_memory
from editguard.edited.searching import Encoder
from editguard.edits import EditRequest, refuse_conflicts
from editguard.methods.protocol import Preparation
from editguard.methods.retrieval import encoder

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel


class MemoryMethod(ABC):
    """A method that answers through a memory of edits.

    In a chain the newest memory of a method stands for all of its earlier ones: it holds their rows. Rows are added by
    `apply`, `withdraw` takes some back, and `restore` puts a memory in force that was saved (`EditMemory.save`).
    """

    name: ClassVar[str]
    settings_type: ClassVar[type]
    settings: Any

    def __init__(
        self,
        settings: Any = None,
        *,
        provenance: Mapping[str, str] | None = None,
        nearness: Encoder | None = None,
    ) -> None:
        """`nearness` is an encoder of the caller's own, in place of the one that the settings name."""
        self.settings = settings or self.settings_type()
        self.provenance = dict(provenance or {})
        self._nearness = nearness

    def nearness(self, model: LanguageModel) -> Encoder:
        """Return the encoder by which texts are compared: the caller's own, or that of the setting `encoder`."""
        return self._nearness or encoder(self.settings.encoder, model)

    @abstractmethod
    def prepare(self, model: LanguageModel, data: Preparation) -> None:
        """See `EditMethod`."""

    @abstractmethod
    def front(self, model: LanguageModel) -> Front:
        """Return what asks the model with a memory, for one edit and all that follow until the next.

        Raises: MethodRefused: the method has not been prepared for the model.
        """

    def recorded(self, front: Front, memory: EditMemory, requests: Sequence[EditRequest]) -> Mapping[str, Any]:
        """Return what the edit's record says besides settings and rows."""
        del front, memory, requests
        return {}

    def added(self, memory: EditMemory, rows: Sequence[MemoryRow]) -> EditMemory:
        """Return the memory with these rows; what they replace is gone."""
        return memory.added(rows)

    def apply(self, edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
        """Return `edited` with the requests in its memory.

        Raises: ConflictingEdits: two requests want different targets for one fact. MethodRefused: not prepared.
            MemoryFull: the memory's limit does not allow for them.
        """
        if not requests:
            return edited
        refuse_conflicts(requests)
        return self._with(edited, lambda memory: self.added(memory, list(map(MemoryRow.of, requests))), tuple(requests))

    def withdraw(self, edited: EditedModel, rows: Iterable[EditRequest | str]) -> EditedModel:
        """Return `edited` without some rows of its memory, as if they had not been added.

        Args:
            rows: edit requests, or ids of rows.

        Raises: InvalidEdit: the memory has no such row.
        """
        ids = [row if isinstance(row, str) else row.id for row in rows]
        return self._with(edited, lambda memory: memory.withdrawn(ids), (), withdrawn=ids)

    def remember(self, edited: EditedModel, rows: Sequence[MemoryRow]) -> EditedModel:
        """Return `edited` with more rows in its memory, which need not be edit requests.

        Raises: MethodRefused: not prepared. MemoryFull: the memory's limit does not allow for them.
        """
        requests = tuple(row.request for row in rows if row.request is not None)
        return self._with(edited, lambda memory: self.added(memory, rows), requests)

    def restore(self, edited: EditedModel, memory: EditMemory) -> EditedModel:
        """Return `edited` with another memory, such as one that was loaded, in place of its own.

        Raises: MethodRefused: not prepared. MemoryFull: it has more rows than the settings allow for.
        """
        requests = tuple(row.request for row in memory if row.request is not None)
        return self._with(edited, lambda _: memory, requests)

    def _with(self, edited: EditedModel, change: Any, requests: tuple[EditRequest, ...], **record: Any) -> EditedModel:
        started = time.perf_counter()
        front = self.front(edited.model)
        earlier = newest_memory(edited.changes, self.name)
        limit = self.settings.memory_limit
        before = EditMemory(limit=limit) if earlier is None else earlier.memory
        memory: EditMemory = change(before).limited(limit)
        made = {
            "settings": asdict(self.settings),
            "provenance": dict(self.provenance),
            "memory_rows": len(memory),
            **self.recorded(front, memory, requests),
            **record,
        }
        memories = (PromptMemory(self.name, memory, front, continues=earlier),)
        return edited.extended(AppliedEdit(self.name, requests, memories, made, time.perf_counter() - started))
