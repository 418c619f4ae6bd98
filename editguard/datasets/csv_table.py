"""Our own form as a table, for spreadsheets: the first row of a case holds the edit, each row at most one probe.

    prompt,subject,target,previous,relation,label,origin,property,kind,probe,answers,choices,knows
    The capital of {} is,Velloria,Oskar,Tamrin,capital,,,generalization,rephrase,Velloria's capital city is,Oskar,,
    ,,,,,,,locality,neighbourhood,The capital of Dralonia is,,,

A row without "prompt", "subject" and "target" gives the case above it one more probe. Several answers or choices are
parted by "|", the pairs of "knows" are written "prompt => answer"; a "|", "=>" or backslash of the text itself has a
backslash in front. "origin" is a JSON object. Columns that are not needed may be missing; their order is free.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from editguard.datasets.jsonl import case_record
from editguard.datasets.streams import Positioned
from editguard.edits import EditCase
from editguard.errors import InvalidEdit, MalformedRecord
from editguard.storage import write_atomically

EDIT_COLUMNS: Final = ("prompt", "subject", "target", "previous", "relation", "label", "origin")
PROBE_COLUMNS: Final = ("property", "kind", "probe", "answers", "choices", "knows")
COLUMNS: Final = (*EDIT_COLUMNS, *PROBE_COLUMNS)
_STARTS: Final = EDIT_COLUMNS[:3]
_PARTS: Final = re.compile(r"(?:\\.|[^|])+", re.DOTALL)
_PAIR: Final = re.compile(r"((?:\\.|[^\\])*?)=>(.*)", re.DOTALL)


def csv_records(file: io.BufferedReader, path: Path) -> Iterator[Positioned]:
    """Yield the cases of a table as records of our own form, with the number of their first row (the header is 1).

    Raises: MalformedRecord: the table cannot be read, or has other columns. A case that breaks off is found later.
    """
    case: dict[str, Any] | None = None
    start, number = 1, 1
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        rows = csv.DictReader(text, strict=True)
        _check_columns(path, list(rows.fieldnames or ()))
        for number, row in enumerate(rows, start=2):
            if None in row or None in row.values():
                raise MalformedRecord(path, number, f"the row has not {len(rows.fieldnames or ())} cells.")
            if not any(row.values()):
                continue
            if any(row.get(name) for name in _STARTS):
                if case is not None:
                    yield str(start), case
                case, start = _edit(path, number, row), number
            elif case is None:
                raise MalformedRecord(
                    path, number, "a probe stands before the first edit: fill prompt, subject, target."
                )
            if any(row.get(name) for name in PROBE_COLUMNS):
                case["probes"].append(_probe(path, number, row))
    except (csv.Error, UnicodeDecodeError) as mistake:
        raise MalformedRecord(path, number, f"not a table: {mistake}.") from mistake
    finally:
        text.detach()
    if case is not None:
        yield str(start), case


def write_csv(path: Path, cases: Iterable[EditCase]) -> None:
    """Write cases as a table that reads back to the same cases; replaces the file in one step.

    Raises: InvalidEdit: the file cannot be written.
    """
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\r\n")
    table.writeheader()
    for case in cases:
        record = case_record(case)
        first = {name: record[name] for name in EDIT_COLUMNS if name in record}
        if "origin" in first:
            first["origin"] = json.dumps(first["origin"], ensure_ascii=False)
        probes = [_probe_row(probe) for probe in record.get("probes", ())]
        table.writerow(first | (probes[0] if probes else {}))
        table.writerows(probes[1:])
    write_atomically(path, text.getvalue(), error=InvalidEdit)


def _check_columns(path: Path, columns: list[str]) -> None:
    missing = [name for name in _STARTS if name not in columns]
    unknown = [name for name in columns if name not in COLUMNS]
    if missing or unknown or len(set(columns)) < len(columns):
        problem = (
            f"no column {missing[0]!r}" if missing else f"the column {(unknown or columns)[0]!r} is unknown or twice"
        )
        raise MalformedRecord(path, 1, f"{problem}; the columns of a table are {', '.join(COLUMNS)}.")


def _edit(path: Path, number: int, row: dict[str, str]) -> dict[str, Any]:
    record: dict[str, Any] = {name: row[name] for name in EDIT_COLUMNS if row.get(name)}
    record |= {name: row[name] for name in _STARTS}
    if "origin" in record:
        try:
            record["origin"] = json.loads(record["origin"])
        except (ValueError, RecursionError) as mistake:
            raise MalformedRecord(path, number, f"the field 'origin' is no JSON object: {mistake}.") from mistake
    return {**record, "probes": []}


def _probe(path: Path, number: int, row: dict[str, str]) -> dict[str, Any]:
    record: dict[str, Any] = {"property": row.get("property", ""), "kind": row.get("kind", "")}
    record["prompt"] = row.get("probe", "")
    for name in ("answers", "choices"):
        record[name] = [_plain(part) for part in _parts(row.get(name, ""))]
    record["knows"] = []
    for part in _parts(row.get("knows", "")):
        if not (pair := _PAIR.fullmatch(part)):
            raise MalformedRecord(path, number, f"the column 'knows' holds 'prompt => answer', not {part!r}.")
        record["knows"].append([_plain(side) for side in pair.groups()])
    return record


def _probe_row(probe: dict[str, Any]) -> dict[str, str]:
    row = {"property": probe["property"], "kind": probe["kind"], "probe": probe["prompt"]}
    row["answers"], row["choices"] = ("|".join(map(_escaped, probe.get(name, ()))) for name in ("answers", "choices"))
    row["knows"] = "|".join(" => ".join(map(_escaped, pair)) for pair in probe.get("knows", ()))
    return row


def _parts(text: str) -> list[str]:
    return _PARTS.findall(text)


def _escaped(text: str) -> str:
    """The text with a backslash in front of what parts cells, and around it where blanks would be lost."""
    plain = text.replace("\\", "\\\\").replace("|", "\\|").replace("=>", "\\=>")
    inner = plain.strip()
    if inner == plain:
        return plain
    return re.sub(r"^\s|\s$", lambda blank: f"\\{blank.group()}", plain)


def _plain(text: str) -> str:
    """The text without the blanks around it and without the backslashes; a blank behind a backslash stays."""
    body = text.rstrip()
    backslashes = len(body) - len(body.rstrip("\\"))
    if backslashes % 2:
        body += text[len(body) : len(body) + 1]
    return re.sub(r"\\(.)", r"\1", body.lstrip(), flags=re.DOTALL)
