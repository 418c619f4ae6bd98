"""A finished study as its files tell it: the rows of summary.json and costs.json, checked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from editguard.errors import ConfigurationError, MalformedRecord
from editguard.study.plan import MODES, UNEDITED, Cell

_AGAIN: Final = "Make it again with: editguard study --table --out FOLDER"


@dataclass(frozen=True)
class Results:
    """What a study found.

    Attributes:
        name: of the folder.
        methods: that take part, in the study's own order, without the unedited model.
        rows: one for each cell, as `Row.to_json` writes them.
        costs: one for each cell whose cost is known; None without costs.json.
        model: its name, where costs.json tells it.
        parameters: how many the model has, where costs.json tells it.
        cases: a digest of the edit cases, where summary.json tells it.
    """

    name: str
    methods: tuple[str, ...]
    rows: Mapping[Cell, Mapping[str, Any]]
    costs: Mapping[Cell, Mapping[str, Any]] | None
    model: str | None
    parameters: int | None = None
    cases: str | None = None

    def sizes(self) -> dict[str, list[int]]:
        """The modes that the study has, each with its numbers of edits in force."""
        found: dict[str, set[int]] = {mode: set() for mode in MODES}
        for cell in self.rows:
            if cell.method != UNEDITED:
                found[cell.mode].add(cell.size)
        return {mode: sorted(sizes) for mode, sizes in found.items() if sizes}

    def unedited(self, mode: str, size: int) -> Mapping[str, Any] | None:
        """The row of the unedited model that a group is compared with; of single edits the one over the most cases."""
        rows = [
            (cell.size, row)
            for cell, row in self.rows.items()
            if cell.method == UNEDITED and cell.mode == mode and (mode == "single" or cell.size == size)
        ]
        return max(rows, key=lambda each: each[0])[1] if rows else None


def read_results(path: Path) -> Results:
    """Read a study's folder, or a folder that holds its summary.json and perhaps costs.json.

    Raises: ConfigurationError: there is no study, or a file is not JSON. MalformedRecord: a row lacks something.
    """
    if not path.is_dir():
        raise ConfigurationError(f"there is no folder {path}: name the folder of a study, which holds summary.json.")
    summary = _read(path / "summary.json")
    if summary is None:
        raise ConfigurationError(f"{path} holds no summary.json: name the folder of a finished study.")
    costs = _read(path / "costs.json")
    rows = _rows(path / "summary.json", summary)
    measured = {cell.method: None for cell in rows if cell.method != UNEDITED}
    study = summary.get("study")
    declared = study.get("methods") if isinstance(study, dict) else None
    named = declared if isinstance(declared, dict) else {}
    notes = costs.get("notes") if costs is not None else None
    noted = notes if isinstance(notes, dict) else {}
    data = study.get("data") if isinstance(study, dict) else None
    cases = data.get("cases_digest") if isinstance(data, dict) else None
    model, parameters = noted.get("model"), noted.get("parameters")
    return Results(
        name=path.resolve().name,
        methods=tuple({**measured, **dict.fromkeys(named)}),
        rows=rows,
        costs=None if costs is None else _rows(path / "costs.json", costs),
        model=model if isinstance(model, str) else None,
        parameters=parameters if isinstance(parameters, int) else None,
        cases=cases if isinstance(cases, str) else None,
    )


def number(value: object) -> float | None:
    """A finite number as such; None where none was measured.

    Raises: ValueError: it is neither a finite number nor None.
    """
    if value is None:
        return None
    try:
        found = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise ValueError(f"{value!r} is no finite number")
    return found


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as problem:
        raise ConfigurationError(f"{path} cannot be read: {problem}. {_AGAIN}") from None
    if not isinstance(found, dict) or not isinstance(found.get("rows"), list):
        raise ConfigurationError(f"{path} cannot be read: it is no object with a list of rows. {_AGAIN}")
    return found


def _rows(path: Path, table: Mapping[str, Any]) -> dict[Cell, Mapping[str, Any]]:
    found: dict[Cell, Mapping[str, Any]] = {}
    for position, row in enumerate(table["rows"], start=1):
        try:
            cell = _cell(row)
            for place, value in _numbers(row):
                try:
                    number(value)
                except ValueError as problem:
                    raise ValueError(f"{place}: {problem}") from None
        except ValueError as problem:
            raise MalformedRecord(path, position, f"{problem}. {_AGAIN}") from None
        if cell in found:
            raise MalformedRecord(path, position, f"a second row of {cell.method}, {cell.mode}, {cell.size}. {_AGAIN}")
        found[cell] = row
    return found


def _cell(row: object) -> Cell:
    if not isinstance(row, dict):
        raise ValueError("it is no JSON object")
    method, mode, size = row.get("method"), row.get("mode"), row.get("size")
    if not isinstance(method, str) or mode not in MODES or isinstance(size, bool) or not isinstance(size, int):
        raise ValueError(f"it is of no method, mode and size, but of {method!r}, {mode!r} and {size!r}")
    return Cell(method, mode, size)


def _numbers(row: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Every number of a row that a criterion may use, with the place where it stands."""
    table = row.get("numbers", {})
    if not isinstance(table, dict):
        raise ValueError("its numbers are no JSON object")
    for name, entry in table.items():
        if not isinstance(entry, dict):
            raise ValueError(f"numbers.{name} is no JSON object")
        if not isinstance(entry.get("unit", ""), str):
            raise ValueError(f"numbers.{name}.unit is no text")
        yield from ((f"numbers.{name}.{part}", entry.get(part)) for part in ("mean", "low", "high", "cases"))
        orders = entry.get("orders", {"means": {}})
        if not isinstance(orders, dict) or not isinstance(orders.get("means"), dict):
            raise ValueError(f"numbers.{name}.orders is no JSON object with means")
        yield from ((f"numbers.{name}.orders.means.{order}", mean) for order, mean in orders["means"].items())
    known: Sequence[str] = ("seconds_per_edit", "preparation_seconds", "answer_seconds")
    yield from ((name, row.get(name)) for name in (*known, "tokens_per_answer", "stored_bytes"))
