"""Records of a file, one in memory at a time: a JSON array, one JSON object per line, or rows of a table.

Which of these a file is, is decided by its first character, and for tables by the ending ".csv".
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

from editguard.errors import InvalidEdit, MalformedRecord

CHUNK: Final = 65_536
"""Bytes that are read together."""
DEEPEST: Final = 100
"""Brackets inside one another; a parser that follows more may run out of memory."""
_OPENING: Final = frozenset({"start_map", "start_array"})
_CLOSING: Final = frozenset({"end_map", "end_array"})
_MARK: Final = b"\xef\xbb\xbf"
"""The byte order mark that some programs write in front of UTF-8."""
_SHAPES: Final = "A file is a JSON array of records, one JSON object per line, or a table with the ending .csv."

Positioned = tuple[str, Any]
"""A record with its position: the line's number from 1, or the place in the array from 0 as "[0]"."""


def file_records(path: Path) -> Iterator[Positioned]:
    """Yield the records of a file in order, with their positions.

    Raises: InvalidEdit: the file cannot be read. MalformedRecord: it is no JSON, or no table.
    """
    try:
        with path.open("rb") as file:
            yield from stream_records(file, path)
    except OSError as failure:
        raise InvalidEdit(f"cannot read {path}: {failure.strerror or failure}. Give the path of a file.") from failure


def stream_records(file: io.BufferedReader, path: Path) -> Iterator[Positioned]:
    """Yield the records of an open file; `path` is for its ending and for messages. Errors as for `file_records`."""
    if path.suffix.casefold() == ".csv":
        from editguard.datasets.csv_table import csv_records

        yield from csv_records(file, path)
        return
    lines = _skip_blanks(file)
    if file.peek(1)[:1] == b"[":
        yield from _array(file, path)
    else:
        yield from _lines(file, path, lines)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex digits.

    Raises: InvalidEdit: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as failure:
        raise InvalidEdit(f"cannot read {path}: {failure.strerror or failure}. Give the path of a file.") from failure


def parse_line(path: Path, number: int, line: bytes) -> Any:
    """The JSON value of one line.

    Raises: MalformedRecord: it is none; a number that is not finite, or a text that is not UTF-8, is none either.
    """
    try:
        return json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as mistake:  # of JSON, and of UTF-8
        raise MalformedRecord(path, number, f"not JSON: {mistake}") from mistake


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _skip_blanks(file: io.BufferedReader) -> int:
    """Move to the first character that is not blank; returns how many lines end before it."""
    if file.peek(3)[:3] == _MARK:
        file.read(3)
    lines = 0
    while (ahead := file.peek(1)) and not ahead.strip():
        lines += file.read(len(ahead)).count(b"\n")
    blanks = file.read(len(ahead) - len(ahead.lstrip()))
    return lines + blanks.count(b"\n")


def _array(file: io.BufferedReader, path: Path) -> Iterator[Positioned]:
    """Build one element after another from the parser's events, and refuse what is nested beyond all records."""
    import ijson

    place = depth = 0
    builder = ijson.ObjectBuilder()
    try:
        for event, value in ijson.basic_parse(file, use_float=True, buf_size=CHUNK):
            outside, depth = depth == 0, depth + (event in _OPENING) - (event in _CLOSING)
            if depth > DEEPEST:
                raise MalformedRecord(path, f"[{place}]", f"it is nested more than {DEEPEST} deep.")
            if outside or depth == 0:  # the brackets of the array itself
                continue
            builder.event(event, value)
            if depth == 1:
                yield f"[{place}]", builder.value
                builder = ijson.ObjectBuilder()
                place += 1
    except MalformedRecord:
        raise
    except (ijson.JSONError, ValueError, OverflowError) as mistake:
        told = " ".join(str(mistake).split())
        raise MalformedRecord(path, f"[{place}]", f"not JSON: {told}") from mistake


def _lines(file: io.BufferedReader, path: Path, before: int) -> Iterator[Positioned]:
    for number, line in enumerate(file, start=before + 1):
        if not line.strip():
            continue
        try:
            record = parse_line(path, number, line)
        except MalformedRecord as mistake:
            if number > before + 1:
                raise
            raise MalformedRecord(path, number, f"{mistake.problem}. {_SHAPES}") from mistake
        yield str(number), record
