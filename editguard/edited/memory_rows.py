"""What a memory of edits is made of: one row for each edit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from editguard.edits import EditRequest, content_id
from editguard.errors import InvalidEdit


@dataclass(frozen=True, kw_only=True)
class MemoryRow:
    """One edit as a memory holds it.

    Attributes:
        key: the question, or the beginning of the statement, that it answers.
        text: what is put in front of a question: a statement of the fact, or a person's feedback.
        request: the edit request; None for feedback on a question that is no edit request.
    """

    key: str
    text: str
    request: EditRequest | None = None

    def __post_init__(self) -> None:
        for name in ("key", "text"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise InvalidEdit(f"the {name} of a row of a memory is a text that is not empty; it is {value!r}.")
            if unwritable(value):
                raise InvalidEdit(f"the {name} of a row of a memory cannot be written as UTF-8: {value!r}.")

    @classmethod
    def of(cls, request: EditRequest) -> MemoryRow:
        """Return the row of an edit request."""
        return cls(key=request.text, text=request.statement, request=request)

    @cached_property
    def id(self) -> str:
        """The id of the request, or one made of the texts."""
        return self.request.id if self.request is not None else content_id("row", self.key, self.text)

    @property
    def fact(self) -> tuple[str, ...]:
        """What it is about: two rows of one fact contradict, or repeat, each other."""
        return self.request.fact_key if self.request is not None else (" ".join(self.key.casefold().split()),)

    @property
    def claims(self) -> tuple[tuple[str, ...], ...]:
        """Its fact and its id: of rows with a claim in common a memory holds the last one."""
        return ("fact", *self.fact), ("id", self.id)


def unwritable(text: str) -> bool:
    """Whether it holds half of a character, as broken JSON may."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)
