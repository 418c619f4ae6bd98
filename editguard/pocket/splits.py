"""Held-out splits that depend on names only, never on the order in which things are drawn."""

from __future__ import annotations

import random
from hashlib import sha256


def fraction(*parts: object) -> float:
    """A number in [0, 1), the same on every machine, that looks random and is fixed by `parts`."""
    digest = sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def stream(*parts: object) -> random.Random:
    """A random generator of its own for the purpose named by `parts`."""
    return random.Random("\x1f".join(str(part) for part in parts))
