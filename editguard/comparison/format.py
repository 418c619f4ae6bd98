"""The text of a baseline file: JSON with sorted keys, in which each case is one line, so that a diff reads well."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

DIGITS = 6


def baseline_text(content: Mapping[str, Any]) -> str:
    """Return the one text that stands for the content: the same content gives the same bytes everywhere."""
    return _text(content, "") + "\n"


def _text(value: Any, indent: str) -> str:
    """Objects over several lines, everything else on one."""
    if not isinstance(value, Mapping):
        return json.dumps(_plain(value), ensure_ascii=False, sort_keys=True, allow_nan=False)
    if not value:
        return "{}"
    inner = indent + " "
    lines = (
        f"{inner}{json.dumps(str(name), ensure_ascii=False)}: {_text(value[name], inner)}"
        for name in sorted(value, key=str)
    )
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def _plain(value: Any) -> Any:
    """Numbers with a fixed number of digits, whole ones without a point, none that is not finite."""
    if isinstance(value, bool) or value is None or isinstance(value, (int, str)):
        return value
    if isinstance(value, float):
        if not isfinite(value):
            return None
        rounded = round(value, DIGITS)
        return int(rounded) if rounded.is_integer() else rounded
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return str(value)
