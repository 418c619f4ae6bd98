"""A number that a value must reach, or stay below, as people write it: "locality>=0.9"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final, Literal

_FORM: Final = re.compile(r"\s*([^<>=\s]+)\s*(>=|<=|>|<)\s*([^<>=\s]+)\s*")


@dataclass(frozen=True)
class Bound:
    """What a value must hold."""

    criterion: str
    relation: Literal[">=", "<=", ">", "<"]
    bound: float

    def holds(self, value: float) -> bool:
        """Whether a value is within."""
        return {
            ">=": value >= self.bound,
            "<=": value <= self.bound,
            ">": value > self.bound,
            "<": value < self.bound,
        }[self.relation]

    def text(self) -> str:
        """As it was typed."""
        return f"{self.criterion}{self.relation}{self.bound:g}"


def read_bound(text: str) -> Bound | None:
    """From "locality>=0.9" to a bound; None where the form is another, or the number is not finite."""
    parts = _FORM.fullmatch(text)
    try:
        bound = float(parts[3]) if parts else None
    except ValueError:
        bound = None
    if parts is None or bound is None or not isfinite(bound):
        return None
    relation: Any = parts[2]
    return Bound(parts[1], relation, bound)
