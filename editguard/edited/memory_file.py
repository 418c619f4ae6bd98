"""A memory of edits on disk: rows in a JSON file, and beside it the vectors by which they were searched."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from editguard.edited.memory_rows import MemoryRow, unwritable
from editguard.edited.searching import Numbers
from editguard.edits import EditRequest, content_id
from editguard.errors import InvalidEdit, MemoryUnreadable, closest
from editguard.storage import write_atomically

FORMAT: Final = 1
KIND: Final = "editguard edit memory"
MEND: Final = "Mend it by hand, or take the row out of the file."


def vectors_beside(path: Path) -> Path:
    """Where the vectors of a memory's rows are."""
    return path.with_name(f"{path.name}.safetensors")


def write(path: Path, rows: Sequence[MemoryRow], limit: int | None, vectors: Mapping[str, Numbers]) -> None:
    """Write rows, and their vectors (rows, width) by the search that they are for.

    Raises: MemoryUnreadable: a file cannot be written; the one that was there is intact.
    """
    head = json.dumps({"format": FORMAT, "kind": KIND, "limit": limit})[:-1]
    body = ",\n".join(json.dumps(_plain(row), ensure_ascii=False) for row in rows)
    if vectors:  # they come first: with rows that are not theirs they are left alone
        tensors = {name: torch.from_numpy(np.ascontiguousarray(numbers)) for name, numbers in vectors.items()}
        raw = save(tensors, {"rows": _digest(rows)})
        write_atomically(vectors_beside(path), raw, error=MemoryUnreadable)
    write_atomically(path, f'{head}, "rows": [\n{body}\n]}}\n', error=MemoryUnreadable)


def _digest(rows: Sequence[MemoryRow]) -> str:
    return content_id([row.id for row in rows])


def _plain(row: MemoryRow) -> dict[str, Any]:
    if row.request is not None and row == MemoryRow.of(row.request):
        return {"request": asdict(row.request)}
    return asdict(row)


def read(path: Path) -> tuple[list[MemoryRow], int | None]:
    """Return the rows and the limit that `write` wrote.

    Raises: MemoryUnreadable: the file is missing, damaged, or holds something else; names the row and the field.
    """
    record = _record(path)
    return [_row(f"{path}, row {number}", row) for number, row in enumerate(record["rows"], 1)], record.get("limit")


def _record(path: Path) -> Mapping[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as failure:
        raise MemoryUnreadable(
            f"cannot read the memory of edits {path}: {failure.strerror or failure}. EditMemory.save writes one."
        ) from failure
    except (ValueError, RecursionError) as mistake:
        raise MemoryUnreadable(
            f"{path} is no memory of edits, or is damaged: {mistake}. Take a copy that is whole, or save it anew."
        ) from mistake
    if not isinstance(record, dict) or record.get("kind") != KIND:
        raise MemoryUnreadable(f"{path} is JSON, but no memory of edits: EditMemory.save writes one.")
    if record.get("format") != FORMAT:
        raise MemoryUnreadable(
            f"{path} has the format {record.get('format')!r}, and this version reads {FORMAT}: save it anew with the "
            "version of editguard that wrote it, or update editguard."
        )
    limit, rows = record.get("limit"), record.get("rows")
    if not isinstance(rows, list):
        raise MemoryUnreadable(f"{path}, the field 'rows': it is a list of rows, not {rows!r:.80}. Mend it by hand.")
    if isinstance(limit, bool) or not isinstance(limit, int | None):
        raise MemoryUnreadable(
            f"{path}, the field 'limit': it is a number or null, not {limit!r:.80}. Mend it by hand."
        )
    return record


def _row(where: str, record: object) -> MemoryRow:
    if isinstance(record, dict) and record.keys() == {"request"}:
        return MemoryRow.of(_request(where, record["request"]))
    given = _fields(where, record, MemoryRow, {"key", "text"})
    if given.get("request") is not None:
        given["request"] = _request(where, given["request"])
    try:
        return MemoryRow(**given)
    except InvalidEdit as mistake:
        raise MemoryUnreadable(f"{where}: {mistake} {MEND}") from mistake


def _request(where: str, record: object) -> EditRequest:
    where = f"{where}, the field 'request'"
    given = _fields(where, record, EditRequest, {"prompt", "subject", "target"})
    for name, value in given.items():
        if not isinstance(value, str) and not (value is None and name in ("previous", "relation")):
            raise MemoryUnreadable(f"{where}: the field {name!r} is a text, not {value!r:.80}. {MEND}")
        if value is not None and unwritable(value):
            raise MemoryUnreadable(f"{where}: the field {name!r} cannot be written as UTF-8: {value!r:.80}. {MEND}")
    try:
        return EditRequest(**given)
    except InvalidEdit as mistake:
        raise MemoryUnreadable(f"{where}: {mistake} {MEND}") from mistake


def _fields(where: str, record: object, of: type, needed: set[str]) -> dict[str, Any]:
    """The fields of a JSON object, all of a dataclass, the needed ones among them."""
    if not isinstance(record, dict):
        raise MemoryUnreadable(f"{where} is a JSON object, not {record!r:.80}. {MEND}")
    known = [each.name for each in fields(of)]
    if unknown := [name for name in record if name not in known]:
        raise MemoryUnreadable(
            f"{where}: there is no field {unknown[0]!r:.80}; there are {', '.join(known)}."
            f"{closest(unknown[0], known)} {MEND}"
        )
    if missing := sorted(needed - record.keys()):
        raise MemoryUnreadable(f"{where}: the field {missing[0]!r} is missing. {MEND}")
    return dict(record)


def read_vectors(path: Path, rows: Sequence[MemoryRow]) -> dict[str, Numbers]:
    """Return the vectors (rows, width) that were written with the rows, by search; none where they are those of others.

    Raises: MemoryUnreadable: the file is damaged.
    """
    path = vectors_beside(path)
    if not path.is_file():
        return {}
    try:
        raw = path.read_bytes()
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        digest = header["__metadata__"]["rows"]
        found = {name: tensor.numpy() for name, tensor in load(raw).items()}
        if digest == _digest(rows) and any(
            vectors.ndim != 2 or len(vectors) != len(rows) for vectors in found.values()
        ):
            raise ValueError(f"it does not hold {len(rows)} vectors")
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as damage:
        raise MemoryUnreadable(
            f"{path} holds the vectors of a memory of edits and is damaged: {damage}. Remove it: they are made again."
        ) from damage
    return found if digest == _digest(rows) else {}
