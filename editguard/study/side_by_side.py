"""Several studies beside each other: what the same methods do on other models and other data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from editguard.errors import ConfigurationError
from editguard.study.criteria import Group, Value
from editguard.study.fitting import tables_within
from editguard.study.plan import MODES, Mode
from editguard.study.results import Results
from editguard.study.table import Block

SHOWN: Final = {
    "reliability": "reliability",
    "generalization": "generalization",
    "portability": "portability",
    "locality": "locality",
    "other_tasks": "other tasks",
    "fluency": "fluency (bits)",
    "time": "seconds per edit",
}
"""Criteria that have a line, where any study has a value of them."""
NOTE: Final = (
    "Mean with 95 % interval over edits, by real decoding; portability is asked where the unedited model knows the "
    "other premises, which differs between models, and locality is agreement with each model's own answers before the "
    "edit."
)


def side_by_side(found: Sequence[Results]) -> list[Block]:
    """A table for each mode and size: a line for each method and criterion, a column for each study.

    Raises: ConfigurationError: no two studies have a mode and size in common, so that nothing stands beside anything.
    """
    blocks = []
    for mode, size in groups_of(found):
        groups = [Group(results, mode, size) for results in found]
        names = dict.fromkeys(name for group in groups for name in group.methods())
        lines = []
        for name in names:
            for criterion, title in SHOWN.items():
                values = [value_of(group, criterion, name) for group in groups]
                if any(values):
                    lines.append((name, title, *(_text(value) for value in values)))
        title = groups[0].title[0].upper() + groups[0].title[1:]
        blocks.append(Block(title, ("method", "", *(_heading(results) for results in found)), tuple(lines)))
    if not blocks:
        raise ConfigurationError("no two of these studies have edits in the same mode and number.")
    return blocks


def groups_of(found: Sequence[Results]) -> list[tuple[Mode, int]]:
    """Modes and sizes that two studies have, or more."""
    sizes = [results.sizes() for results in found]
    return [
        (mode, size)
        for mode in MODES
        for size in sorted({size for each in sizes for size in each.get(mode, ())})
        if sum(size in each.get(mode, ()) for each in sizes) > 1
    ]


def value_of(group: Group, criterion: str, method: str) -> Value | None:
    """What was measured of a method; None where nothing was."""
    return group.value(criterion, method) if method in group.methods() else None


def terminal(blocks: Sequence[Block], width: int) -> str:
    """The tables for a screen."""
    parts = []
    for block in blocks:
        parts += [f"\n{block.title}\n", *tables_within(block.lines, block.headers, "simple", 2, width)]
    return "\n".join([*parts, "", NOTE])


def markdown(title: str, blocks: Sequence[Block]) -> str:
    """The tables as Markdown."""
    parts = [f"# {title}"]
    for block in blocks:
        parts += [f"\n## {block.title}\n", *tables_within(block.lines, block.headers, "github", 2, None)]
    return "\n".join([*parts, "", NOTE]) + "\n"


def parameters_in_words(parameters: int) -> str:
    """A number of parameters as people say it: 6.05 B, 3.9 M, 12 k."""
    for factor, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if parameters >= factor:
            return f"{parameters / factor:.3g} {letter}"
    return str(parameters)


def _heading(results: Results) -> str:
    size = f" ({parameters_in_words(results.parameters)} parameters)" if results.parameters else ""
    return f"{results.name}{size}"


def _text(value: Value | None) -> str:
    if value is None:
        return "-"
    if value.low is None or value.high is None:
        return f"{value.value:.3g}"
    return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"
