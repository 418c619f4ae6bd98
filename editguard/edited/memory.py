"""An edit that stands in front of the prompt: requests kept in a memory, the weights untouched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from editguard.edits import EditRequest

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel


class Prompter(Protocol):
    """Writes the prompts that make a model answer as the remembered requests want."""

    def __call__(self, rows: Sequence[EditRequest], prompts: Sequence[str]) -> list[str]:
        """Return one prompt for each of `prompts`, given the memory's rows, oldest first."""


def remembered(rows: Sequence[EditRequest], new: Sequence[EditRequest]) -> tuple[EditRequest, ...]:
    """Return the memory after `new`: a later request on the same fact replaces the earlier one."""
    memory = {row.fact_key: row for row in rows}
    for request in new:
        memory.pop(request.fact_key, None)
        memory[request.fact_key] = request
    return tuple(memory.values())


@dataclass(frozen=True, eq=False)
class PromptMemory:
    """A memory of requests, and the way to write prompts from it.

    Attributes:
        rows: all requests of the memory, those of `continues` included, oldest first.
        prompter: writes the prompts; an empty memory never calls it.
        continues: the memory that this one continues; its own rewriting is then skipped.
    """

    rows: tuple[EditRequest, ...]
    prompter: Prompter
    continues: PromptMemory | None = None

    def install(self, model: LanguageModel) -> None:
        """Do nothing: the memory acts on prompts alone."""

    def uninstall(self, model: LanguageModel) -> None:
        """Do nothing: the memory acts on prompts alone."""

    def rewrite(self, prompts: Sequence[str]) -> list[str]:
        """Return the prompts with the memory in front of them."""
        return self.prompter(self.rows, prompts) if self.rows else list(prompts)
