"""An edit that stands in front of the model: rows in a memory, and a way to ask with them; no weight changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from editguard.edited.consulted import Consulted
from editguard.edited.edit_memory import EditMemory

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel


class Front(Protocol):
    """Decides for prompts what is read in their place, so that a model answers as the remembered edits want."""

    def consult(self, memory: EditMemory, prompts: Sequence[str]) -> list[Consulted]:
        """Return what is read for each of `prompts`, which differ from each other; the memory has at least one row.

        The model that it is about is in the state that the edits before this one have made.
        """


@dataclass(frozen=True, eq=False)
class PromptMemory:
    """A memory of edits, and the way to ask with it.

    Attributes:
        method: whose memory it is.
        memory: all rows, those of `continues` included.
        front: asks with them; an empty memory never calls it.
        continues: the memory of the same method that this one goes on from, and stands for.
    """

    method: str
    memory: EditMemory
    front: Front
    continues: PromptMemory | None = None

    def install(self, model: LanguageModel) -> None:
        """Do nothing: the memory acts on prompts alone."""

    def uninstall(self, model: LanguageModel) -> None:
        """Do nothing: the memory acts on prompts alone."""

    def consult(self, prompts: Sequence[str]) -> list[Consulted]:
        """Return what is read for each prompt; the prompts differ from each other."""
        return self.front.consult(self.memory, prompts) if len(self.memory) else [Consulted(prompt=p) for p in prompts]
