"""Running text in tokens: which texts of a corpus are read, in which order, and what identifies them."""

import hashlib
import random
from collections.abc import Sequence
from typing import Final

from editguard.errors import MethodRefused
from editguard.models.language_model import LanguageModel

LONGEST_TEXT: Final = 2048
"""Texts are cut to this many tokens, or to the model's context where that is shorter."""


def longest_text(model: LanguageModel, limit: int | None = None) -> int:
    """How many tokens of a text are read: `limit`, by default `LONGEST_TEXT`, where the model's context holds them."""
    return min(limit or LONGEST_TEXT, model.context_length or LONGEST_TEXT)


def corpus_digest(corpus: Sequence[str]) -> str:
    """sha256 of the texts and of where they end."""
    digest = hashlib.sha256()
    for text in corpus:
        raw = text.encode()
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()


def drawn_rows(
    model: LanguageModel,
    corpus: Sequence[str],
    tokens: int,
    seed: int,
    length: int,
    *,
    purpose: str,
    skipped: int = 0,
) -> list[list[int]]:
    """Token rows of texts in the order of the seed, `tokens` in all; the last row is cut so that there are not more.

    Args:
        length: rows are cut to this many tokens.
        purpose: what the text is for, in messages.
        skipped: how many tokens at each row's beginning do not count; rows without any others are left out.

    Raises: MethodRefused: no token was found, or none is asked for.
    """
    order = list(range(len(corpus)))
    random.Random(seed).shuffle(order)
    rows: list[list[int]] = []
    left = tokens
    for index in order:
        if left <= 0:
            break
        row = model.encode_text(corpus[index])[: min(length, left + skipped)]
        if len(row) > skipped:
            rows.append(row)
            left -= len(row) - skipped
    if not rows:
        raise MethodRefused(
            f"the text for {purpose} is empty, or no tokens of it are asked for: "
            "give a corpus of running text and a positive number of tokens."
        )
    return rows
