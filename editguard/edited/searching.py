"""Searching texts by nearness: what an encoder and its index are, whoever makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from editguard.errors import MemoryUnreadable

Numbers = NDArray[Any]
"""Of floating-point numbers."""
Places = NDArray[np.int64]
"""Positions of texts in an index, ascending."""
EQUAL: Final = 1e-6
"""Similarities that are nearer to each other count as equal: a sum's rounding depends on where a row stands."""


class Growing:
    """Numbers (rows, ...) in one contiguous array that doubles when it is full."""

    def __init__(self, rows: Numbers) -> None:
        self._rows = np.array(rows)
        self._length = len(rows)

    def __len__(self) -> int:
        return self._length

    @property
    def rows(self) -> Numbers:
        """All rows, a view: what is written to it changes them."""
        return self._rows[: self._length]

    def extend(self, rows: Numbers) -> None:
        """Add rows; all are copied when the array is full, which is seldom."""
        length = self._length + len(rows)
        if length > len(self._rows):
            wider = np.empty((max(8, 2 * length), *self._rows.shape[1:]), dtype=self._rows.dtype)
            wider[: self._length] = self.rows
            self._rows = wider
        self._rows[self._length : length] = rows
        self._length = length


class Index(Protocol):
    """Texts that can be searched, and to which more can be added."""

    def __len__(self) -> int:
        """How many texts there are."""

    def extend(self, texts: Sequence[str]) -> None:
        """Add texts behind those that are there; only they are encoded."""

    def part(self, places: Places) -> Index:
        """Return an index of its own with these texts; nothing is encoded anew."""

    def similarities(self, queries: Sequence[str], places: Places | None = None) -> Numbers:
        """Return the cosine of every query with the texts at `places`, or with all: (queries, texts), in [-1, 1].

        0 for an empty text. What depends on the whole of the texts (frequencies, a mean) is taken over these alone.
        """

    def vectors(self) -> Numbers | None:
        """Return the vectors (texts, width) that an index can be made of again; None where the texts are as quick."""


class Encoder(Protocol):
    """Turns texts into vectors that are near when the texts are; equal encoders make equal vectors."""

    @property
    def identity(self) -> str:
        """What tells it from others, in one line: name, model, width."""

    def index(self, texts: Sequence[str], vectors: Numbers | None = None) -> Index:
        """Return an index of texts; with the `vectors` that an index of them had, none is encoded.

        Raises: MemoryUnreadable: the vectors are not as wide as those that this encoder makes.
        """


def check_width(vectors: Numbers, width: int, identity: str) -> None:
    """Refuse stored vectors (texts, numbers) that an encoder has not made.

    Raises: MemoryUnreadable: they are not as wide as its own.
    """
    if vectors.shape[1] != width:
        raise MemoryUnreadable(
            f"the vectors have {vectors.shape[1]} numbers each, and {identity} makes {width}: remove the file of "
            "vectors, so that they are made again, or choose the encoder that made them."
        )


def nearest_places(similarities: Numbers, count: int) -> list[int]:
    """Return where the `count` largest of `similarities` (texts,) stand, the largest first, of equals the first."""
    if count < len(similarities):
        least = similarities.max() if count == 1 else np.partition(similarities, -count)[-count]
        places = np.flatnonzero(similarities >= least - EQUAL)
    else:
        places = np.arange(len(similarities))
    places = places[np.argsort(-similarities[places], kind="stable")]
    steps = np.diff(similarities[places], prepend=similarities[places[:1]]) < -EQUAL
    order: list[int] = places[np.lexsort((places, steps.cumsum()))][:count].tolist()
    return order
