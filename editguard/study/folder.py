"""A study on disk: what it is of, one file of records per cell, and what the work cost.

    study.json              environment, settings and cases; another study in the same folder is refused
    records/CELL.jsonl      one line per value, then one line that completes the part (one state of the model)
    costs.jsonl             seconds and memory, which differ from run to run
    states/                 what is under way: edits of a batch or a sequence, answers; gone when it is complete
    summary.json, table.md  made from the records, at any time

A part counts when its last line is there. What a killed process left behind the last complete part is cut off by the
next one that writes to the file. Nothing but `costs.jsonl` and what is made of it depends on the clock.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from editguard.edited.chain_file import remove_chain
from editguard.errors import ConfigurationError, MalformedRecord
from editguard.storage import append, refuse_unwritable, replacing, write_atomically
from editguard.study.plan import Cell

FORMAT: Final = 1
_JOINING: Final = {"data"}
"""Notes that follow from the cases, so that they are right for a study that was begun without them."""


@dataclass(frozen=True)
class Part:
    """One state of the model and what was measured of it.

    Attributes:
        name: unique within its cell: the case of a single edit, the number of edits otherwise.
        values: one record per value.
        end: the line that completes the part: how many edits were wanted and applied, what failed.
    """

    name: str
    values: tuple[Mapping[str, Any], ...]
    end: Mapping[str, Any]


class StudyFolder:
    """The files of one study."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._whole: dict[Cell, int] = {}  # bytes of each file that this object has written to, all of complete parts

    def header(self) -> dict[str, Any]:
        """What the study is of.

        Raises: ConfigurationError: the folder holds no study, or one of another version.
        """
        path = self.path / "study.json"
        try:
            header: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigurationError(f"{self.path} holds no study: there is no {path.name}.") from None
        except (OSError, ValueError) as problem:
            raise ConfigurationError(f"{path} cannot be read: {problem}.") from None
        if header.get("format") != FORMAT:
            raise ConfigurationError(f"{path} has the format {header.get('format')!r}; this version reads {FORMAT}.")
        return header

    def begin(self, header: Mapping[str, Any]) -> None:
        """Make the folder a study of `header`, or see that it is one.

        The methods of the header join those that are there, and so do "orders"; what both have must be equal, and all
        else but the "notes", which only explain; that of the data set joins where there is none.

        Raises: ConfigurationError: the folder holds another study; names the first difference.
        """
        refuse_unwritable(self.path, error=ConfigurationError)
        wanted = json.loads(json.dumps({"format": FORMAT, **header}))
        if (self.path / "study.json").exists():
            found = self.header()
            common = found["methods"].keys() & wanted["methods"].keys()
            joining = {"orders"} & (found.keys() ^ wanted.keys())
            for name in sorted((found.keys() | wanted.keys()) - {"methods", "notes"} - joining):
                self._refuse_difference(name, found.get(name), wanted.get(name))
            for name in sorted(common):
                self._refuse_difference(name, found["methods"][name], wanted["methods"][name])
            wanted = {
                **{name: wanted[name] for name in joining & wanted.keys()},
                **found,
                "methods": {**found["methods"], **wanted["methods"]},
                "notes": {
                    **{name: wanted["notes"][name] for name in _JOINING & wanted["notes"].keys()},
                    **found["notes"],
                },
            }
            if wanted == found:
                return
        elif any(self.cells()):
            raise ConfigurationError(f"{self.path} holds records but no study.json: use another folder.")
        text = json.dumps(wanted, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        write_atomically(self.path / "study.json", text, error=ConfigurationError)

    def refuse_other_data(self, cases: int, digest: str) -> None:
        """See that a study in the folder, if there is one, is of these cases.

        Raises: ConfigurationError: it is of others, or of another version.
        """
        if (self.path / "study.json").exists():
            found = self.header()["data"]
            self._refuse_difference("data.cases", found["cases"], cases)
            self._refuse_difference("data.cases_digest", found["cases_digest"], digest)

    def _refuse_difference(self, where: str, found: Any, wanted: Any) -> None:
        difference = _first_difference(where, found, wanted)
        if difference is not None:
            place, before, now = difference
            raise ConfigurationError(
                f"{self.path} holds a study with {place} = {before!r}, this one has {now!r}: values of both must not "
                "be mixed. Use another folder, or the same model, data, settings and versions."
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing to the folder; a killed process leaves no lock behind.

        Raises: ConfigurationError: one is writing.
        """
        from filelock import FileLock, Timeout

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path / ".lock", timeout=0):
                yield
        except Timeout:
            raise ConfigurationError(f"another process is working on the study in {self.path}.") from None
        except PermissionError as problem:
            raise ConfigurationError(f"the folder {self.path} cannot be written: {problem}.") from None

    # ---- records

    def cells(self) -> list[Cell]:
        """The cells that have a file, in alphabetical order."""
        return [Cell.named(path.stem) for path in sorted((self.path / "records").glob("*.jsonl"))]

    def parts(self, cell: Cell) -> dict[str, Part]:
        """The complete parts of a cell by name; of two with one name the later.

        Raises: MalformedRecord: a line before the last complete part cannot be read.
        """
        return {part.name: part for part in _read(self._file(cell))[0]}

    def streamed(self, cell: Cell) -> Iterator[Part]:
        """The same parts in the order of the file, which is read twice, so that one part is in memory at a time.

        Raises: MalformedRecord: as for `parts`.
        """
        path = self._file(cell)
        last = {part.name: position for position, (part, _) in enumerate(_complete(path))}
        for position, (part, _) in enumerate(_complete(path)):
            if last.get(part.name) == position:
                yield part

    def add(self, cell: Cell, name: str, values: Sequence[Mapping[str, Any]], end: Mapping[str, Any]) -> None:
        """Add a complete part; it is on the disk when this returns.

        Raises: ConfigurationError: the disk is full, or the folder cannot be written.
        """
        path = self._file(cell)
        lines = [_line({"part": name, **value}) for value in values]
        lines.append(_line({"part": name, "end": len(values), **end}))
        after = self._whole[cell] if cell in self._whole else _read(path)[1]
        try:
            self._whole[cell] = append(path, b"".join(lines), after=after)
        except OSError as failure:
            raise ConfigurationError(
                f"cannot write {path}: {failure.strerror or failure}. All parts before are kept; free some space, and "
                "give the same command again."
            ) from failure

    def arrange(self, cell: Cell, names: Sequence[str]) -> None:
        """Bring the parts of a file into the order of `names`, others behind them; it is written only if they are not.

        Raises: ConfigurationError: it cannot be written. MalformedRecord: as for `parts`.
        """
        if len(names) < 2:
            return
        path, places, start = self._file(cell), dict[str, tuple[int, int]](), 0
        found = []
        for part, behind in _complete(path):
            found.append(part.name)
            places[part.name] = (start, behind)
            start = behind
        wanted = list(dict.fromkeys([*(name for name in names if name in places), *found]))
        if found == wanted:
            return
        self._whole.pop(cell, None)
        with path.open("rb") as before, replacing(path, error=ConfigurationError) as after:
            for start, behind in (places[name] for name in wanted):
                before.seek(start)
                after.write(before.read(behind - start))

    def _file(self, cell: Cell) -> Path:
        return self.path / "records" / f"{cell.name}.jsonl"

    def chain_file(self, name: str) -> Path:
        """Where the edits of a state under way are: of a method's sequence, or of a batch."""
        return self.path / "states" / f"{name}.json"

    def answers_file(self, name: str) -> Path:
        """Where the answers of one state of the model are, while it is asked."""
        return self.path / "states" / f"{name}-answers.jsonl"

    def forget_state(self, name: str) -> None:
        """Remove what is kept of a state under way, and the folder when it is empty then.

        Raises: CacheError: it cannot be removed.
        """
        remove_chain(self.chain_file(name))
        self.forget_answers(name)

    def forget_answers(self, name: str) -> None:
        """Remove the answers of a state, whose part is complete."""
        with contextlib.suppress(OSError):
            self.answers_file(name).unlink(missing_ok=True)
            self.answers_file(name).parent.rmdir()  # which succeeds where nothing else is in it

    # ---- costs

    def add_cost(self, record: Mapping[str, Any]) -> None:
        """Add what some work cost.

        Raises: ConfigurationError: it cannot be written.
        """
        path = self.path / "costs.jsonl"
        try:
            raw = path.read_bytes() if path.exists() else b""
            append(path, _line(record), after=raw.rfind(b"\n") + 1)
        except OSError as failure:
            raise ConfigurationError(f"cannot write {path}: {failure.strerror or failure}.") from failure

    def costs(self) -> list[dict[str, Any]]:
        """What the work cost, in its order; a last line that was cut short is left out."""
        path = self.path / "costs.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        return [_parsed(path, number, line) for number, line in enumerate(lines, start=1) if line.endswith(b"\n")]


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _read(path: Path) -> tuple[list[Part], int]:
    """The complete parts of a file, and the byte behind the last of them."""
    found = list(_complete(path))
    return [part for part, _ in found], found[-1][1] if found else 0


def _complete(path: Path) -> Iterator[tuple[Part, int]]:
    """The complete parts of a file, each with the byte behind it.

    Raises: MalformedRecord: a line before the last complete part cannot be read.
    """
    if not path.exists():
        return
    values: list[Mapping[str, Any]] = []
    behind = 0
    problem: MalformedRecord | None = None
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            behind += len(line)
            try:
                part = None if problem else _taken(path, number, line, values)
            except MalformedRecord as found:
                problem, part = found, None
            if problem is not None and _ends(line):
                raise problem
            if part is not None:
                yield part, behind


def _taken(path: Path, number: int, line: bytes, values: list[Mapping[str, Any]]) -> Part | None:
    """Take a line: a value joins `values`, and the line that completes a part makes one of them and empties it."""
    record = _parsed(path, number, line)
    name = record.pop("part", None)
    if not isinstance(name, str):
        raise MalformedRecord(path, number, "it belongs to no part")
    if "end" not in record:
        values.append(record)
        return None
    if not line.endswith(b"\n"):
        return None
    if record.pop("end") != len(values):
        raise MalformedRecord(path, number, f"the part {name!r} has {len(values)} values, not as many as it says")
    part = Part(name, tuple(values), record)
    values.clear()
    return part


def _ends(line: bytes) -> bool:
    """Whether a whole line completes a part."""
    if not line.endswith(b"\n") or b'"end":' not in line:
        return False
    try:
        return "end" in json.loads(line)
    except ValueError:
        return False


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as problem:
        raise MalformedRecord(path, number, f"not JSON: {problem}") from None
    if not isinstance(record, dict):
        raise MalformedRecord(path, number, "it is no JSON object")
    return record


def _first_difference(where: str, found: Any, wanted: Any) -> tuple[str, Any, Any] | None:
    """The first place where two trees of plain data differ, and what stands there."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in sorted(found.keys() | wanted.keys()):
            difference = _first_difference(f"{where}.{name}", found.get(name), wanted.get(name))
            if difference is not None:
                return difference
        return None
    return None if found == wanted else (where, found, wanted)
