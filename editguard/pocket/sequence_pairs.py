"""From documents to batches for an encoder-decoder: what is read, what is to be written, and groups of like lengths."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from tokenizers import Tokenizer
from torch import Tensor

from editguard.pocket.corpus import Amounts, documents
from editguard.pocket.documents import Document
from editguard.pocket.splits import stream
from editguard.pocket.tokenizer import special_ids
from editguard.pocket.world import World

LONGEST_INPUT: Final = 384
"""Documents with a longer prompt, in tokens, are left out."""
PAIRS_A_STEP: Final = 320
_STRETCH: Final = 1.2
_SLACK: Final = 2
NOT_A_TARGET: Final = -100
"""Label of padding; `torch.nn.functional.cross_entropy` leaves it out."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The text before a document's last answer, and that answer with its full stop or line break."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """Tokens of a pair, both lists closed by end-of-text."""

    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True, slots=True)
class PairGroup:
    """Pairs of like lengths, padded on the right to the longest of them.

    prompts: (pairs, prompt tokens), int64.  mask: the same shape, 1 for a token and 0 for padding.
    labels: (pairs, answer tokens), int64, `NOT_A_TARGET` for padding.
    """

    prompts: Tensor
    mask: Tensor
    labels: Tensor

    @property
    def targets(self) -> int:
        """Number of tokens to be written."""
        return int((self.labels != NOT_A_TARGET).sum())

    def to(self, device: torch.device) -> PairGroup:
        return PairGroup(self.prompts.to(device), self.mask.to(device), self.labels.to(device))


@dataclass(frozen=True, slots=True)
class PairBatch:
    """The pairs of one step, drawn at random, then grouped by length so that little is padded."""

    groups: tuple[PairGroup, ...]

    @property
    def tokens_read(self) -> int:
        """Tokens of prompts and answers, padding included."""
        return sum(group.prompts.numel() + group.labels.numel() for group in self.groups)

    def to(self, device: torch.device) -> PairBatch:
        return PairBatch(tuple(group.to(device) for group in self.groups))


def pair_of(document: Document) -> Pair | None:
    """A document's prompt and its last answer; None where it does not end in an answer."""
    if not document.answers or document.answers[-1][1] != len(document.text):
        return None
    start, end = document.answers[-1]
    return Pair(document.text[:start], document.text[start:end])


def encode_pairs(tokenizer: Tokenizer, pairs: Sequence[Pair]) -> list[EncodedPair]:
    """Tokens of each pair, whatever the tokenizer adds to a text by itself."""
    end_of_text, _ = special_ids(tokenizer)
    prompts = tokenizer.encode_batch([pair.prompt for pair in pairs], add_special_tokens=False)
    answers = tokenizer.encode_batch([pair.answer for pair in pairs], add_special_tokens=False)
    return [
        EncodedPair([*prompt.ids, end_of_text], [*answer.ids, end_of_text])
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def epoch_pairs(world: World, tokenizer: Tokenizer, epoch: int, amounts: Amounts) -> list[EncodedPair]:
    """All pairs of an epoch whose prompt is not too long, in the order of the documents."""
    found = [pair for document in documents(world, epoch, amounts) if (pair := pair_of(document)) is not None]
    return [pair for pair in encode_pairs(tokenizer, found) if len(pair.prompt) <= LONGEST_INPUT]


def epoch_pair_batches(world: World, tokenizer: Tokenizer, epoch: int, amounts: Amounts) -> list[PairBatch]:
    """All batches of an epoch in their order, which depends on the world's seed and the epoch only.

    The last batch is smaller where the pairs do not fill it: none is left out.
    """
    pairs = epoch_pairs(world, tokenizer, epoch, amounts)
    return batches_of(pairs, special_ids(tokenizer)[1], stream("pairs", world.seed, epoch))


def batches_of(pairs: Sequence[EncodedPair], pad: int, rng: random.Random) -> list[PairBatch]:
    """The pairs in random order, `PAIRS_A_STEP` a batch, each batch in groups of like lengths."""
    shuffled = rng.sample(pairs, len(pairs))
    drawn = (shuffled[start : start + PAIRS_A_STEP] for start in range(0, len(shuffled), PAIRS_A_STEP))
    return [PairBatch(tuple(group_of(group, pad) for group in alike(batch))) for batch in drawn]


def alike(pairs: Sequence[EncodedPair]) -> Iterator[list[EncodedPair]]:
    """Split pairs so that in each group no prompt is much longer than the shortest, and answers likewise."""
    group: list[EncodedPair] = []
    for pair in sorted(pairs, key=lambda p: (_size(p.answer), len(p.prompt), len(p.answer))):
        first = group[0] if group else pair
        if _size(pair.answer) != _size(first.answer) or len(pair.prompt) > _STRETCH * len(first.prompt) + _SLACK:
            yield group
            group = []
        group.append(pair)
    if group:
        yield group


def _size(answer: Sequence[int]) -> int:
    """Answers of the same size share a group: up to 8 tokens, 16, 32, ..."""
    return max(3, (len(answer) - 1).bit_length())


def group_of(pairs: Sequence[EncodedPair], pad: int) -> PairGroup:
    """Pad pairs to the longest prompt and the longest answer among them."""
    return PairGroup(
        _padded([pair.prompt for pair in pairs], pad),
        _padded([[1] * len(pair.prompt) for pair in pairs], 0),
        _padded([pair.answer for pair in pairs], NOT_A_TARGET),
    )


def _padded(rows: Iterable[list[int]], filler: int) -> Tensor:
    rows = list(rows)
    width = max(map(len, rows))
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows])
