"""The files that show several studies beside each other: tables, a page, and properties over the models' size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from editguard.report.curves import SHOWN, Curves, curves_svg
from editguard.report.latex import latex_tables
from editguard.report.study_page import study_page
from editguard.storage import write_atomically
from editguard.study.criteria import Group, Value
from editguard.study.results import Results
from editguard.study.side_by_side import NOTE, groups_of, markdown, parameters_in_words, side_by_side, value_of

NAME: Final = "side-by-side"


def write_side_by_side(folder: Path, found: Sequence[Results]) -> None:
    """Write side-by-side.md, .tex and .html, and a picture scaling-N.svg for each data set that models of several sizes
    were asked about.

    Raises: ConfigurationError: nothing of the studies can be compared. CacheError: a file cannot be written.
    """
    blocks = side_by_side(found)
    title = ", ".join(results.name for results in found)
    shown = [(curves.title, curves_svg(curves)) for curves in scalings(found)]
    for earlier in folder.glob("scaling-*.svg"):
        earlier.unlink()
    for number, (_, picture) in enumerate(shown, start=1):
        write_atomically(folder / f"scaling-{number}.svg", picture)
    write_atomically(folder / f"{NAME}.md", markdown(f"Studies of {title}", blocks))
    write_atomically(folder / f"{NAME}.tex", latex_tables(title, blocks, (), notes=(NOTE,)))
    write_atomically(folder / f"{NAME}.html", study_page(title, blocks, (), dict(shown), notes=(NOTE,)))


def scalings(found: Sequence[Results]) -> list[Curves]:
    """Properties over the number of parameters, for each set of cases that models of several sizes were asked about.

    Shown are single edits where there are any, else the smallest batch or sequence that two of these models have.
    """
    by_data: dict[str, list[Results]] = defaultdict(list)
    for results in found:
        if results.parameters and results.cases:
            by_data[results.cases].append(results)
    return [curves for each in by_data.values() if (curves := _scaling(each)) is not None]


def _scaling(found: Sequence[Results]) -> Curves | None:
    """The curves of models that were asked about the same cases; None where there are fewer than two sizes."""
    sizes = sorted({results.parameters for results in found if results.parameters})
    common = groups_of(found)
    if len(sizes) < 2 or not common:
        return None
    mode, size = common[0]
    panels: dict[str, dict[str, dict[int, Value]]] = {}
    for results in found:
        group = Group(results, mode, size)
        for criterion in SHOWN:
            for name in group.methods():
                value = value_of(group, criterion, name)
                if value is not None and results.parameters:
                    panels.setdefault(criterion, {}).setdefault(name, {})[results.parameters] = value
    title = f"{', '.join(results.name for results in found)}: {Group(found[0], mode, size).title}"
    ticks = tuple(parameters_in_words(each) for each in sizes)
    return Curves(title, tuple(sizes), panels, across="parameters of the model", ticks=ticks)
