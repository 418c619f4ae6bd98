"""From documents to batches: tokens, loss weights and the sites where facts are answered."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from tokenizers import Tokenizer
from torch import Tensor

from editguard.pocket.corpus import Amounts, documents
from editguard.pocket.documents import Document
from editguard.pocket.splits import stream
from editguard.pocket.tokenizer import CONTEXT, special_ids
from editguard.pocket.world import World

SHORT_ROW: Final = 128
SHORT_ROWS: Final = 24
LONG_ROW: Final = CONTEXT
LONG_ROWS: Final = 2
_ALSO_LONG: Final = 0.05
"""Fraction of the short documents that also fill up the long rows."""

_OPEN_ROWS: Final = 12

_ANSWER_WEIGHT: Final = 1.0
_TEXT_WEIGHT: Final = 0.2
_ORDINARY_WEIGHT: Final = 0.5


@dataclass(frozen=True, slots=True)
class EncodedDocument:
    """Tokens of one document; the three lists are equally long."""

    ids: list[int]
    weights: list[float]
    fact_answer: list[bool]
    """Whether the token belongs to the object of a fact that stands without context."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of whole documents.

    tokens: (rows, tokens), int64.  weights: (rows, tokens), the loss weight of each token as a target.
    answer_sites: (rows, tokens), bool: the positions from which the object of a plain fact is predicted.
    """

    tokens: Tensor
    weights: Tensor
    answer_sites: Tensor

    @property
    def tokens_read(self) -> int:
        """Number of tokens, padding included."""
        return self.tokens.numel()

    def to(self, device: torch.device) -> Batch:
        return Batch(self.tokens.to(device), self.weights.to(device), self.answer_sites.to(device))


def encode(tokenizer: Tokenizer, batch: Sequence[Document]) -> list[EncodedDocument]:
    """Tokens and weights of each document, without separators."""
    encodings = tokenizer.encode_batch([document.text for document in batch])
    encoded = []
    for document, encoding in zip(batch, encodings, strict=True):
        plain = _ORDINARY_WEIGHT if document.kind == "ordinary" else _TEXT_WEIGHT
        weights = [plain] * len(encoding.ids)
        fact_answer = [False] * len(encoding.ids)
        for position, (start, end) in enumerate(encoding.offsets):
            if any(start < stop and begin < end for begin, stop in document.answers):
                weights[position] = _ANSWER_WEIGHT
                fact_answer[position] = document.kind == "fact"
            elif any(start < stop and begin < end for begin, stop in document.given):
                weights[position] = 0.0
        encoded.append(EncodedDocument(encoding.ids, weights, fact_answer))
    return encoded


def epoch_batches(world: World, tokenizer: Tokenizer, epoch: int, amounts: Amounts | None = None) -> list[Batch]:
    """All batches of an epoch in their order: mostly short rows, now and then two long ones.

    Order and content depend on the world's seed and the epoch only.
    """
    rng = stream("packing", world.seed, epoch)
    encoded = encode(tokenizer, list(documents(world, epoch, amounts)))
    short = [document for document in encoded if len(document.ids) <= SHORT_ROW - 2]
    long = [document for document in encoded if SHORT_ROW - 2 < len(document.ids) <= LONG_ROW - 2]
    rng.shuffle(short)
    long += rng.sample(short, int(len(short) * _ALSO_LONG))
    ends = special_ids(tokenizer)
    batches = _batches(_rows_in_order(short, SHORT_ROW), SHORT_ROW, SHORT_ROWS, ends, rng)
    batches += _batches(_rows_best_filled(long, LONG_ROW, rng), LONG_ROW, LONG_ROWS, ends, rng)
    rng.shuffle(batches)
    return batches


def _rows_in_order(encoded: list[EncodedDocument], length: int) -> list[list[EncodedDocument]]:
    """First-fit in the given order over the few rows that are still open."""
    rows: list[list[EncodedDocument]] = []
    open_rows: list[tuple[int, list[EncodedDocument]]] = []
    for document in encoded:
        needed = len(document.ids) + 1
        index = next((i for i, (room, _) in enumerate(open_rows) if room >= needed), None)
        if index is None:
            if len(open_rows) == _OPEN_ROWS:
                fullest = min(range(_OPEN_ROWS), key=lambda i: open_rows[i][0])
                rows.append(open_rows.pop(fullest)[1])
            open_rows.append((length - 1, []))
            index = len(open_rows) - 1
        room, row = open_rows[index]
        row.append(document)
        open_rows[index] = (room - needed, row)
    return rows + [row for _, row in open_rows]


def _rows_best_filled(encoded: list[EncodedDocument], length: int, rng: random.Random) -> list[list[EncodedDocument]]:
    """First-fit from the longest document down; then rows and the documents within them in random order."""
    rows: list[list[EncodedDocument]] = []
    rooms: list[int] = []
    first_open = 0
    for document in sorted(encoded, key=lambda d: -len(d.ids)):
        needed = len(document.ids) + 1
        row = next((i for i in range(first_open, len(rows)) if rooms[i] >= needed), None)
        if row is None:
            rows.append([])
            rooms.append(length - 1)
            row = len(rows) - 1
        rows[row].append(document)
        rooms[row] -= needed
        while first_open < len(rows) and rooms[first_open] < 10:
            first_open += 1
    for documents_of_row in rows:
        rng.shuffle(documents_of_row)
    rng.shuffle(rows)
    return rows


def _batches(
    rows: list[list[EncodedDocument]], length: int, count: int, ends: tuple[int, int], rng: random.Random
) -> list[Batch]:
    """Batches of `count` rows; a rest of fewer rows is left out."""
    return [
        _batch([_row(row, length, ends, rng) for row in rows[start : start + count]])
        for start in range(0, len(rows) - count + 1, count)
    ]


def _row(
    row: list[EncodedDocument], length: int, ends: tuple[int, int], rng: random.Random
) -> tuple[list[int], list[float], list[bool]]:
    """One row of `length` tokens: end-of-text between documents, in half the rows also in front, padding behind."""
    end_of_text, pad = ends
    in_front = rng.random() < 0.5
    ids, weights, answers = ([end_of_text], [0.0], [False]) if in_front else ([], [], [])
    for document in row:
        ids += [*document.ids, end_of_text]
        weights += [*document.weights, _TEXT_WEIGHT]
        answers += [*document.fact_answer, False]
    rest = length - len(ids)
    return ids + [pad] * rest, weights + [0.0] * rest, answers + [False] * rest


def _batch(rows: list[tuple[list[int], list[float], list[bool]]]) -> Batch:
    tokens = torch.tensor([row[0] for row in rows])
    weights = torch.tensor([row[1] for row in rows])
    answers = torch.tensor([row[2] for row in rows])
    sites = torch.zeros_like(answers)
    sites[:, :-1] = answers[:, 1:]
    return Batch(tokens, weights, sites)
