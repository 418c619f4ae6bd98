"""Searching texts by nearness: what an encoder and its index are, whoever makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]
"""Of floating-point numbers."""
Places = NDArray[np.int64]
"""Positions of texts in an index, ascending."""


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
        """Return an index of texts; with the `vectors` that an index of them had, none is encoded."""
