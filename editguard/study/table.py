"""The table of a study: methods as rows within a mode and size, properties as columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from shutil import get_terminal_size
from typing import Any, Final

from editguard.measurements.efficiency import Phase
from editguard.measurements.fluency import CONTINUATION_TOKENS
from editguard.study.fitting import tables_within
from editguard.study.folder import StudyFolder
from editguard.study.plan import UNEDITED, Cell
from editguard.study.published import compared, data_key, published
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
_KILO: Final = 2**10
_GIGA: Final = 2**30
_ENDLESS: Final = 10_000
ONE_BY_ONE: Final = " *"
PUBLISHED: Final = "Published, by the same protocol"
"""Title of the table of others' figures."""
_PUBLISHED: Final = ("edits", "method", "measure", "protocol", "ours", "theirs", "difference", "source")
COSTS: Final = "Costs"
"""Title of the table of seconds and sizes."""
_COSTS: Final = (
    *("edits", "method", "s per edit", "quartiles s", "first s", "preparing s", "asking s", "host GiB", "device GiB"),
    *("KiB held", "KiB per edit", "ms per answer", "unedited ms", "ms more per token", "tokens per answer"),
)
MEMORY: Final = "Memory and energy of each phase"
"""Title of the table of peaks and joules."""
_PHASES: Final[Mapping[Phase, str]] = {"prepare": "preparing", "edit": "editing", "evaluate": "asking"}
_QUANTITIES: Final[Mapping[str, tuple[str, str, float]]] = {
    "host_peak_bytes": ("host GiB", ".2f", 1 / _GIGA),
    "device_peak_bytes": ("device GiB", ".2f", 1 / _GIGA),
    "device_reserved_bytes": ("reserved GiB", ".2f", 1 / _GIGA),
    "joules": ("J", ",.0f", 1),
}
"""Of a phase's total: what stands in the column, and how."""
FOOTNOTES: Final = (
    "Mean with 95 % interval (over edits) and number of cases, by real decoding; portability only where the unedited "
    "model knows the other premises; locality is agreement with the unedited model. Edits that were refused are not "
    "in force and not asked about; they are counted under `failed`.",
    "* edits one request at a time: its batch is a sequence.",
    "Held: the numbers that the edits of a state left behind (factors, neurons, keys and values; dense updates of a "
    "sequence are one sum, the text of prompts is not counted). Answer: a pass over some prompts, edited and unedited; "
    "what the edits add to it is shared among the tokens of the prompts as asked. Tokens per answer: read and written "
    "for an answer through a memory of edits, the mean. Seconds per edit: median and quartiles of all applications but "
    "the first, which pays caches.",
    f"Fluency: entropy of the words' bigrams and trigrams in {CONTINUATION_TOKENS} drawn tokens after the edit's "
    "prompt.",
)


def terminal(folder: StudyFolder, rows: Sequence[Row], width: int | None = None) -> str:
    """The table for a screen: mean, interval and number of cases below each other, columns that do not fit below those
    that do.

    width: in characters; the terminal's own by default, and as much as wanted where there is none.
    """
    return _document(
        folder, rows, "simple", "\n", heading="\n{}\n", width=width or get_terminal_size((_ENDLESS, 24)).columns
    )


def markdown(folder: StudyFolder, rows: Sequence[Row]) -> str:
    """The table as Markdown."""
    title = f"# Study of {folder.header()['notes']['model']}\n"
    return title + _document(folder, rows, "github", "<br>", heading="\n## {}\n") + "\n"


@dataclass(frozen=True)
class Block:
    """One table of the document.

    Attributes:
        title: mode and size, or what the table is about.
        headers: of the columns.
        lines: cells; what stands below each other in a cell is parted by line ends. Without any there is no table.
        notes: sentences below it.
    """

    title: str
    headers: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def blocks(folder: StudyFolder, rows: Sequence[Row]) -> list[Block]:
    """The tables of a study: one for each mode and size, and those of the costs where any are known.

    Raises: ConfigurationError: the folder holds no study.
    """
    columns = [name for name in COLUMNS if any(name in row.numbers for row in rows)]
    found = []
    for title, group in groupby(rows, key=lambda row: _title(row.cell)):
        lines = [
            (_method(row), _edits(row), *(_number(row.numbers.get(name)) for name in columns), _failed(row))
            for row in group
        ]
        found.append(Block(title, ("method", "edits", *(COLUMNS[name] for name in columns), "failed"), tuple(lines)))
    by_cell = {row.cell: row for row in rows}
    costs = costs_of(folder)
    if costs:
        found.append(Block(COSTS, _COSTS, tuple(tuple(_cost(cost, by_cell)) for cost in costs)))
    return [*found, *_by_phase(costs), published_block(folder.header()["notes"], rows)]


def failures(rows: Sequence[Row]) -> Iterator[str]:
    """The first message of each method and reason."""
    seen = set()
    for row in rows:
        if row.message and (row.cell.method, row.message) not in seen:
            seen.add((row.cell.method, row.message))
            yield f"{row.cell.method}, {_title(row.cell).lower()}: {row.message}"


def _document(
    folder: StudyFolder, rows: Sequence[Row], style: str, line_break: str, *, heading: str, width: int | None = None
) -> str:
    notes = ["", *(line for note in FOOTNOTES for line in (note, ""))]
    parts: list[str] = []
    for block in blocks(folder, rows):
        if block.title in (COSTS, PUBLISHED):
            parts, notes = parts + notes, []
        lines = [[cell.replace("\n", line_break) for cell in line] for line in block.lines]
        parts.append(heading.format(block.title))
        parts += tables_within(lines, block.headers, style, 2, width) if lines else []
        parts += [line for note in block.notes for line in ("", note)][not lines :]
    return "\n".join([*parts, *notes, *(f"\n{line}" for line in failures(rows))])


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
    notes = [f"{row.superseded} superseded"] if row.superseded else []
    notes += [f"{row.orders} orders"] if row.orders > 1 else []
    return f"{row.edits} ({', '.join(notes)})" if notes else str(row.edits)


def _number(number: Mapping[str, Any] | None) -> str:
    if number is None or number["mean"] is None:
        return "-"
    lines = [f"{number['mean']:.2f}", f"[{number['low']:.2f}, {number['high']:.2f}]", f"n={number['cases']}"]
    orders = number.get("orders")
    if orders is not None and orders["sd"] is not None:
        lines.append(f"orders ±{orders['sd']:.2f}")
    return "\n".join(lines)


def _failed(row: Row) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in row.failed.items())


def _cost(cost: Mapping[str, Any], rows: Mapping[Cell, Row]) -> list[str]:
    cell = Cell(cost["method"], cost["mode"], cost["size"])
    row = rows.get(cell)
    held = (row.stored_bytes, row.stored_bytes_per_edit) if row is not None else (None, None)
    seconds = ("first_seconds", "preparation_seconds", "evaluation_seconds")
    memory = ("host_peak_bytes", "device_peak_bytes")
    answers = ("answer_seconds", "unedited_answer_seconds", "overhead_seconds_per_token")
    return [
        _title(cell),
        cost["method"],
        _figure(cost["seconds_per_edit"], ".3g"),
        " to ".join(_figure(end, ".3g") for end in cost["quartile_seconds"] or ()),
        *(_figure(cost[name], ".3g") for name in seconds),
        *(_figure(cost[name], ".2f", 1 / _GIGA) for name in memory),
        *(_figure(size, ",.1f", 1 / _KILO) for size in held),
        *(_figure(cost[name], ".3g", 1000) for name in answers),
        _figure(None if row is None else row.tokens_per_answer, ",.0f"),
    ]


def _by_phase(costs: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    """The table of what each phase took of each quantity, without the columns that nothing is known for."""
    known = [
        (name, phase)
        for name in _QUANTITIES
        for phase in _PHASES
        if any(cost["phases"].get(phase, {}).get(name) is not None for cost in costs)
    ]
    if not known:
        return
    lines = []
    for cost in costs:
        line = [_title(Cell(cost["method"], cost["mode"], cost["size"])), cost["method"]]
        for name, phase in known:
            _, form, unit = _QUANTITIES[name]
            line.append(_figure(cost["phases"].get(phase, {}).get(name), form, unit))
        lines.append(tuple(line))
    titles = [f"{_PHASES[phase]} {_QUANTITIES[name][0]}" for name, phase in known]
    yield Block(MEMORY, ("edits", "method", *titles), tuple(lines))


def published_block(notes: Mapping[str, Any], rows: Sequence[Row]) -> Block:
    """Others' figures beside ours, in percent, with all that is odd about them; or one sentence where there is none.

    notes: of the study's header.
    """
    known, found = published(), compared(notes, rows)
    lines = [
        (
            _title(pair.cell),
            pair.cell.method,
            pair.figure.metric,
            pair.figure.protocol,
            f"{pair.ours:.1f}\nn={pair.cases}",
            f"{pair.figure.value:.1f}",
            f"{pair.ours - pair.figure.value:+.1f}",
            known.sources[pair.figure.source],
        )
        for pair in found.pairs
    ]
    if found.pairs:
        told = [
            f"{name}: {known.protocols[name]}." for name in dict.fromkeys(each.figure.protocol for each in found.pairs)
        ]
        odd = dict.fromkeys(note for pair in found.pairs for note in pair.figure.notes)
        told += [known.notes[note] for note in odd]
    elif data_key(notes.get("data")) is None:
        told = ["No published figure has this model, data, method and protocol; the data set is none of those known."]
    else:
        told = ["No published figure has this model, data, method and protocol."]
    if found.otherwise:
        others = dict.fromkeys(f"{each.metric} ({each.protocol})" for each in found.otherwise)
        told.append(f"Published by another protocol, and not compared: {', '.join(others)}.")
    return Block(PUBLISHED, _PUBLISHED, tuple(lines), tuple(told))


def _figure(value: float | None, form: str, unit: float = 1) -> str:
    return "" if value is None else format(value * unit, form)
