"""Beginnings of running texts, as prompts that have nothing to do with an edit."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel


def beginnings(model: LanguageModel, texts: Iterable[str], count: int, tokens: int) -> dict[str, tuple[int, ...]]:
    """Return the first tokens of the first `count` different texts, by the text.

    Texts without any token are passed over.
    """
    found: dict[str, tuple[int, ...]] = {}
    for text in islice((text for text in texts if text.strip()), 4 * count):
        if text not in found and (ids := model.encode_text(text)[:tokens]):
            found[text] = tuple(ids)
        if len(found) == count:
            break
    return found
