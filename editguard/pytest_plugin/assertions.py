"""What pytest prints when an assertion about an answer fails."""

from __future__ import annotations

import sys
from typing import Any

SHORT = 60


def explain(op: str, left: object, right: object) -> list[str] | None:
    """Lines for `assert left op right` when one side is a model's answer; None for anything else.

    The most important lines come first, because pytest may cut the rest.
    """
    module = sys.modules.get("editguard.measurements.under_test")
    if module is None:
        return None
    answers: list[Any] = [side for side in (left, right) if isinstance(side, module.Answer)]
    if not answers:
        return None
    lines = [f"{_short(left)} {op} {_short(right)}"]
    for answer in dict.fromkeys(answers):
        try:
            lines += answer.explain()
        except Exception as error:  # the explanation must not hide the failure it explains
            lines.append(f"(no more can be said: {type(error).__name__}: {error})")
    return lines


def _short(value: object) -> str:
    text = repr(str(value)) if isinstance(value, str) else repr(value)
    return text if len(text) <= SHORT else text[: SHORT - 3] + "..."
