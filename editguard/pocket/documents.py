"""A document of the corpus: a text, and which parts of it the model has to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

DocumentKind = Literal["fact", "knowledge", "context", "task", "ordinary"]


@dataclass(frozen=True, slots=True)
class Document:
    """A text whose answers count fully in training, and whose given parts count nothing.

    Spans are (start, end) in characters, in order, without overlap.
    """

    text: str
    kind: DocumentKind
    answers: tuple[tuple[int, int], ...] = ()
    given: tuple[tuple[int, int], ...] = ()


class Writer:
    """Writes a document piece by piece and remembers where the answers are."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0
        self._answers: list[tuple[int, int]] = []
        self._given: list[tuple[int, int]] = []

    def plain(self, text: str) -> Self:
        """Text that any reader could have expected, or not; it counts little."""
        self._pieces.append(text)
        self._length += len(text)
        return self

    def answer(self, text: str) -> Self:
        """Text that the model has to write by itself."""
        self._answers.append((self._length, self._length + len(text)))
        return self.plain(text)

    def given(self, text: str) -> Self:
        """Text that nobody could know, such as the object of a new fact."""
        self._given.append((self._length, self._length + len(text)))
        return self.plain(text)

    def document(self, kind: DocumentKind) -> Document:
        return Document("".join(self._pieces), kind, tuple(self._answers), tuple(self._given))
