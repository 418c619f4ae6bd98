"""What pytest prints when an assertion about an answer fails."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

SHORT = 60


def explain(op: str, left: object, right: object, *, room: bool = False) -> list[str] | None:
    """Lines for `assert left op right` when one side is a model's answer; None for anything else.

    The most important lines come first, and without `room` lists stand on one line, so that the whole of it
    escapes pytest's truncation (8 lines) in the usual case.
    """
    module = sys.modules.get("editguard.measurements.under_test")
    if module is None:
        return None
    answers: list[Any] = [side for side in (left, right) if isinstance(side, module.Answer)]
    if not answers:
        return None
    lines = [f"{_short(left)} {op} {_short(right)}"]
    for answer in {(answer.prompt, id(answer)): answer for answer in answers}.values():
        try:
            explained = answer.explain()
        except Exception as error:  # the explanation must not hide the failure it explains
            explained = [f"(no more can be said: {type(error).__name__}: {error})"]
        lines += explained if room else _joined(explained)
    return lines


def _joined(lines: Sequence[str]) -> list[str]:
    """The lines, with those that are indented put behind the one they belong to."""
    joined: list[str] = []
    for line in lines:
        if line.startswith("  ") and joined:
            words = " ".join(line.split())
            joined[-1] += f" {words}" if joined[-1].endswith(":") else f"; {words}"
        else:
            joined.append(line)
    return joined


def _short(value: object) -> str:
    text = repr(str(value)) if isinstance(value, str) else repr(value)
    return text if len(text) <= SHORT else text[: SHORT - 3] + "..."
