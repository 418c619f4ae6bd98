"""A journal gives back what was written, loses nothing but torn or damaged lines, and is bounded."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editguard.errors import CacheError
from editguard.pytest_plugin import journal
from editguard.pytest_plugin.journal import Journal, Part, Unwritable, encoded, line_of, parts_of

texts = st.text(st.characters(exclude_categories=()), max_size=8)  # lone surrogates as well
names = texts | st.sampled_from(["editguard:tuple", "editguard:mapping"])
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(names | st.integers() | st.tuples(st.integers(), names), inner, max_size=3)
    ),
    max_leaves=10,
)
reports = st.dictionaries(names, plain, max_size=4)
groups = st.dictionaries(texts, st.lists(reports, min_size=1, max_size=3), min_size=1, max_size=3)


def line(group: str, tests: dict[str, list[dict[str, Any]]], key: dict[str, str] | None = None) -> bytes:
    told = {test: [encoded(report) for report in each] for test, each in tests.items()}
    return line_of(group, {"part": "value"} if key is None else key, told)


def types(value: Any) -> Any:
    """The value with the types of all that is in it, which == alone does not tell apart."""
    if isinstance(value, dict):
        return [(types(name), types(each)) for name, each in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [types(each) for each in value]
    return type(value), value


@given(written=st.lists(groups, min_size=1, max_size=3))
def test_reports_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, written: list[Any]) -> None:
    path = tmp_path_factory.mktemp("journal") / "a.jsonl"
    path.write_bytes(b"".join(line(f"group {number}", tests) for number, tests in enumerate(written)))
    found, damaged = Part(path, path.stat().st_size).finished()
    assert not damaged
    assert [each.group for each in found] == [f"group {number}" for number in range(len(written))]
    for each, tests in zip(found, written, strict=True):
        assert types(each.reports()) == types(tests)
        assert each.tests == tests.keys()


def test_what_is_no_plain_data_is_refused() -> None:
    for value in (object(), {1, 2}, b"bytes", [{"deep": (object(),)}]):
        with pytest.raises(Unwritable):
            encoded({"user_properties": value})


LINES = [line(f"g{number}", {"test": [{"outcome": "passed", "number": number}]}) for number in range(3)]
WHOLE = b"".join(LINES)


@given(length=st.integers(0, len(WHOLE)))
def test_a_file_cut_short_anywhere_keeps_every_whole_line(
    tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "a.jsonl"
    path.write_bytes(WHOLE[:length])
    found, damaged = Part(path, length).finished()
    whole = sum(sum(map(len, LINES[: number + 1])) <= length for number in range(3))
    assert [each.group for each in found] == [f"g{number}" for number in range(whole)]
    assert damaged == (length != sum(map(len, LINES[:whole])))


@given(place=st.integers(0, len(WHOLE) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_costs_no_other_line(tmp_path_factory: pytest.TempPathFactory, place: int, bit: int) -> None:
    path = tmp_path_factory.mktemp("journal") / "a.jsonl"
    raw = bytearray(WHOLE)
    raw[place] ^= 1 << bit
    path.write_bytes(raw)
    found, damaged = Part(path, len(raw)).finished()
    hit = [sum(map(len, LINES[:number])) <= place < sum(map(len, LINES[: number + 1])) for number in range(3)]
    ends = raw[place] == 0x0A or WHOLE[place] == 0x0A  # a line more, or two lines that run into each other
    lost = {number for number in range(3) if hit[number] or (ends and number and hit[number - 1])}
    assert damaged
    assert {each.group for each in found} >= {f"g{number}" for number in range(3) if number not in lost}
    assert all(each.reports() == {"test": [{"outcome": "passed", "number": int(each.group[1])}]} for each in found)


def test_a_full_disk_is_one_clear_error_and_leaves_no_half_line_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Journal(tmp_path)
    kept.add([LINES[0]])
    real = journal.append

    def half(path: Path, raw: bytes, *, after: int) -> int:
        real(path, raw[: len(raw) // 2], after=after)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal, "append", half)
    with pytest.raises(CacheError, match=r"No space left on device.*--editguard-journal"):
        kept.add([LINES[1]])
    [part] = parts_of(tmp_path)
    assert [each.group for each in part.finished()[0]] == ["g0"]
    assert part.finished()[1] == 1
    monkeypatch.setattr(journal, "append", real)
    kept.add([LINES[2]])
    assert kept.path.read_bytes() == LINES[0] + LINES[2]
    kept.close()


def test_a_line_that_was_changed_since_is_not_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(WHOLE)
    found, _ = Part(path, len(WHOLE)).finished()
    path.write_bytes(WHOLE.replace(b"passed", b"failed"))
    with pytest.raises(CacheError, match="changed"):
        found[1].reports()
    path.unlink()
    with pytest.raises(CacheError, match="cannot read"):
        found[1].reports()


def test_old_journals_go_but_none_of_a_run_that_is_still_going_on(tmp_path: Path) -> None:
    running = Journal(tmp_path)
    running.add([LINES[0]])
    for _ in range(journal.KEPT + 3):
        other = Journal(tmp_path)
        other.add([LINES[1]])
        other.close()
    assert running.path in [part.path for part in parts_of(tmp_path)]
    assert len(parts_of(tmp_path)) == journal.KEPT + 1
    running.add([LINES[2]])
    assert running.path.read_bytes() == LINES[0] + LINES[2]
    running.close()
    last = Journal(tmp_path)
    last.add([LINES[1]])
    last.close()
    assert len(parts_of(tmp_path)) == journal.KEPT
    assert running.path not in [part.path for part in parts_of(tmp_path)]
    assert {path.suffix for path in tmp_path.iterdir()} == {".jsonl"}


def test_a_line_of_another_version_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    monkeypatch.setattr(journal, "FORMAT", journal.FORMAT + 1)
    other = line("g", {"test": [{}]})
    monkeypatch.undo()
    path.write_bytes(other + LINES[0])
    found, damaged = Part(path, path.stat().st_size).finished()
    assert [each.group for each in found] == ["g0"]
    assert damaged == 1
    assert json.loads(LINES[0])["format"] == journal.FORMAT
