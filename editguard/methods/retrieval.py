"""Encoders of texts, for memories of edits and pools of demonstrations; indexes that grow without encoding anew.

Searching is one product of all vectors with a question's, which is exact.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import torch

from editguard.edited import EditedModel
from editguard.edited.searching import Encoder, Index, Numbers, Places
from editguard.errors import ConfigurationError, InvalidSettings, closest

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel

TFIDF: Final = "tf-idf"
MEAN_POOLED: Final = "mean-pooled"
SENTENCES: Final = "sentences:"
"""What the name of a model of `sentence-transformers` follows."""


# ---- vectors


class Vectors:
    """Rows (texts, width) in one contiguous array that doubles when it is full."""

    def __init__(self, rows: Numbers) -> None:
        self._rows = np.array(rows)
        self._length = len(rows)

    def __len__(self) -> int:
        return self._length

    @property
    def rows(self) -> Numbers:
        """All rows, a view."""
        return self._rows[: self._length]

    def extend(self, rows: Numbers) -> None:
        """Add rows; all are copied when the array is full, which is seldom."""
        length = self._length + len(rows)
        if length > len(self._rows):
            wider = np.zeros((max(8, 2 * length), rows.shape[1]), dtype=rows.dtype)
            wider[: self._length] = self.rows
            self._rows = wider
        self._rows[self._length : length] = rows
        self._length = length


class DenseIndex:
    """Vectors of texts; `centred` ones are compared after the mean of the texts is taken off."""

    def __init__(self, encoder: DenseEncoder, texts: Sequence[str], vectors: Numbers | None = None) -> None:
        self._encoder = encoder
        self._vectors = Vectors(encoder.vectors(texts) if vectors is None else vectors)

    def __len__(self) -> int:
        return len(self._vectors)

    def extend(self, texts: Sequence[str]) -> None:
        """See `Index`."""
        self._vectors.extend(self._encoder.vectors(texts))

    def part(self, places: Places) -> DenseIndex:
        """See `Index`."""
        return DenseIndex(self._encoder, (), self._vectors.rows[places])

    def vectors(self) -> Numbers:
        """See `Index`."""
        return self._vectors.rows

    def similarities(self, queries: Sequence[str], places: Places | None = None) -> Numbers:
        """See `Index`."""
        return self.cosines(self._encoder.vectors(queries), places)

    def cosines(self, queries: Numbers, places: Places | None = None) -> Numbers:
        """The same for vectors (queries, width); those of an encoder that is not centred have length one."""
        rows = self._vectors.rows
        if not self._encoder.centred:
            found = queries @ rows.T
            return found if places is None else found[:, places]
        rows = rows if places is None else rows[places]
        # Hidden states share a large mean; without it cosines tell texts apart.
        mean = rows.mean(0) if len(rows) > 1 else np.zeros_like(rows[0])
        return normalised(queries - mean) @ normalised(rows - mean).T


class DenseEncoder(Encoder):
    """An encoder that makes a vector of a text, whatever the other texts are."""

    centred: ClassVar[bool] = False

    def vectors(self, texts: Sequence[str]) -> Numbers:
        """Return the vectors, (texts, width); of length one, unless they are centred later."""
        raise NotImplementedError

    def index(self, texts: Sequence[str], vectors: Numbers | None = None) -> Index:
        """See `Encoder`."""
        return DenseIndex(self, texts, vectors)


@dataclass(frozen=True)
class MeanPooledEncoder(DenseEncoder):
    """The unedited model's own last hidden states, averaged over the tokens of a text."""

    model: LanguageModel
    centred: ClassVar[bool] = True

    @property
    def identity(self) -> str:
        """See `Encoder`."""
        return f"{MEAN_POOLED} of {self.model.fingerprint()}"

    @torch.no_grad()
    def vectors(self, texts: Sequence[str]) -> Numbers:
        """See `DenseEncoder`; float64."""
        model = self.model
        found = []
        with EditedModel.original(model):
            for text in texts:
                states = model.text_states(model.encode_text(text))
                found.append(states.double().mean(0).cpu().numpy())
        return np.stack(found) if found else np.zeros((0, model.anatomy.d_model))


@dataclass(frozen=True)
class SentenceEncoder(DenseEncoder):
    """A model of the package `sentence-transformers`, from a folder or the hub; vectors in float32.

    Raises: ConfigurationError: the package is not installed, or the model cannot be loaded.
    """

    name: str
    device: str = "cpu"
    offline: bool = field(default=False, compare=False)

    @property
    def identity(self) -> str:
        """See `Encoder`."""
        return f"{SENTENCES}{self.name}, width {self._loaded.get_sentence_embedding_dimension()}"

    @property
    def _loaded(self) -> Any:
        return _sentence_model(self.name, self.device, self.offline)

    def vectors(self, texts: Sequence[str]) -> Numbers:
        """See `DenseEncoder`."""
        found = self._loaded.encode(
            list(texts), convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False
        )
        width = self._loaded.get_sentence_embedding_dimension()
        return np.asarray(found, dtype=np.float32).reshape(len(texts), width)


@lru_cache(maxsize=2)
def _sentence_model(name: str, device: str, offline: bool) -> Any:
    with random_state_kept():
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as missing:
            raise ConfigurationError(
                f"the encoder {SENTENCES + name!r} needs the package sentence-transformers: "
                "pip install 'editguard[sentences]'."
            ) from missing
        try:
            return SentenceTransformer(name, device=device, local_files_only=offline, trust_remote_code=False)
        except Exception as failure:
            raise ConfigurationError(
                f"cannot load the sentence encoder {name!r}: {str(failure).strip().splitlines()[0]} "
                "Give a folder, or a name on the hub of a model of sentence-transformers."
            ) from failure


# ---- n-grams


@lru_cache(maxsize=1)
def _analysers() -> tuple[Any, ...]:
    """Counts of words (1 and 2) and of characters within words (3 to 5), by the hash of the n-gram."""
    with random_state_kept():  # importing scikit-learn draws from the global generator
        from sklearn.feature_extraction.text import HashingVectorizer
    shared = {"n_features": 1 << 22, "alternate_sign": False, "norm": None}
    return (
        HashingVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", **shared),
        HashingVectorizer(ngram_range=(3, 5), analyzer="char_wb", **shared),
    )


class SparseIndex:
    """Counts of n-grams, to which texts can be added; weighted by TF-IDF over the texts that are searched.

    Equal to `TfidfVectorizer(sublinear_tf=True)` fitted on these texts, for words and for pieces of words.
    """

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self._counts = [_counted(analyser, texts) for analyser in _analysers()]
        self._weighted: tuple[bytes, list[Any], list[Any]] | None = None

    def __len__(self) -> int:
        return int(self._counts[0].shape[0])

    def extend(self, texts: Sequence[str]) -> None:
        """See `Index`."""
        from scipy.sparse import vstack

        for number, analyser in enumerate(_analysers()):
            self._counts[number] = vstack([self._counts[number], _counted(analyser, texts)], format="csr")
        self._weighted = None

    def part(self, places: Places) -> SparseIndex:
        """See `Index`."""
        found = SparseIndex()
        found._counts = [counts[places] for counts in self._counts]
        return found

    def vectors(self) -> None:
        """See `Index`: n-grams are counted as quickly as they are read."""

    def similarities(self, queries: Sequence[str], places: Places | None = None) -> Numbers:
        """See `Index`."""
        weights, rows = self._over(places)
        asked = [_weigh(_counted(analyser, queries), idf) for analyser, idf in zip(_analysers(), weights, strict=True)]
        products = sum(one @ other.T for one, other in zip(asked, rows, strict=True))
        lengths = np.outer(_lengths(asked), _lengths(rows))
        found = np.asarray(products.todense(), dtype=np.float64)
        return found / np.where(lengths > 0, lengths, 1.0)

    def _over(self, places: Places | None) -> tuple[list[Any], list[Any]]:
        """Inverse frequencies over some of the texts, and those texts' weighted rows; the last ones are kept."""
        key = b"" if places is None else places.tobytes()
        if self._weighted is None or self._weighted[0] != key:
            chosen = [counts if places is None else counts[places] for counts in self._counts]
            weights = [_inverse_frequencies(counts) for counts in chosen]
            rows = [_weigh(counts, idf) for counts, idf in zip(chosen, weights, strict=True)]
            self._weighted = (key, weights, rows)
        return self._weighted[1], self._weighted[2]


def _counted(analyser: Any, texts: Sequence[str]) -> Any:
    """1 + log of the counts, (texts, features)."""
    from scipy.sparse import csr_matrix

    if not texts:
        return csr_matrix((0, analyser.n_features))
    counts = analyser.transform(list(texts))
    counts.data = 1 + np.log(counts.data)
    return counts


def _inverse_frequencies(counts: Any) -> Any:
    """ln((1 + n) / (1 + texts with the feature)) + 1; 0 where no text has it."""
    frequency = np.bincount(counts.indices, minlength=counts.shape[1])
    return np.where(frequency > 0, np.log((1 + counts.shape[0]) / (1 + frequency)) + 1, 0.0)


def _weigh(counts: Any, weights: Any) -> Any:
    """Rows of length one, each number times its feature's weight."""
    from sklearn.preprocessing import normalize

    found = counts.copy()
    found.data = found.data * weights[found.indices]
    found.eliminate_zeros()
    return normalize(found, norm="l2", axis=1, copy=False)


def _lengths(parts: Sequence[Any]) -> Any:
    """Of rows that are put together of parts: the square root of how many parts are not empty."""
    return np.sqrt(sum((np.diff(part.indptr) > 0).astype(float) for part in parts))


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


def encoder(name: str, model: LanguageModel) -> Encoder:
    """Return the encoder of that name: "tf-idf", "mean-pooled", or "sentences:" and a model's name or folder.

    Raises: InvalidSettings: there is none.
    """
    if name == TFIDF:
        return TfidfEncoder()
    if name == MEAN_POOLED:
        return MeanPooledEncoder(model)
    if name.startswith(SENTENCES) and name != SENTENCES:
        return SentenceEncoder(name.removeprefix(SENTENCES), str(model.device))
    known = (TFIDF, MEAN_POOLED, f"{SENTENCES}all-MiniLM-L6-v2")
    raise InvalidSettings(f"no encoder {name!r}; there are {', '.join(known)}.{closest(name, known)}")


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Put the global generator of `random` back as it was."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


def normalised(vectors: Numbers) -> Numbers:
    """The vectors (rows, width) at length one; zero ones as they are."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)
