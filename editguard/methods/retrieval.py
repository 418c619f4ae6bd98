"""Finding the texts nearest to a text, behind one small interface that any encoder can join.

An encoder makes an index of texts; an index gives cosine similarities. Brute force throughout: memories and pools
of demonstrations hold thousands of texts, not millions.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from editguard.edited import EditedModel
from editguard.errors import InvalidSettings, closest

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel

EncoderName = Literal["tf-idf", "mean-pooled"]
Similarities = NDArray[np.float64]


class Index(Protocol):
    """Texts that can be searched."""

    def similarities(self, queries: Sequence[str]) -> Similarities:
        """Return the cosine of every query with every text, (queries, texts), in [-1, 1]; 0 for an empty text."""


class Encoder(Protocol):
    """Turns texts into vectors that are near when the texts are."""

    name: ClassVar[str]

    def index(self, texts: Sequence[str]) -> Index:
        """Return an index of at least one text."""


class DenseIndex:
    """Vectors of length one, (texts, width), and the way to encode a query."""

    def __init__(self, encoder: MeanPooledEncoder, texts: Sequence[str]) -> None:
        self._encoder = encoder
        vectors = encoder.vectors(texts)
        # Hidden states share a large mean; without it cosines tell texts apart.
        self._mean = vectors.mean(0) if len(vectors) > 1 else np.zeros_like(vectors[0])
        self._vectors = _normalised(vectors - self._mean)

    def similarities(self, queries: Sequence[str]) -> Similarities:
        """Return the cosines, (queries, texts)."""
        return _normalised(self._encoder.vectors(queries) - self._mean) @ self._vectors.T


class MeanPooledEncoder:
    """The unedited model's own last hidden states, averaged over the tokens of a text."""

    name: ClassVar[str] = "mean-pooled"

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    def index(self, texts: Sequence[str]) -> Index:
        """Return an index of at least one text."""
        return DenseIndex(self, texts)

    @torch.no_grad()
    def vectors(self, texts: Sequence[str]) -> Similarities:
        """Return the vectors, (texts, d_model)."""
        model = self._model
        found = []
        with EditedModel.original(model):
            for text in texts:
                states = model.text_states(model.encode_text(text))
                found.append(states.double().mean(0).cpu().numpy())
        return np.stack(found)


class SparseIndex:
    """TF-IDF rows of the texts, and the fitted vectorisers."""

    def __init__(self, texts: Sequence[str]) -> None:
        with _random_state_kept():  # importing scikit-learn draws from the global generator
            from sklearn.feature_extraction.text import TfidfVectorizer
            from sklearn.pipeline import FeatureUnion

        shared = {"sublinear_tf": True, "norm": "l2"}
        words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", **shared)
        pieces = TfidfVectorizer(ngram_range=(3, 5), analyzer="char_wb", **shared)
        self._features: Any = FeatureUnion([("words", words), ("pieces", pieces)])
        self._rows = _unit_rows(self._features.fit_transform(list(texts)))

    def similarities(self, queries: Sequence[str]) -> Similarities:
        """Return the cosines, (queries, texts)."""
        found = _unit_rows(self._features.transform(list(queries))) @ self._rows.T
        return np.asarray(found.todense(), dtype=np.float64)


class TfidfEncoder:
    """Weighted n-grams of words (1 and 2) and of characters within words (3 to 5)."""

    name: ClassVar[str] = "tf-idf"

    def index(self, texts: Sequence[str]) -> Index:
        """Return an index of at least one text."""
        return SparseIndex(texts)


def encoder(name: str, model: LanguageModel) -> Encoder:
    """Return the built-in encoder of that name.

    Raises: InvalidSettings: there is none.
    """
    if name == TfidfEncoder.name:
        return TfidfEncoder()
    if name == MeanPooledEncoder.name:
        return MeanPooledEncoder(model)
    known = (TfidfEncoder.name, MeanPooledEncoder.name)
    raise InvalidSettings(f"no encoder {name!r}; there are {', '.join(known)}.{closest(name, known)}")


@contextmanager
def _random_state_kept() -> Iterator[None]:
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


def _normalised(vectors: Similarities) -> Similarities:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)


def _unit_rows(matrix: Any) -> Any:
    from sklearn.preprocessing import normalize

    return normalize(matrix, norm="l2", axis=1, copy=False)
