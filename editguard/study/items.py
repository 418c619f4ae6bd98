"""The work that a plan leaves to do, in items that do not depend on each other, small enough to hand to a process."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from editguard.methods.registry import methods
from editguard.study.plan import UNEDITED, Cell

Kind = Literal["unedited", "single", "batch", "sequence"]
Missing = Mapping[Cell, Sequence[str]]
"""Cells with the names of the parts that are to be done."""
SHARES: Final = 4
"""Each process gets so many items of a method's single edits, so that none waits long for the last."""
LARGEST: Final = 50
"""So many single edits at most are one item: what a lost process had not begun with waits for another."""


@dataclass(frozen=True)
class Item:
    """Parts that one process does one after another on one model.

    Attributes:
        method: registered name, or `UNEDITED`.
        kind: how they are done; the batches of a method that edits one request at a time are on its sequence.
        missing: cells with the names of their parts, in the order of the work.
    """

    method: str
    kind: Kind
    missing: tuple[tuple[Cell, tuple[str, ...]], ...]

    @property
    def order(self) -> int:
        """Of the edits of a sequence."""
        return self.missing[0][0].order

    @property
    def parts(self) -> list[tuple[Cell, str]]:
        """Each part with its cell."""
        return [(cell, name) for cell, names in self.missing for name in names]

    @property
    def amount(self) -> int:
        """A measure of the work: cases that are in force, and asked about, in all states together."""
        return sum(cell.size for cell, _ in self.parts)

    def without(self, done: Collection[tuple[Cell, str]]) -> Item | None:
        """What is left when some parts are done; None where nothing is."""
        left = [(cell, tuple(name for name in names if (cell, name) not in done)) for cell, names in self.missing]
        missing = tuple((cell, names) for cell, names in left if names)
        return replace(self, missing=missing) if missing else None

    def __str__(self) -> str:
        parts = self.parts
        cell, first = parts[0]
        more = f" and {len(parts) - 1} more" if len(parts) > 1 else ""
        return f"{cell.name}, part {first}{more}"


def divided(missing: Missing, *, workers: int = 1) -> list[Item]:
    """The items of what is missing, those of a method together; all single edits of one are one item for one process.

    Args:
        missing: in the order of the work.
        workers: how many processes share the items.
    """
    found: dict[str, dict[tuple[Kind, int, int], list[tuple[Cell, tuple[str, ...]]]]] = {}
    for cell, names in missing.items():
        kind = kind_of(cell)
        share = (kind, cell.order, cell.size if kind in ("unedited", "batch") else 0)
        found.setdefault(cell.method, {}).setdefault(share, []).append((cell, tuple(names)))
    return [
        item
        for method, shares in found.items()
        for (kind, _, _), cells in sorted(shares.items(), key=lambda share: share[0][0] == "sequence")
        for item in _pieces(Item(method, kind, tuple(cells)), workers)
    ]


def kind_of(cell: Cell) -> Kind:
    """How a cell is done: a batch of a method that edits one request at a time is a state of its sequence."""
    if cell.method == UNEDITED:
        return "unedited"
    return "sequence" if cell.mode == "batch" and not methods()[cell.method].batches else cell.mode


def _pieces(item: Item, workers: int) -> Iterator[Item]:
    """Single edits in shares; anything else is one piece."""
    if item.kind != "single" or workers == 1:
        yield item
        return
    for cell, names in item.missing:
        size = min(LARGEST, math.ceil(len(names) / (SHARES * workers)))
        for start in range(0, len(names), size):
            yield replace(item, missing=((cell, names[start : start + size]),))
