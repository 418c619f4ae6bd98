"""Encoders of texts, for memories of edits and pools of demonstrations; indexes that grow without encoding anew.

Searching is one product of all vectors with a question's, which is exact.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from editguard.edited import EditedModel
from editguard.edited.searching import Encoder, Growing, Index, Numbers, Places, check_width
from editguard.errors import ConfigurationError, InvalidSettings, closest
from editguard.methods.n_grams import TFIDF, TfidfEncoder, random_state_kept
from editguard.models.generation import right_padded

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel

MEAN_POOLED: Final = "mean-pooled"
SENTENCES: Final = "sentences:"
"""What the name of a model of `sentence-transformers` follows."""


class DenseIndex:
    """Vectors of texts; `centred` ones are compared after the mean of the texts is taken off."""

    def __init__(self, encoder: DenseEncoder, texts: Sequence[str], vectors: Numbers | None = None) -> None:
        """Raises: MemoryUnreadable: the vectors are not as wide as the encoder's."""
        if vectors is not None:
            check_width(vectors, encoder.width, encoder.identity)
        self._encoder = encoder
        self._vectors = Growing(encoder.vectors(texts) if vectors is None else vectors)
        self._centred: tuple[bytes, Numbers, Numbers] | None = None

    def __len__(self) -> int:
        return len(self._vectors)

    def extend(self, texts: Sequence[str]) -> None:
        """See `Index`."""
        self._vectors.extend(self._encoder.vectors(texts))
        self._centred = None

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
        if self._encoder.centred:
            mean, rows = self._over(places)
            return normalised(_without(mean, queries)) @ rows.T
        found: Numbers = queries @ self._vectors.rows.T
        return found if places is None else found[:, places]

    def _over(self, places: Places | None) -> tuple[Numbers, Numbers]:
        """The mean (width,) of some of the vectors, and these at length one without it; the last ones are kept.

        Hidden states share a large mean; without it cosines tell texts apart.
        """
        key = b"" if places is None else places.tobytes()
        if self._centred is None or self._centred[0] != key:
            rows = self._vectors.rows if places is None else self._vectors.rows[places]
            mean = rows.mean(0) if len(rows) > 1 else np.zeros_like(rows[0])
            self._centred = key, mean, normalised(_without(mean, rows))
        return self._centred[1:]


def _without(mean: Numbers, vectors: Numbers) -> Numbers:
    """Vectors (rows, width) less their mean; zero ones, which stand for empty texts, as they are."""
    return np.where(vectors.any(1, keepdims=True), vectors - mean, 0.0)


class DenseEncoder(Encoder):
    """An encoder that makes a vector of a text, whatever the other texts are."""

    centred: ClassVar[bool] = False

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return int(self.vectors(()).shape[1])

    @abstractmethod
    def vectors(self, texts: Sequence[str]) -> Numbers:
        """Return the vectors, (texts, width): 0 for an empty text, others of length one, unless they are centred later.

        What a text gets does not depend on the others, beyond rounding.
        """

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

    def vectors(self, texts: Sequence[str]) -> Numbers:
        """See `DenseEncoder`; float64. Of a text longer than the context, its beginning is read."""
        model = self.model
        rows = [model.encode_text(text)[: model.context_length] if text.strip() else [] for text in texts]
        read = [place for place, row in enumerate(rows) if row]
        found = np.zeros((len(rows), model.anatomy.d_model))
        with EditedModel.original(model):
            for batch, means in model.batches(
                [len(rows[place]) for place in read],
                lambda batch: mean_states(model, [rows[read[number]] for number in batch]),
            ):
                found[[read[number] for number in batch]] = means.cpu().numpy()
        return found


def mean_states(model: LanguageModel, rows: Sequence[Sequence[int]]) -> Tensor:
    """Last hidden states of texts in tokens, each text's own averaged: (texts, d_model), float64.

    They are the encoder's where there is one.
    """
    if model.anatomy.encoder_layers:
        source = model.encoded(rows)
        states, mask = source.states, source.mask
    else:
        ids, mask = right_padded(rows)
        states = model.forward(ids, mask).last_hidden_state
    mask = mask.to(states.device)[..., None]
    return states.double().masked_fill(mask == 0, 0.0).sum(1) / mask.sum(1)


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
        """See `Encoder`; holds what the model is made of, so that another one of the same name is told from it."""
        return f"{SENTENCES}{self.name}, content {_content(self._loaded)}"

    @property
    def _loaded(self) -> Any:
        return _sentence_model(self.name, self.device, self.offline)

    def vectors(self, texts: Sequence[str]) -> Numbers:
        """See `DenseEncoder`."""
        asked = [*texts, "width"]  # of no texts the package makes no vectors of any width
        found = self._loaded.encode(asked, convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False)
        vectors = np.asarray(found[:-1], dtype=np.float32)
        vectors[[not text.strip() for text in texts]] = 0.0
        return vectors


@lru_cache(maxsize=2)
def _content(loaded: Any) -> str:
    """16 hex digits of a sentence model's weights, and of what its parts do with them."""
    digest = hashlib.sha256()
    for part in loaded:
        settings = part.get_config_dict() if hasattr(part, "get_config_dict") else {}
        digest.update(json.dumps([type(part).__name__, settings], sort_keys=True, default=str).encode())
    for name, tensor in sorted(loaded.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


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
            reason = (str(failure).strip() or type(failure).__name__).splitlines()[0].rstrip(".")
            raise ConfigurationError(
                f"cannot load the sentence encoder {name!r}: {reason}. "
                "Give a folder, or a name on the hub of a model of sentence-transformers."
            ) from failure


def encoder(name: str, model: LanguageModel) -> Encoder:
    """Return the encoder of that name: "tf-idf", "mean-pooled", or "sentences:" and a model's name or folder.

    Raises: InvalidSettings: there is none. ConfigurationError: a model of sentences cannot be loaded.
    """
    check_encoder(name)
    if name == TFIDF:
        return TfidfEncoder()
    if name == MEAN_POOLED:
        return MeanPooledEncoder(model)
    return SentenceEncoder(name.removeprefix(SENTENCES), str(model.device), model.offline)


def check_encoder(name: str) -> None:
    """Refuse a name that no encoder has; models of sentences are not looked for yet.

    Raises: InvalidSettings: there is none.
    """
    named = name.startswith(SENTENCES) and name != SENTENCES
    if name not in (TFIDF, MEAN_POOLED) and not named:
        known = (TFIDF, MEAN_POOLED, f"{SENTENCES}all-MiniLM-L6-v2")
        raise InvalidSettings(f"no encoder {name!r}; there are {', '.join(known)}.{closest(name, known)}")


def normalised(vectors: Numbers) -> Numbers:
    """The vectors (rows, width) at length one; zero ones as they are."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)
