"""Edits that ask for what the model answers anyway: nothing is changed for them, and that is said."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from editguard.edits import EditRequest

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel


def already_true(model: LanguageModel, requests: Sequence[EditRequest]) -> list[bool]:
    """Return for each request whether every token of its target is the likeliest one behind its prompt, now."""
    return [score.exact for score in model.score([(request.text, request.target) for request in requests])]


def warn_already_true(method: str, statements: Sequence[str]) -> None:
    """Say which edits were none."""
    if statements:
        named = ", ".join(repr(statement) for statement in statements)
        warnings.warn(
            f"{method} changes nothing for {named}: the model answers so already.", RuntimeWarning, stacklevel=4
        )
