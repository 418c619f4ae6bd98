"""Remembered texts inside a prompt: templates with slots, and quotation that cannot pass for the template."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from editguard.errors import InvalidSettings

_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class PromptTemplate:
    """Text with named slots, each exactly once: "Feedback: {feedback}.\\n{prompt}".

    Raises: InvalidSettings: a slot is missing, comes twice, or is unknown; `name` tells the user which setting it is.
    """

    name: str
    text: str
    slots: tuple[str, ...]

    def __post_init__(self) -> None:
        if sorted(_SLOT.findall(self.text)) != sorted(self.slots):
            wanted = " and ".join(f"{{{slot}}}" for slot in self.slots)
            raise InvalidSettings(
                f"{self.name} has each of the slots {wanted} once, and no other; it is {self.text!r}."
            )

    @cached_property
    def structure(self) -> tuple[str, ...]:
        """The labels and separators between the slots, line by line; what reads as words alone is none."""
        pieces = [line.strip() for piece in _SLOT.split(self.text)[::2] for line in piece.split("\n")]
        pieces = [piece.lstrip(".").strip() for piece in pieces]
        return tuple(piece for piece in dict.fromkeys(pieces) if _words(piece) != piece)

    def filled(self, **values: str) -> str:
        """Return the text with the values in its slots; a value that ends a sentence does not end it twice."""

        def value(slot: re.Match[str]) -> str:
            found = values[slot[1]]
            return found.removesuffix(".") if self.text.startswith(".", slot.end()) else found

        return _SLOT.sub(value, self.text)


def quoted(text: str, structure: Iterable[str], limit: int) -> str:
    """Return a remembered text as a prompt may hold it: on one line, of at most `limit` characters, without structure.

    Args:
        text: anything that a person has written.
        structure: labels, separators and special tokens; of each only the words are left, in any case of letters.
    """
    line, before = " ".join(text.split()), ""
    pieces = [piece for piece in structure if piece]
    while line != before:  # what is taken out may bring other pieces together
        before = line
        for piece in pieces:
            line = re.sub(re.escape(piece), _words(piece), line, flags=re.IGNORECASE)
        line = " ".join(line.split())
    if len(line) > limit:
        cut = line[:limit]
        line = (cut if line[limit] == " " else cut.rpartition(" ")[0] or cut).rstrip()
    return line


def _words(piece: str) -> str:
    return " ".join(re.sub(r"[^\w\s]|_", "", piece).split())
