"""The memory of edits: rows that are added, replaced on contradiction, withdrawn, searched, saved and loaded.

An `EditMemory` never changes: every operation returns another one. All versions of a memory share one log of rows and
its indexes, so that a sequence of n edits holds n rows, not n memories, and encodes each row once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from editguard.edited.searching import Encoder, Index, Numbers, Places
from editguard.edits import EditRequest, content_id
from editguard.errors import InvalidEdit, MemoryFull, MemoryUnreadable, closest
from editguard.storage import write_atomically

FORMAT: Final = 1
QUERIES_AT_ONCE: Final = 64
"""Questions of which the similarities with all rows are held at a time."""
_FOREVER: Final = np.iinfo(np.int64).max


@dataclass(frozen=True, kw_only=True)
class MemoryRow:
    """One edit as a memory holds it.

    Attributes:
        key: the question, or the beginning of the statement, that it answers.
        text: what is put in front of a question: a statement of the fact, or a person's feedback.
        request: the edit request; None for feedback on a question that is no edit request.
    """

    key: str
    text: str
    request: EditRequest | None = None

    def __post_init__(self) -> None:
        for name in ("key", "text"):
            if not getattr(self, name).strip():
                raise InvalidEdit(f"a row of a memory has a {name}; it is empty.")

    @classmethod
    def of(cls, request: EditRequest) -> MemoryRow:
        """Return the row of an edit request."""
        return cls(key=request.text, text=request.statement, request=request)

    @cached_property
    def id(self) -> str:
        """The id of the request, or one made of the texts."""
        return self.request.id if self.request is not None else content_id("row", self.key, self.text)

    @property
    def fact(self) -> tuple[str, ...]:
        """What it is about: two rows of one fact contradict, or repeat, each other."""
        return self.request.fact_key if self.request is not None else (" ".join(self.key.casefold().split()),)


@dataclass(frozen=True)
class Search:
    """How rows are compared with a question.

    Attributes:
        encoder: makes vectors of texts.
        text_of: the text of a row that is compared; a module's function, so that equal searches share an index.
    """

    encoder: Encoder
    text_of: Callable[[MemoryRow], str]


def by_key(row: MemoryRow) -> str:
    """The question that a row answers."""
    return row.key


def by_text(row: MemoryRow) -> str:
    """The whole of its statement, the answer included."""
    return row.text


SEARCHED: Final = (by_key, by_text)


class _Log:
    """All rows that any version of a memory has had, in the order in which they came, and their indexes."""

    def __init__(self, rows: Sequence[MemoryRow] = ()) -> None:
        self.rows = list(rows)
        self.version = 0
        self.born = [0] * len(self.rows)
        self.gone = [_FOREVER] * len(self.rows)
        self.standing = {row.fact: place for place, row in enumerate(self.rows)}
        self.indexes: dict[Search, Index] = {}
        self.stored: dict[str, Numbers] = {}

    def index(self, search: Search) -> Index:
        """The index of all rows; those that it lacks are encoded now."""
        found = self.indexes.get(search)
        if found is None:
            stored = self.stored.get(_stored_name(search))
            rows = self.rows if stored is None else self.rows[: len(stored)]
            found = self.indexes[search] = search.encoder.index([search.text_of(row) for row in rows], stored)
        if len(found) < len(self.rows):
            found.extend([search.text_of(row) for row in self.rows[len(found) :]])
        return found


class EditMemory:
    """Rows, oldest first; a row that contradicts an earlier one has taken its place at the end.

    Attributes:
        limit: most rows; None for no limit.
    """

    def __init__(self, rows: Iterable[MemoryRow] = (), *, limit: int | None = None) -> None:
        """Raises: InvalidEdit: the limit is below 1. MemoryFull: there are more rows than the limit."""
        if limit is not None and limit < 1:
            raise InvalidEdit(f"a memory has room for at least one row; the limit is {limit}.")
        self.limit = limit
        self._log, self._version, self._count = _Log(), 0, 0
        given = list(rows)
        if given:
            filled = self.added(given)
            self._log, self._version, self._count = filled._log, filled._version, filled._count

    # ---- what it holds

    @cached_property
    def _places(self) -> Places:
        """Positions in the log of the rows of this version."""
        born, gone = (np.asarray(each, dtype=np.int64) for each in (self._log.born, self._log.gone))
        return np.flatnonzero((born <= self._version) & (gone > self._version))

    @cached_property
    def rows(self) -> tuple[MemoryRow, ...]:
        """All rows, oldest first."""
        return tuple(self._log.rows[place] for place in self._places)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[MemoryRow]:
        return iter(self.rows)

    def __contains__(self, row: object) -> bool:
        wanted = getattr(row, "id", row)
        return any(each.id == wanted for each in self.rows)

    # ---- changing it

    def added(self, rows: Iterable[MemoryRow]) -> EditMemory:
        """Return the memory with these rows behind its own, less those that they contradict or repeat.

        Raises: MemoryFull: it would have more rows than its limit; nothing is added then.
        """
        new = {row.fact: row for row in rows}  # of several rows of one fact the last one stands
        log = self._writable()
        replaced = [log.standing[fact] for fact in new if fact in log.standing]
        count = self._count - len(replaced) + len(new)
        if self.limit is not None and count > self.limit:
            raise MemoryFull(
                f"the memory of edits has a limit of {self.limit} rows, and would have {count}: withdraw some, or "
                "raise the limit."
            )
        version = log.version + 1
        for place in replaced:
            log.gone[place] = version
        for fact, row in new.items():
            log.standing[fact] = len(log.rows)
            log.rows.append(row)
            log.born.append(version)
            log.gone.append(_FOREVER)
        return self._next(log, version, count)

    def withdrawn(self, ids: Iterable[str]) -> EditMemory:
        """Return the memory without the rows of these ids.

        Raises: InvalidEdit: it has no such row.
        """
        wanted = list(dict.fromkeys(ids))
        known = {row.id: row for row in self.rows}
        if missing := [name for name in wanted if name not in known]:
            raise InvalidEdit(
                f"the memory of {self._count} edits has no row {missing[0]!r}.{closest(missing[0], known)} "
                "The ids are those of its rows: [row.id for row in memory]."
            )
        log = self._writable()
        version = log.version + 1
        for name in wanted:
            log.gone[log.standing.pop(known[name].fact)] = version
        return self._next(log, version, self._count - len(wanted))

    def limited(self, limit: int | None) -> EditMemory:
        """Return the memory with another limit.

        Raises: MemoryFull: it has more rows.
        """
        if limit is not None and self._count > limit:
            raise MemoryFull(f"the memory has {self._count} rows, more than the limit of {limit}.")
        found = self._next(self._log, self._version, self._count)
        found.limit = limit
        return found

    def _next(self, log: _Log, version: int, count: int) -> EditMemory:
        log.version = max(log.version, version)
        found = EditMemory(limit=self.limit)
        found._log, found._version, found._count = log, version, count
        return found

    def _writable(self) -> _Log:
        """The log, if no other version has gone on from here already; else a copy of this version's rows."""
        if self._version == self._log.version:
            return self._log
        copied = _Log(self.rows)
        copied.indexes = {
            search: index.part(self._places[self._places < len(index)]) for search, index in self._log.indexes.items()
        }
        return copied

    # ---- searching it

    def nearest(self, search: Search, queries: Sequence[str], count: int = 1) -> list[list[tuple[MemoryRow, float]]]:
        """Return for each query its `count` nearest rows with their similarities, the nearest first, of equals the
        older one; fewer where there are fewer, none for an empty memory."""
        if not self._count:
            return [[] for _ in queries]
        index = self._log.index(search)
        places = None if len(self._places) == len(index) else self._places
        found: list[list[tuple[MemoryRow, float]]] = []
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            for row in index.similarities(queries[start : start + QUERIES_AT_ONCE], places):
                best = [int(row.argmax())] if count == 1 else np.argsort(-row, kind="stable")[:count].tolist()
                found.append([(self._log.rows[self._places[place]], float(row[place])) for place in best])
        return found

    def stored_tensors(self) -> list[Tensor]:
        """The vectors of its indexes, where they have any."""
        return [
            torch.as_tensor(vectors) for index in self._log.indexes.values() if (vectors := index.vectors()) is not None
        ]

    # ---- on disk

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the rows to a JSON file, and the vectors by which they were searched to a safetensors file beside it.

        Raises: MemoryUnreadable: a file cannot be written; the file that was there is intact.
        """
        path = Path(path)
        record = {"format": FORMAT, "kind": "editguard edit memory", "limit": self.limit}
        lines = [json.dumps(_plain(row), ensure_ascii=False) for row in self.rows]
        head = json.dumps(record, ensure_ascii=False)[:-1]
        body = ",\n".join(lines)
        vectors = {}
        for search, index in self._log.indexes.items():
            numbers = index.vectors()
            if numbers is not None:
                if len(index) < len(self._log.rows):
                    numbers = self._log.index(search).vectors()
                assert numbers is not None
                vectors[_stored_name(search)] = torch.from_numpy(np.ascontiguousarray(numbers[self._places]))
        beside = path.with_suffix(".safetensors")
        if vectors:
            digest = content_id([row.id for row in self.rows])
            write_atomically(beside, save(vectors, {"rows": digest}), error=MemoryUnreadable)
        write_atomically(path, f'{head}, "rows": [\n{body}\n]}}\n', error=MemoryUnreadable)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> EditMemory:
        """Read what `save` wrote; vectors beside it are used where they belong to the same rows and encoder.

        Raises: MemoryUnreadable: the file is missing, damaged, or holds something else; names the row and the field.
        """
        path = Path(path)
        record = _read(path)
        try:
            found = cls(
                (_row(path, number, row) for number, row in enumerate(record["rows"], 1)), limit=record["limit"]
            )
        except InvalidEdit as mistake:
            raise MemoryUnreadable(f"{path}: {mistake}") from mistake
        found._log.stored = _vectors(path.with_suffix(".safetensors"), found.rows)
        return found


def _stored_name(search: Search) -> str:
    return f"{search.text_of.__name__}: {search.encoder.identity}"


def _plain(row: MemoryRow) -> dict[str, Any]:
    if row.request is not None and row == MemoryRow.of(row.request):
        return {"request": asdict(row.request)}
    return asdict(row)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as failure:
        raise MemoryUnreadable(f"cannot read the memory of edits {path}: {failure.strerror or failure}.") from failure
    except ValueError as mistake:
        raise MemoryUnreadable(f"{path} is no memory of edits, or is damaged: {mistake}.") from mistake
    if not isinstance(record, dict) or record.get("kind") != "editguard edit memory":
        raise MemoryUnreadable(f"{path} is JSON, but no memory of edits: EditMemory.save writes one.")
    if record.get("format") != FORMAT:
        raise MemoryUnreadable(
            f"{path} has the format {record.get('format')!r}, and this version reads {FORMAT}: save it anew with the "
            "version of editguard that wrote it, or update editguard."
        )
    limit = record.get("limit")
    if not isinstance(record.get("rows"), list) or not (limit is None or isinstance(limit, int)):
        raise MemoryUnreadable(f"{path} is damaged: 'rows' is a list, and 'limit' a number or null.")
    return record


def _row(path: Path, number: int, record: object) -> MemoryRow:
    where = f"{path}, row {number}"
    if not isinstance(record, dict):
        raise MemoryUnreadable(f"{where} is a JSON object, not {record!r}.")
    try:
        request = record.get("request")
        if request is not None:
            known = {each.name for each in fields(EditRequest)}
            if not isinstance(request, dict) or not request.keys() <= known:
                raise MemoryUnreadable(
                    f"{where}: 'request' has the fields {', '.join(sorted(known))}; it is {request!r}."
                )
            request = EditRequest(**request)
        if request is not None and record.keys() == {"request"}:
            return MemoryRow.of(request)
        row = MemoryRow(key=record["key"], text=record["text"])
    except KeyError as missing:
        raise MemoryUnreadable(f"{where}: the field {missing.args[0]!r} is missing.") from missing
    except (InvalidEdit, TypeError, AttributeError) as mistake:
        raise MemoryUnreadable(f"{where}: {mistake}") from mistake
    return replace(row, request=request)


def _vectors(path: Path, rows: Sequence[MemoryRow]) -> dict[str, Numbers]:
    """The vectors of a memory's rows, by encoder; none where the file is another memory's."""
    if not path.is_file():
        return {}
    try:
        raw = path.read_bytes()
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        tensors = load(raw)
        digest = header["__metadata__"]["rows"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as damage:
        raise MemoryUnreadable(
            f"{path} holds the vectors of a memory of edits and is damaged: {damage}. Remove it: they are made again."
        ) from damage
    if digest != content_id([row.id for row in rows]):
        return {}
    return {name: tensor.numpy() for name, tensor in tensors.items()}
