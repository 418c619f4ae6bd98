"""The history as one table in a file: a row for each check of each run, or for each run; CSV or Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

from editguard.errors import ConfigurationError
from editguard.history import RunCheck, RunRecord
from editguard.history.run import columns
from editguard.storage import replacing, write_atomically
from editguard.study.parquet import require_pyarrow

_PARQUET: Final = {str: "string", int: "int64", float: "float64", bool: "bool_"}
_RUN: Final = "run"
"""Column of the run's id, the first of each table."""


def writer_for(path: Path) -> Callable[[Path, Sequence[RunRecord], bool], None]:
    """The function that writes a file of this name's ending; its last argument is whether rows are checks.

    Raises: ConfigurationError: the ending is neither .csv nor .parquet, or pyarrow is missing.
    """
    writers = {".csv": _write_csv, ".parquet": _write_parquet}
    if path.suffix.lower() not in writers:
        raise ConfigurationError(f"--export writes .csv and .parquet files; {path} is neither.")
    if path.is_dir():
        raise ConfigurationError(f"{path} is a directory; name a file to write.")
    if path.suffix.lower() == ".parquet":
        require_pyarrow("--export of a .parquet file")
    return writers[path.suffix.lower()]


def _types(checks: bool) -> dict[str, Any]:
    """The columns and the types of their values, in order."""
    kinds: Sequence[type[RunCheck] | type[RunRecord]] = (RunRecord, RunCheck) if checks else (RunRecord,)
    types = {}
    for kind in kinds:
        hints = get_type_hints(kind)
        for name, column in columns(kind).items():
            [known, *_] = [each for each in (hints[name], *get_args(hints[name])) if each in (*_PARQUET, datetime)] or [
                str
            ]
            types[_RUN if (kind, name) == (RunRecord, "id") else column] = known
    return types


def _rows(runs: Sequence[RunRecord], checks: bool) -> Iterator[list[Any]]:
    """The values of each row, in the columns' order."""
    for run in runs:
        about = [getattr(run, name) for name in columns(RunRecord)]
        if not checks:
            yield about
            continue
        for check in run.checks:
            yield [*about, *(getattr(check, name) for name in columns(RunCheck))]


def _write_csv(path: Path, runs: Sequence[RunRecord], checks: bool) -> None:
    def lines() -> Iterator[str]:
        line = io.StringIO()
        writer = csv.writer(line, lineterminator="\n")
        for row in (list(_types(checks)), *_rows(runs, checks)):
            writer.writerow([value.isoformat() if isinstance(value, datetime) else value for value in row])
            yield line.getvalue()
            line.seek(0)
            line.truncate()

    write_atomically(path, lines(), error=ConfigurationError)


def _write_parquet(path: Path, runs: Sequence[RunRecord], checks: bool) -> None:
    arrow = require_pyarrow("--export of a .parquet file")
    moment = arrow.timestamp("us", tz="UTC")
    types = _types(checks)
    schema = arrow.schema(
        [(name, moment if kind is datetime else getattr(arrow, _PARQUET[kind])()) for name, kind in types.items()]
    )
    rows = [dict(zip(types, row, strict=True)) for row in _rows(runs, checks)]
    with replacing(path, error=ConfigurationError) as file:
        arrow.parquet.write_table(arrow.Table.from_pylist(rows, schema=schema), file)
