"""The table of a study: methods as rows within a mode and size, properties as columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from tabulate import tabulate

from editguard.measurements.fluency import CONTINUATION_TOKENS
from editguard.study.folder import StudyFolder
from editguard.study.plan import UNEDITED, Cell
from editguard.study.summary import Row, costs_of

COLUMNS: Final[Mapping[str, str]] = {
    "reliability": "reliability",
    "generalization": "generalization",
    "portability/subject_replace": "subject replace",
    "portability/reversed_relation": "reversed relation",
    "portability/one_hop": "one hop",
    "portability/one_hop_think": "one hop, step by step",
    "locality/other_relation": "other relations",
    "locality/neighbourhood": "neighbourhood",
    "locality/distracting_neighbourhood": "distracting neighbourhood",
    "other_tasks": "other tasks",
    "fluency": "fluency (bits)",
}
"""Numbers of a row that have a column, where any row has them; the summary has all."""
_GIGA: Final = 2**30
ONE_BY_ONE: Final = " *"
FOOTNOTES: Final = (
    "Mean with 95 % interval (over edits) and number of cases, by real decoding; portability only where the unedited "
    "model knows the other premises; locality is agreement with the unedited model. Edits that were refused are not "
    "in force and not asked about; they are counted under `failed`.",
    "* edits one request at a time: its batch is a sequence.",
    f"Fluency: entropy of the words' bigrams and trigrams in {CONTINUATION_TOKENS} drawn tokens after the edit's "
    "prompt.",
)


def terminal(folder: StudyFolder, rows: Sequence[Row]) -> str:
    """The table for a screen: mean, interval and number of cases below each other."""
    return _document(folder, rows, "simple", "\n", heading="\n{}\n")


def markdown(folder: StudyFolder, rows: Sequence[Row]) -> str:
    """The table as Markdown."""
    title = f"# Study of {folder.header()['notes']['model']}\n"
    return title + _document(folder, rows, "github", "<br>", heading="\n## {}\n") + "\n"


def _document(folder: StudyFolder, rows: Sequence[Row], style: str, line_break: str, *, heading: str) -> str:
    blocks = []
    columns = [name for name in COLUMNS if any(name in row.numbers for row in rows)]
    for title, group in groupby(rows, key=lambda row: _title(row.cell)):
        headers = ["method", "edits", *(COLUMNS[name] for name in columns), "failed"]
        lines = [
            [_method(row), _edits(row), *(_number(row.numbers.get(name), line_break) for name in columns), _failed(row)]
            for row in group
        ]
        blocks += [heading.format(title), tabulate(lines, headers=headers, tablefmt=style, disable_numparse=True)]
    blocks += ["", *(line for note in FOOTNOTES for line in (note, ""))]
    costs = [_cost(cost) for cost in costs_of(folder)]
    if costs:
        headers = ["edits", "method", "s per edit", "first s", "preparing s", "asking s", "host GiB", "device GiB"]
        blocks += [heading.format("Costs"), tabulate(costs, headers=headers, tablefmt=style, disable_numparse=True)]
    blocks += [f"\n{line}" for line in _failures(rows)]
    return "\n".join(blocks)


def _title(cell: Cell) -> str:
    return {
        "single": "Single edits",
        "batch": f"Batch of {cell.size}",
        "sequence": f"Sequence, after {cell.size}",
    }[cell.mode]


def _method(row: Row) -> str:
    name = "(no edit)" if row.cell.method == UNEDITED else row.cell.method
    return name + (ONE_BY_ONE if row.one_by_one else "")


def _edits(row: Row) -> str:
    return f"{row.edits} ({row.superseded} superseded)" if row.superseded else str(row.edits)


def _number(number: Mapping[str, Any] | None, line_break: str) -> str:
    if number is None or number["mean"] is None:
        return "-"
    return line_break.join(
        [f"{number['mean']:.2f}", f"[{number['low']:.2f}, {number['high']:.2f}]", f"n={number['cases']}"]
    )


def _failed(row: Row) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in row.failed.items())


def _failures(rows: Sequence[Row]) -> Iterator[str]:
    """The first message of each method and reason."""
    seen = set()
    for row in rows:
        if row.message and (row.cell.method, row.message) not in seen:
            seen.add((row.cell.method, row.message))
            yield f"{row.cell.method}, {_title(row.cell).lower()}: {row.message}"


def _cost(cost: Mapping[str, Any]) -> list[str]:
    title = _title(Cell(cost["method"], cost["mode"], cost["size"]))
    seconds = ("seconds_per_edit", "first_seconds", "preparation_seconds", "evaluation_seconds")
    memory = ("host_peak_bytes", "device_peak_bytes")
    return [
        title,
        cost["method"],
        *("" if cost[name] is None else f"{cost[name]:.3g}" for name in seconds),
        *("" if cost[name] is None else f"{cost[name] / _GIGA:.2f}" for name in memory),
    ]
