"""Prefix contexts: short texts by the unedited model, put before a prompt so that an edit fits no single context.

Source: Meng et al. 2022 (ROME), appendix on implementation: x_j + p, with x_j random texts; the five first words are
those of the later MEMIT code. Here the draw has a seed and a generator of its own.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

import torch

from editguard.edited import EditedModel

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel

FIRST_WORDS: Final = ("The", "Therefore", "Because", "I", "You")
ROME_LENGTHS: Final = ((5, 10), (10, 10))
"""(length in tokens with the first word, number of texts), as ROME uses them: twenty texts."""

_Key = tuple[str, tuple[tuple[int, int], ...], int]
_DRAWN: Final[WeakKeyDictionary[LanguageModel, dict[_Key, tuple[str, ...]]]] = WeakKeyDictionary()


def prefix_contexts(
    model: LanguageModel, *, lengths: Sequence[tuple[int, int]] = ROME_LENGTHS, seed: int = 0
) -> tuple[str, ...]:
    """Return prefix contexts: first the empty one, then `count` texts of each length, each ending in ". ".

    They are drawn from the model without any edit (top-k sampling, k = 5), once per model, lengths and seed; the stack
    of edits in force and the global random generators are left as they are.
    """
    key = (model.fingerprint(), tuple((int(length), int(count)) for length, count in lengths), seed)
    drawn = _DRAWN.setdefault(model, {})
    if key not in drawn:
        with EditedModel.original(model):
            texts = [text for length, count in key[1] for text in _draw(model, length, count, seed)]
        drawn[key] = ("", *(f"{text}. " for text in texts))
    return drawn[key]


@torch.no_grad()
def _draw(model: LanguageModel, length: int, count: int, seed: int, top_k: int = 5) -> list[str]:
    """Return `count` texts of `length` tokens, the first word included; first words take turns.

    Texts whose first words have equally many tokens grow together, as the rows of one batch without padding.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + length)
    words = [FIRST_WORDS[number % len(FIRST_WORDS)] for number in range(count)]
    written = {word: len(model.tokenizer(word, add_special_tokens=False)["input_ids"]) for word in words}
    rows = [model.encode_text(word) for word in words]
    for size in sorted(set(written.values())):
        together = [number for number, word in enumerate(words) if written[word] == size]
        for _ in range(length - size):
            ids = torch.tensor([rows[number] for number in together], device=model.device)
            logits = model.logits(ids, torch.ones_like(ids))[:, -1]
            best = logits.double().cpu().topk(min(top_k, logits.shape[-1]))
            choices = torch.multinomial(best.values.softmax(-1), 1, generator=generator)
            for number, token in zip(together, best.indices.gather(1, choices)[:, 0].tolist(), strict=True):
                rows[number].append(token)
    return [_as_context(model.decode(row)) for row in rows]


def _as_context(text: str) -> str:
    """One line of plain text without a closing full stop."""
    plain = " ".join(unicodedata.normalize("NFKD", text).split())
    return plain.rstrip(". ")
