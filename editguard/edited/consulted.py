"""What an edited model reads in place of a prompt, how that came about, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from editguard.models.generation import Generation

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel

Route = Literal["plain", "in-scope", "out-of-scope"]


@dataclass(frozen=True)
class Retrieved:
    """A row of a memory that was looked up: its id, and how similar it is to the prompt, or how likely in scope."""

    row: str
    similarity: float


@dataclass(frozen=True, kw_only=True)
class Consulted:
    """What is read for one prompt. It is decided on the prompt alone, once, and holds for answers and scores alike.

    Attributes:
        prompt: the text that is read in the end.
        route: "plain" where no memory was asked; whether a memory took the prompt for one of its own.
        retrieved: the rows that it found, the best first.
        outcome: how a procedure of several steps ended, "" where there is none.
        calls: generations that were made to write the prompt.
        read, written: tokens that the model read and wrote in these, cached ones included.
        answered_by: the model that answers in place of the one under edit, None for that one.
    """

    prompt: str
    route: Route = "plain"
    retrieved: tuple[Retrieved, ...] = ()
    outcome: str = ""
    calls: int = 0
    read: int = 0
    written: int = 0
    answered_by: LanguageModel | None = field(default=None, compare=False, repr=False)

    def after(self, earlier: Consulted) -> Consulted:
        """Return this, found for the prompt that `earlier` had written, with the costs of both."""
        return replace(
            self,
            route=self.route if self.route != "plain" else earlier.route,
            retrieved=(*earlier.retrieved, *self.retrieved),
            outcome=self.outcome or earlier.outcome,
            calls=earlier.calls + self.calls,
            read=earlier.read + self.read,
            written=earlier.written + self.written,
        )


@dataclass(frozen=True)
class Answered(Generation):
    """An answer of an edited model.

    Attributes:
        consulted: what was read for it.
        tokens: all tokens that were read and written for it, those of earlier steps included.
    """

    consulted: Consulted = Consulted(prompt="")
    tokens: int = 0
