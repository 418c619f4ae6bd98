"""The scope classifier of SERAC: how likely a prompt is in the scope of an edit, read from their texts alone.

Two forms. The embedding form turns a text into a vector, once, and the score of a pair is exp(-d^2) of the distance of
two vectors. The cross-attention form reads both texts together, once for every pair, which is the more accurate and
the dearer.

Source: Mitchell, Lin, Bosselut, Manning, Finn, "Memory-Based Model Editing at Scale", ICML 2022, section 3.2.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel, DistilBertConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from editguard.edited.searching import Growing, Index, Numbers, Places, check_width
from editguard.edits import content_id
from editguard.models.generation import right_padded
from editguard.models.weights import tensor_digests

Form = Literal["embedding", "cross-attention"]
POSITIONS: Final = 256
"""Tokens that a classifier without a model to start from can read; longer texts are cut."""
TEXTS_AT_ONCE: Final = 256
"""Texts, or pairs of texts, of one pass outside of training."""


# ---- scores and loss


def log_scores(rows: Tensor, prompts: Tensor) -> Tensor:
    """log g = -d^2 of vectors rows, prompts: (pairs, width); returns (pairs,), at most 0."""
    return -(rows - prompts).square().sum(-1)


def balanced_loss(in_scope: Tensor, out_of_scope: Tensor) -> Tensor:
    """- mean log g over the pairs in scope - mean log(1 - g) over those out of scope; each has log g, (pairs,).

    1 - g = 0 is lifted by the machine epsilon.
    """
    left = -torch.expm1(out_of_scope)
    left = torch.where(left == 0, left + torch.finfo(left.dtype).eps, left)
    return -in_scope.mean() - left.log().mean()


# ---- the network


class TokenReader(Protocol):
    """Turns a text, or a pair of texts, into what a network reads."""

    def inputs(self, texts: Sequence[tuple[str, ...]]) -> dict[str, Tensor]:
        """Return the arguments of a pass, each (texts, tokens), padded on the right."""


@dataclass(frozen=True)
class SharedTokens:
    """The tokens of the model under edit, between two of the classifier's own: [CLS] text [SEP] text [SEP]."""

    tokenizer: PreTrainedTokenizerBase
    limit: int = POSITIONS

    @property
    def vocabulary(self) -> int:
        """How many tokens there are, the two own ones included."""
        return len(self.tokenizer) + 2

    def inputs(self, texts: Sequence[tuple[str, ...]]) -> dict[str, Tensor]:
        """See `TokenReader`."""
        begin, end = self.vocabulary - 2, self.vocabulary - 1
        rows = []
        for parts in texts:
            row = [begin]
            for part in parts:
                row += [*self.tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"], end]
            rows.append(row[: self.limit])
        ids, mask = right_padded(rows)
        return {"input_ids": ids, "attention_mask": mask}


@dataclass(frozen=True)
class OwnTokens:
    """The tokens of the classifier's own tokenizer, with whatever it puts around texts."""

    tokenizer: PreTrainedTokenizerBase
    limit: int

    def inputs(self, texts: Sequence[tuple[str, ...]]) -> dict[str, Tensor]:
        """See `TokenReader`."""
        made = [self.tokenizer(*parts, verbose=False) for parts in texts]
        ids, mask = right_padded([row["input_ids"][: self.limit] for row in made])
        found = {"input_ids": ids, "attention_mask": mask}
        if all("token_type_ids" in row for row in made):
            found["token_type_ids"], _ = right_padded([row["token_type_ids"][: self.limit] for row in made])
        return found


class ScopeClassifier(nn.Module):
    """A network that reads texts, and what makes a score of its last hidden state at the first token.

    Args:
        network: any encoder; of a model with a decoder its encoder alone is used.
        reader: makes its tokens.
        head: (2, width) first weights of the cross-attention form's two classes, in scope and out of scope; without
            them it is the embedding form.

    Attributes:
        width: numbers of a vector.
    """

    def __init__(self, network: PreTrainedModel, reader: TokenReader, head: Tensor | None = None) -> None:
        super().__init__()
        self.network: nn.Module = network.get_encoder() if network.config.is_encoder_decoder else network
        self.reader = reader
        self.width = int(network.config.hidden_size)
        self._taken = frozenset(inspect.signature(self.network.forward).parameters)
        self.head = None if head is None else nn.Linear(head.shape[1], 2, device="meta").to_empty(device=head.device)
        if self.head is not None and head is not None:
            with torch.no_grad():
                self.head.weight.copy_(head)
                self.head.bias.zero_()

    @property
    def form(self) -> Form:
        """Which of the two it is."""
        return "embedding" if self.head is None else "cross-attention"

    def forward(self, rows: Sequence[str], prompts: Sequence[str]) -> Tensor:
        """Return log g of every row's text with the prompt at its place, (pairs,)."""
        if self.head is None:
            texts = list(dict.fromkeys([*rows, *prompts]))
            place = {text: number for number, text in enumerate(texts)}
            states = self.states([(text,) for text in texts])
            return log_scores(states[[place[text] for text in rows]], states[[place[text] for text in prompts]])
        found: Tensor = self.head(self.states(list(zip(rows, prompts, strict=True)))).log_softmax(-1)[:, 0]
        return found

    def states(self, texts: Sequence[tuple[str, ...]]) -> Tensor:
        """Return the last hidden states at the first token, (texts, width), float32."""
        device = next(self.parameters()).device
        made = self.reader.inputs(texts)
        inputs = {name: tensor.to(device) for name, tensor in made.items() if name in self._taken}
        states: Tensor = self.network(**inputs).last_hidden_state[:, 0]
        return states

    @torch.no_grad()
    def measured(self, texts: Sequence[tuple[str, ...]]) -> Numbers:
        """Return vectors (texts, width), or scores (texts, 1) in the cross-attention form; float64, batch by batch."""
        order = sorted(range(len(texts)), key=lambda number: sum(map(len, texts[number])))
        found: dict[int, Numbers] = {}
        for start in range(0, len(order), TEXTS_AT_ONCE):
            chosen = order[start : start + TEXTS_AT_ONCE]
            states = self.states([texts[number] for number in chosen])
            made = states if self.head is None else self.head(states).softmax(-1)[:, :1]
            found.update(zip(chosen, made.double().cpu().numpy(), strict=True))
        width = 1 if self.head is not None else self.width
        return np.stack([found[number] for number in range(len(texts))]) if found else np.zeros((0, width))


def small_encoder(tokens: SharedTokens, layers: int, width: int, seed: int) -> PreTrainedModel:
    """Return an encoder with random weights, of the kind that the paper starts from, for another model's tokens."""
    config: Any = DistilBertConfig(
        vocab_size=tokens.vocabulary,
        max_position_embeddings=tokens.limit,
        n_layers=layers,
        dim=width,
        n_heads=max(1, width // 32),
        hidden_dim=4 * width,
        dropout=0.0,
        attention_dropout=0.0,
    )
    return random_model(AutoModel, config, seed)


def random_model(kind: Any, config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """Return a model of a configuration with weights drawn from a seed; the global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        made = kind.from_config(config, dtype=torch.float32)
    assert isinstance(made, PreTrainedModel)
    made.train(False)
    return made


# ---- rows of a memory


class DistanceIndex:
    """Vectors of rows; a prompt's scores are one product with all of them."""

    def __init__(self, classifier: ScopeClassifier, texts: Sequence[str], vectors: Numbers | None = None) -> None:
        self._classifier = classifier
        self._rows = Growing(_lifted(self._embedded(texts) if vectors is None else vectors))

    def __len__(self) -> int:
        return len(self._rows)

    def extend(self, texts: Sequence[str]) -> None:
        """See `Index`."""
        self._rows.extend(_lifted(self._embedded(texts)))

    def part(self, places: Places) -> DistanceIndex:
        """See `Index`."""
        return DistanceIndex(self._classifier, (), self.vectors()[places])

    def vectors(self) -> Numbers:
        """See `Index`."""
        return self._rows.rows[:, :-1]

    def similarities(self, queries: Sequence[str], places: Places | None = None) -> Numbers:
        """Return exp(-d^2), (queries, texts), in [0, 1]; float32, in which a text's score with itself is 1 exactly."""
        return self.scores(self._embedded(queries), places)

    def scores(self, queries: Numbers, places: Places | None = None) -> Numbers:
        """The same for vectors (queries, width)."""
        # |q - r|^2 = |q|^2 + (-2 q, 1) . (r, |r|^2)
        asked = np.concatenate([-2 * queries, np.ones((len(queries), 1))], axis=1)
        squares = asked @ self._rows.rows.T + np.square(queries).sum(1, keepdims=True)
        found: Numbers = np.exp(-np.maximum(squares if places is None else squares[:, places], 0)).astype(np.float32)
        return found

    def _embedded(self, texts: Sequence[str]) -> Numbers:
        return self._classifier.measured([(text,) for text in texts])


def _lifted(vectors: Numbers) -> Numbers:
    """Vectors (rows, width) with their squared length behind them."""
    wide = np.asarray(vectors, dtype=np.float64)
    return np.concatenate([wide, np.square(wide).sum(1, keepdims=True)], axis=1)


class PairIndex:
    """Texts of rows, every one of which is read together with a prompt."""

    def __init__(self, classifier: ScopeClassifier, texts: Sequence[str]) -> None:
        self._classifier, self._texts = classifier, list(texts)

    def __len__(self) -> int:
        return len(self._texts)

    def extend(self, texts: Sequence[str]) -> None:
        """See `Index`."""
        self._texts.extend(texts)

    def part(self, places: Places) -> PairIndex:
        """See `Index`."""
        return PairIndex(self._classifier, [self._texts[place] for place in places])

    def vectors(self) -> None:
        """See `Index`: a pair has none."""

    def similarities(self, queries: Sequence[str], places: Places | None = None) -> Numbers:
        """Return the probability that each query is in scope of each text, (queries, texts), float32."""
        rows = self._texts if places is None else [self._texts[place] for place in places]
        found = self._classifier.measured([(row, query) for query in queries for row in rows])
        return found.reshape(len(queries), len(rows)).astype(np.float32)


@dataclass(frozen=True)
class ScopeEncoder:
    """A classifier as that by which a memory of edits is searched."""

    identity: str
    classifier: ScopeClassifier = field(compare=False, repr=False)

    @classmethod
    def of(cls, classifier: ScopeClassifier) -> ScopeEncoder:
        """Return it under a name that no other classifier has."""
        return cls(f"scope classifier, {classifier.form}, {content_id(dict(tensor_digests(classifier)))}", classifier)

    def index(self, texts: Sequence[str], vectors: Numbers | None = None) -> Index:
        """See `Encoder`."""
        if self.classifier.form == "embedding":
            if vectors is not None:
                check_width(vectors, self.classifier.width, self.identity)
            return DistanceIndex(self.classifier, texts, vectors)
        return PairIndex(self.classifier, texts)
