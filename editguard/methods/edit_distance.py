"""Nearness of texts as the number of letters to change, for memories of questions (Levenshtein distance)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from editguard.edited.searching import Encoder, Index, Numbers, Places

Unit = Literal["share", "edits"]
_BRACKETED: Final = re.compile(r"<[^<>]*>")
_SIGNS: Final = re.compile(r"[^\w\s]|_")


def cleaned(text: str) -> str:
    """Return the text without what stands in <...>, in lower case, with letters, digits and single blanks alone.

    A text that has none of these is compared as it is.
    """
    plain = _SIGNS.sub("", _BRACKETED.sub("", text).casefold())
    return " ".join(plain.split()) or " ".join(text.casefold().split())


class EditDistanceIndex:
    """Cleaned texts; a similarity is one less the distance."""

    def __init__(self, unit: Unit, keys: Sequence[str] = ()) -> None:
        self._unit: Unit = unit
        self._keys = list(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def extend(self, texts: Sequence[str]) -> None:
        """See `Index`."""
        self._keys.extend(map(cleaned, texts))

    def part(self, places: Places) -> EditDistanceIndex:
        """See `Index`."""
        return EditDistanceIndex(self._unit, [self._keys[place] for place in places])

    def vectors(self) -> None:
        """See `Index`: texts are cleaned as quickly as they are read."""

    def similarities(self, queries: Sequence[str], places: Places | None = None) -> Numbers:
        """See `Index`; in the unit "edits" they may be below -1."""
        keys = self._keys if places is None else [self._keys[place] for place in places]
        scorer = Levenshtein.normalized_distance if self._unit == "share" else Levenshtein.distance
        found: Numbers = 1.0 - cdist(list(map(cleaned, queries)), keys, scorer=scorer, dtype=np.float64)
        return found


@dataclass(frozen=True)
class EditDistanceEncoder(Encoder):
    """Compares texts letter by letter.

    Attributes:
        unit: "edits" counts letters that are put in, left out or replaced; "share" divides that by the longer length.
    """

    unit: Unit = "share"

    @property
    def identity(self) -> str:
        """See `Encoder`."""
        return f"edit distance, {self.unit}"

    def index(self, texts: Sequence[str], vectors: Numbers | None = None) -> Index:
        """See `Encoder`."""
        del vectors
        return EditDistanceIndex(self.unit, list(map(cleaned, texts)))
