"""Tables that fit the screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import fill
from typing import Final

from tabulate import MIN_PADDING, tabulate

_HEADER: Final = 12
"""Characters of a line of a column's title on a screen, as many as an interval has."""
_GAP: Final = 2
"""Characters between two columns."""


def tables_within(
    lines: Sequence[Sequence[str]], headers: Sequence[str], style: str, fixed: int, width: int | None
) -> Iterator[str]:
    """One table, or several that fit `width`, each with the first `fixed` columns; headers are then broken into words.

    lines: rows of cells; style: of tabulate; width: in characters, None for as much as wanted.

    A column by itself may be wider than the screen, and gets a table of its own.
    """
    if width is not None:
        headers = [fill(header, _HEADER, break_long_words=False) for header in headers]
    spans = [
        max(_width(header) + MIN_PADDING, *(_width(line[at]) for line in lines)) + _GAP
        for at, header in enumerate(headers)
    ]
    rest = range(fixed, len(headers))
    groups: list[list[int]] = [[]]
    for at in rest:
        taken = sum(spans[:fixed]) + sum(spans[column] for column in groups[-1])
        if width is not None and groups[-1] and taken + spans[at] - _GAP > width:
            groups.append([])
        groups[-1].append(at)
    for number, group in enumerate(groups):
        chosen = [*range(fixed), *group]
        table = tabulate(
            [[line[at] for at in chosen] for line in lines],
            headers=[headers[at] for at in chosen],
            tablefmt=style,
            disable_numparse=True,
        )
        yield table if number == 0 else f"\n{table}"


def _width(cell: str) -> int:
    return max(map(len, cell.split("\n")))
