"""The records of a study as one Parquet file: a row per value, a row group or more per cell."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from editguard.errors import CacheError, ConfigurationError
from editguard.storage import replacing

if TYPE_CHECKING:
    from editguard.study.folder import StudyFolder
    from editguard.study.plan import Cell

FILE: Final = "records.parquet"
ROWS: Final = 20_000
"""Of a row group at most; so many are in memory at a time."""
COLUMNS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("method", "mode"), "string"),
    **dict.fromkeys(("size", "order"), "int64"),
    **dict.fromkeys(("part", "case", "property", "kind", "probe", "outcome"), "string"),
    **dict.fromkeys(("value", "token_accuracy"), "float64"),
    **dict.fromkeys(("unit", "answer"), "string"),
    "agrees": "bool_",
    "lookup": "string",
}
"""Name -> type in pyarrow. What a value lacks is null; the lookup in a memory of edits is JSON."""


def require_pyarrow(asked: str = "--parquet") -> ModuleType:
    """Import `pyarrow` and return it; `asked` is the option that needs it.

    Raises: ConfigurationError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigurationError(
            f"{asked} needs the package pyarrow, which cannot be imported here: pip install 'editguard[parquet]'."
        ) from None
    module: ModuleType = pyarrow
    return module


def write_parquet(folder: StudyFolder) -> Path:
    """Write the values of all complete parts to `records.parquet`, in one step; returns its path.

    Raises: ConfigurationError: pyarrow is missing. CacheError: the file cannot be written. MalformedRecord: a record
        cannot be read.
    """
    arrow = require_pyarrow()
    schema = arrow.schema([(name, getattr(arrow, kind)()) for name, kind in COLUMNS.items()])
    path = folder.path / FILE
    with replacing(path) as file, arrow.parquet.ParquetWriter(file, schema) as writer:
        for cell in folder.cells():
            rows = _rows(folder, cell)
            while group := list(islice(rows, ROWS)):
                try:
                    table = arrow.Table.from_pylist(group, schema=schema)
                except (arrow.ArrowInvalid, arrow.ArrowTypeError) as problem:
                    raise CacheError(
                        f"the records of {cell.name} do not fit the columns of {path}: {problem}."
                    ) from None
                writer.write_table(table)
    return path


def _rows(folder: StudyFolder, cell: Cell) -> Iterator[dict[str, Any]]:
    place = {"method": cell.method, "mode": cell.mode, "size": cell.size, "order": cell.order}
    for part in folder.streamed(cell):
        for value in part.values:
            row = {**value, **place, "part": part.name}
            if "lookup" in row:
                row["lookup"] = json.dumps(row["lookup"], ensure_ascii=False, sort_keys=True)
            yield row
