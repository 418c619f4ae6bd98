"""Journals of finished groups: one file per run, one line per group, forced to the disk as the group finishes.

    {"sha256": digest of the rest, "format": 1, "group": id, "key": {part: value}, "tests": {node id: [report]}}

A line counts when it is whole and its digest is right, whatever became of the process that wrote it. A file is written
by one process alone; it holds the file's lock as long as it runs, so that nobody removes the journal of a running run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from editguard.errors import CacheError
from editguard.storage import append

FORMAT: Final = 1
KEPT: Final = 8
"""Journals in a folder, that of the present run among them; older ones are removed."""
SUFFIX: Final = ".jsonl"
_START: Final = len(b'{"sha256":"",') + 64
"""Bytes before what the digest is of."""
_TUPLE, _MAPPING = "editguard:tuple", "editguard:mapping"


class Unwritable(TypeError):
    """A report holds something that no journal can hold."""


@dataclass(frozen=True)
class Finished:
    """A finished group, and where its line stands.

    Attributes:
        group: its id.
        key: what its result depends on: part, in words -> value.
        tests: node ids.
        path, start, length: the file, and the bytes of the line in it.
    """

    group: str
    key: Mapping[str, str]
    tests: frozenset[str]
    path: Path
    start: int
    length: int

    def line(self) -> bytes:
        """The line with its end.

        Raises: CacheError: the file is gone, or another one.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                line = file.read(self.length)
        except OSError as failure:
            raise CacheError(f"cannot read the journal {self.path}: {failure.strerror or failure}.") from failure
        if _content(line) is None:
            raise CacheError(f"the journal {self.path} was changed while the run was going on.")
        return line

    def reports(self) -> dict[str, list[dict[str, Any]]]:
        """What its tests reported, in pytest's serialised form, by node id in the order in which they ran.

        Raises: CacheError: as `line`.
        """
        record = _content(self.line())
        assert record is not None
        return {test: [_restored(report) for report in reports] for test, reports in record["tests"].items()}


@dataclass(frozen=True)
class Part:
    """The beginning of a journal, as long as it was when somebody looked: it may grow meanwhile."""

    path: Path
    length: int

    def finished(self) -> tuple[list[Finished], int]:
        """The groups in it, and how many lines are left out because they are torn or damaged.

        Raises: CacheError: it cannot be read.
        """
        found: list[Finished] = []
        damaged = start = 0
        try:
            with self.path.open("rb") as file:
                while start < self.length and (line := file.readline(self.length - start)):
                    record = _content(line)
                    if record is None:
                        damaged += 1
                    else:
                        tests = frozenset(record["tests"])
                        found.append(Finished(record["group"], record["key"], tests, self.path, start, len(line)))
                    start += len(line)
        except OSError as failure:
            raise CacheError(f"cannot read the journal {self.path}: {failure.strerror or failure}.") from failure
        return found, damaged


def parts_of(folder: Path) -> list[Part]:
    """The journals of a folder as they are now, the oldest first."""
    found = []
    for path in _journals(folder):
        with contextlib.suppress(OSError):
            found.append(Part(path, path.stat().st_size))
    return found


def encoded(report: Mapping[str, Any]) -> str:
    """The JSON of a report in pytest's serialised form, which `Finished.reports` gives back as it was.

    Raises: Unwritable: it holds an object that plain data cannot stand for.
    """
    return json.dumps(_plain(report), ensure_ascii=False, separators=(",", ":"))


def line_of(group: str, key: Mapping[str, str], tests: Mapping[str, Sequence[str]]) -> bytes:
    """The line of a finished group.

    Args:
        tests: node id -> its reports in turn, each `encoded`.
    """
    head = json.dumps({"format": FORMAT, "group": group, "key": dict(key)}, ensure_ascii=False, separators=(",", ":"))
    told = ",".join(f"{json.dumps(test, ensure_ascii=False)}:[{','.join(each)}]" for test, each in tests.items())
    rest = f'{head[1:-1]},"tests":{{{told}}}}}\n'.encode(errors="surrogatepass")
    return _seal(rest) + rest


class Journal:
    """The journal of the present run; its file comes with the first line."""

    def __init__(self, folder: Path) -> None:
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}{SUFFIX}"
        self.path = folder / name
        self._length = 0
        self._lock: Any = None

    def add(self, lines: Iterable[bytes]) -> None:
        """Write lines to the end, and force them to the disk; a part of a line that could not be written is cut off
        by the next one.

        Raises: CacheError: the disk is full, or the folder cannot be written.
        """
        try:
            if self._lock is None:
                self._begin()
            self._length = append(self.path, b"".join(lines), after=self._length)
        except (OSError, NotImplementedError) as failure:  # the latter where files cannot be locked
            raise CacheError(
                f"cannot write the journal {self.path}: {getattr(failure, 'strerror', None) or failure}. "
                "--editguard-resume will not find what could not be written; free some space, make the folder "
                "writable, or choose another one with --editguard-journal."
            ) from failure

    def close(self) -> None:
        """Let go of the file."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
            _lock_of(self.path).unlink(missing_ok=True)

    def _begin(self) -> None:
        from filelock import FileLock

        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(_lock_of(self.path))
        lock.acquire(timeout=0)
        self._lock = lock
        for path in _journals(self.path.parent)[: -(KEPT - 1)]:
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a journal, unless its run is still going on."""
    from filelock import FileLock, Timeout

    lock = FileLock(_lock_of(path))
    with contextlib.suppress(OSError, Timeout):
        lock.acquire(timeout=0)
        try:
            path.unlink(missing_ok=True)
            _lock_of(path).unlink(missing_ok=True)
        finally:
            lock.release()


def _journals(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def _lock_of(path: Path) -> Path:
    return path.with_suffix(".lock")


def _seal(rest: bytes) -> bytes:
    return b'{"sha256":"%s",' % hashlib.sha256(rest).hexdigest().encode()


def _content(line: bytes) -> dict[str, Any] | None:
    """What a line says; None where it is torn, damaged, or of another version."""
    rest = line[_START:]
    if not rest.endswith(b"\n") or line[:_START] != _seal(rest):
        return None
    record: dict[str, Any] = json.loads(b"{" + rest)
    return record if record["format"] == FORMAT else None


def _plain(value: Any) -> Any:
    """The value as JSON can hold it: tuples and mappings with other keys than texts are marked."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if type(value) is list:
        return [_plain(each) for each in value]
    if type(value) is tuple:
        return {_TUPLE: [_plain(each) for each in value]}
    if isinstance(value, Mapping):
        if all(isinstance(name, str) for name in value) and not {_TUPLE, _MAPPING} & value.keys():
            return {name: _plain(each) for name, each in value.items()}
        return {_MAPPING: [[_plain(name), _plain(each)] for name, each in value.items()]}
    if isinstance(value, (bool, int, float, str)):  # of a subclass, such as an enumeration
        return (
            int(value) if isinstance(value, int) else float(value) if isinstance(value, float) else str.__str__(value)
        )
    raise Unwritable(f"{type(value).__name__} is no plain data")


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(each) for each in value]
    if isinstance(value, dict):
        if value.keys() == {_TUPLE}:
            return tuple(_restored(each) for each in value[_TUPLE])
        if value.keys() == {_MAPPING}:
            return {_restored(name): _restored(each) for name, each in value[_MAPPING]}
        return {name: _restored(each) for name, each in value.items()}
    return value
