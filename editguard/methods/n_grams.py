"""Nearness of texts by the n-grams that they share, weighted by how rare these are; an index that grows."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

from editguard.edited.searching import Encoder, Growing, Index, Numbers, Places

TFIDF: Final = "tf-idf"


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Put the global generator of `random` back as it was."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


@lru_cache(maxsize=1)
def _analysers() -> tuple[Callable[[str], list[str]], ...]:
    """What takes words (1 and 2), and characters within words (3 to 5), out of a text."""
    with random_state_kept():  # importing scikit-learn draws from the global generator
        from sklearn.feature_extraction.text import CountVectorizer
    words = CountVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")
    pieces = CountVectorizer(ngram_range=(3, 5), analyzer="char_wb")
    return words.build_analyzer(), pieces.build_analyzer()


class _Counts:
    """Of texts, 1 + the logarithm of how often each n-gram of one kind occurs; n-grams are numbered as they come."""

    def __init__(self, analyse: Callable[[str], list[str]]) -> None:
        self._analyse = analyse
        self._numbers: dict[str, int] = {}
        self._values = Growing(np.zeros(0))
        self._columns = Growing(np.zeros(0, dtype=np.int32))
        self._ends = Growing(np.zeros(1, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def extend(self, texts: Iterable[str]) -> None:
        """Count the n-grams of more texts."""
        for text in texts:
            counted = Counter(self._analyse(text))
            self._columns.extend(
                np.array([self._numbers.setdefault(each, len(self._numbers)) for each in counted], int)
            )
            self._values.extend(1 + np.log(np.fromiter(counted.values(), float, len(counted))))
            self._ends.extend(self._ends.rows[-1:] + len(counted))

    def of(self, texts: Sequence[str]) -> Any:
        """The sparse counts of other texts, (texts, n-grams), as far as their n-grams are known."""
        asked = _Counts(lambda text: [each for each in self._analyse(text) if each in self._numbers])
        asked._numbers = self._numbers
        asked.extend(texts)
        return asked.matrix()

    def matrix(self) -> Any:
        """The sparse counts (texts, n-grams), a view."""
        from scipy.sparse import csr_matrix

        parts = (self._values.rows, self._columns.rows, self._ends.rows)
        return csr_matrix(parts, shape=(len(self), len(self._numbers)), copy=False)

    def part(self, places: Places) -> _Counts:
        """The counts of the texts at `places`, which may go on by themselves."""
        found, chosen = _Counts(self._analyse), self.matrix()[places]
        found._numbers = dict(self._numbers)
        found._values, found._columns, found._ends = map(Growing, (chosen.data, chosen.indices, chosen.indptr))
        return found


class SparseIndex:
    """Counts of n-grams, to which texts can be added; weighted by TF-IDF over the texts that are searched.

    Equal to `TfidfVectorizer(sublinear_tf=True)` fitted on these texts, for words and for pieces of words.
    """

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self._counts = [_Counts(analyse) for analyse in _analysers()]
        self._weighted: tuple[bytes, list[Numbers], list[Any]] | None = None
        self.extend(texts)

    def __len__(self) -> int:
        return len(self._counts[0])

    def extend(self, texts: Sequence[str]) -> None:
        """See `Index`."""
        for counts in self._counts:
            counts.extend(texts)
        self._weighted = None

    def part(self, places: Places) -> SparseIndex:
        """See `Index`."""
        found = SparseIndex()
        found._counts = [counts.part(places) for counts in self._counts]
        return found

    def vectors(self) -> None:
        """See `Index`: n-grams are counted as quickly as they are read."""

    def similarities(self, queries: Sequence[str], places: Places | None = None) -> Numbers:
        """See `Index`."""
        weights, texts_by_n_gram = self._over(places)
        asked = _weighted([counts.of(queries) for counts in self._counts], weights)
        return np.asarray(sum(one @ other for one, other in zip(asked, texts_by_n_gram, strict=True)).todense())

    def _over(self, places: Places | None) -> tuple[list[Numbers], list[Any]]:
        """Weights of n-grams over some of the texts, and those texts' rows, turned; the last ones are kept."""
        key = b"" if places is None else places.tobytes()
        if self._weighted is None or self._weighted[0] != key:
            chosen = [counts.matrix() for counts in self._counts]
            if places is not None:
                chosen = [matrix[places] for matrix in chosen]
            weights = [_inverse_frequencies(matrix) for matrix in chosen]
            self._weighted = key, weights, [rows.T.tocsr() for rows in _weighted(chosen, weights)]
        return self._weighted[1:]


def _inverse_frequencies(counts: Any) -> Numbers:
    """ln((1 + n) / (1 + texts with the n-gram)) + 1; 0 where no text has it."""
    frequency = np.bincount(counts.indices, minlength=counts.shape[1])
    return np.where(frequency > 0, np.log((1 + counts.shape[0]) / (1 + frequency)) + 1, 0.0)


def _weighted(counts: Sequence[Any], weights: Sequence[Numbers]) -> list[Any]:
    """Rows (texts, n-grams) of every kind of n-gram, weighted; of equal length each, and of length one together."""
    from scipy.sparse import csr_matrix, diags_array

    rows = [
        csr_matrix((matrix.data * weight[matrix.indices], matrix.indices, matrix.indptr), shape=matrix.shape)
        for matrix, weight in zip(counts, weights, strict=True)
    ]
    lengths = [np.sqrt(np.asarray(part.multiply(part).sum(axis=1)).ravel()) for part in rows]
    kinds = sum((length > 0).astype(float) for length in lengths)
    scales = [
        np.divide(1.0, length * np.sqrt(kinds), where=length > 0, out=np.zeros_like(length)) for length in lengths
    ]
    return [csr_matrix(diags_array(scale) @ part) for scale, part in zip(scales, rows, strict=True)]


@dataclass(frozen=True)
class TfidfEncoder(Encoder):
    """Weighted n-grams of words (1 and 2) and of characters within words (3 to 5)."""

    @property
    def identity(self) -> str:
        """See `Encoder`."""
        return TFIDF

    def index(self, texts: Sequence[str], vectors: Numbers | None = None) -> Index:
        """See `Encoder`."""
        del vectors
        return SparseIndex(texts)
