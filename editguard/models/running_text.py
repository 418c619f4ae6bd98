"""Running text in tokens: which texts of a corpus are read, in which order, and what identifies them."""

import hashlib
import random
from collections.abc import Sequence
from typing import Final

from editguard.errors import MethodRefused
from editguard.models.answer_passes import Pair
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
    model: LanguageModel, corpus: Sequence[str], tokens: int, seed: int, length: int, *, purpose: str
) -> list[list[int]]:
    """Token rows of texts in the order of the seed, `tokens` in all; the last row is cut so that there are not more.

    Args:
        length: rows are cut to this many tokens.
        purpose: what the text is for, in messages.

    Raises: MethodRefused: no token was found, or none is asked for.
    """
    rows: list[list[int]] = []
    left = tokens
    for text in _in_order(corpus, seed):
        if left <= 0:
            break
        row = model.encode_text(text)[: min(length, left)]
        if row:
            rows.append(row)
            left -= len(row)
    if not rows:
        raise _nothing(purpose)
    return rows


def text_pairs(
    model: LanguageModel, corpus: Sequence[str], tokens: int, seed: int, *, purpose: str
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Texts as pairs of a beginning and what follows it, `tokens` following in all, for `answer_passes`.

    A decoder alone predicts every token of a text but the first two: the first position has seen nothing but itself,
    and is much the same in all texts. Of a model with an encoder, that one reads the first half of a text's words, and
    the decoder predicts the second half.

    Args:
        purpose: what the text is for, in messages.

    Raises: MethodRefused: nothing follows anything, or no token is asked for.
    """
    length = longest_text(model)
    pairs = []
    left = tokens
    for text in _in_order(corpus, seed):
        if left <= 0:
            break
        before, after = _halves(model, text, length)
        if before and after:
            pairs.append((tuple(before), tuple(after[:left])))
            left -= len(after)
    if not pairs:
        raise _nothing(purpose)
    return pairs


def _halves(model: LanguageModel, text: str, length: int) -> Pair:
    if not model.anatomy.encoder_layers:
        ids = model.encode_text(text)[:length]
        return ids[:2], ids[2:]
    words = text.split()
    middle = len(words) // 2
    if not middle:
        return (), ()
    before, after = model.encode_answer(" ".join(words[:middle]), " ".join(words[middle:]))
    return before[:length], after[:length]


def _in_order(corpus: Sequence[str], seed: int) -> list[str]:
    order = list(range(len(corpus)))
    random.Random(seed).shuffle(order)
    return [corpus[index] for index in order]


def _nothing(purpose: str) -> MethodRefused:
    return MethodRefused(
        f"the text for {purpose} is empty, or no tokens of it are asked for: "
        "give a corpus of running text and a positive number of tokens."
    )
