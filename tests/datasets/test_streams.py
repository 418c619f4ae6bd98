"""Records of a file come one by one, whatever its size and shape, and damage names its place."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editguard.datasets.streams import CHUNK, file_records, sha256_of, stream_records
from editguard.errors import EditguardError, InvalidEdit, MalformedRecord

RECORDS = 100_000
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=8), values, max_size=4),
    max_leaves=12,
)


class Endless(io.RawIOBase):
    """A file that is made while it is read, and counts what was taken."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts, self._left, self.taken = parts, b"", 0

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        parts, size = [self._left], len(self._left)
        while size < len(into) and (part := next(self._parts, None)) is not None:
            parts.append(part)
            size += len(part)
        self._left = b"".join(parts)
        found, self._left = self._left[: len(into)], self._left[len(into) :]
        into[: len(found)] = found
        self.taken += len(found)
        return len(found)


def array() -> Iterator[bytes]:
    for place in range(RECORDS):
        yield (b"[" if not place else b",") + json.dumps({"id": place, "text": "x" * 50}).encode()
    yield b"]"


def lines() -> Iterator[bytes]:
    for place in range(RECORDS):
        yield json.dumps({"id": place, "text": "x" * 50}).encode() + b"\n"


def table() -> Iterator[bytes]:
    yield b"prompt,subject,target\n"
    for place in range(RECORDS):
        yield f"The capital of {{}} is,Land {place},{'x' * 50}\n".encode()


@pytest.mark.parametrize(("make", "name"), [(array, "a.json"), (lines, "a.jsonl"), (table, "a.csv")])
def test_no_more_is_read_than_the_records_taken_and_a_few_chunks(make: Any, name: str) -> None:
    file = Endless(make())
    records = stream_records(io.BufferedReader(file), Path(name))
    next(records)
    assert file.taken <= 3 * CHUNK
    taken = 20_000
    last = next(islice(records, taken - 2, None))
    size = sum(map(len, islice(make(), taken + 2)))
    assert last[1].get("id", taken - 1) == taken - 1
    assert file.taken <= size + 3 * CHUNK
    del records


@given(st.lists(json_values, max_size=5))
def test_an_array_and_lines_give_the_same_records(tmp_path_factory: pytest.TempPathFactory, values: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("values")
    wrapped = [{"value": value} for value in values]
    (folder / "array.json").write_text(json.dumps(wrapped))
    (folder / "lines.jsonl").write_text("".join(f"\n{json.dumps(value, ensure_ascii=False)}\n" for value in wrapped))
    assert [record for _, record in file_records(folder / "array.json")] == wrapped
    assert [position for position, _ in file_records(folder / "array.json")] == [f"[{n}]" for n in range(len(values))]
    assert list(file_records(folder / "lines.jsonl")) == [(str(2 * n + 2), value) for n, value in enumerate(wrapped)]


@given(
    st.binary(max_size=40) | json_values.map(lambda value: json.dumps(value).encode()),
    st.sampled_from([".json", ".csv"]),
)
def test_any_bytes_are_records_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, ending: str
) -> None:
    path = tmp_path_factory.mktemp("bytes") / f"file{ending}"
    path.write_bytes(content)
    try:
        list(file_records(path))
    except EditguardError as error:
        assert str(error).startswith(str(path))  # noqa: PT017


@pytest.mark.parametrize(
    ("content", "position", "message"),
    [
        (b'[{"a": 1}, {"a": ]', "[1]", "not JSON"),
        (b'[{"a": 1}', "[1]", "not JSON"),
        (b'[{"a": 1}] []', "[1]", "not JSON"),
        (b'[{"a": "\xff"}]', "[0]", "not JSON"),
        (b'{"a": 1}\n\n{"a": }\n', "3", "not JSON"),
        (b'{"a": 1}\n{"a": NaN}\n', "2", "NaN is no number of JSON"),
        (b'{\n "a": 1\n}\n', "1", "one JSON object per line"),
        (b"plain text", "1", "one JSON object per line"),
        (b"[" * 100_000, "[0]", "nested more than 100 deep"),
        (b'[{"a": 1}, ' + b'{"a":' * 100_000, "[1]", "nested more than 100 deep"),
        (b'{"a":' * 100_000, "1", "not JSON"),
    ],
)
def test_damage_names_file_and_place(tmp_path: Path, content: bytes, position: str, message: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(MalformedRecord, match=message) as caught:
        list(file_records(path))
    assert caught.value.position == position
    assert str(caught.value).startswith(f"{path}, record {position}: ")
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_and_blanks_in_front_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    blanks = b" \n" * 20_000
    path.write_bytes(b"\xef\xbb\xbf" + blanks + b'[{"a": 1}]')
    assert list(file_records(path)) == [("[0]", {"a": 1})]
    path.write_bytes(blanks + b'{"a": 1}\n')
    assert list(file_records(path)) == [("20001", {"a": 1})]
    path.write_bytes(b"")
    assert list(file_records(path)) == []


def test_a_missing_file_is_one_error(tmp_path: Path) -> None:
    for read in (lambda path: list(file_records(path)), sha256_of):
        with pytest.raises(InvalidEdit, match=r"cannot read .*gone\.json"):
            read(tmp_path / "gone.json")
