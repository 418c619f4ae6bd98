"""The memory of edits: rows that are added, replaced on contradiction, withdrawn, searched, saved and loaded.

An `EditMemory` never changes: every operation returns another one. All versions of a memory share one log of rows and
its indexes, so that a sequence of n edits holds n rows, not n memories, and encodes each row once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from editguard.edited.memory_file import read, read_vectors, vectors_beside, write
from editguard.edited.memory_rows import MemoryRow
from editguard.edited.searching import Encoder, Growing, Index, Numbers, Places, nearest_places
from editguard.errors import InvalidEdit, MemoryFull, MemoryUnreadable, closest

QUERIES_AT_ONCE: Final = 64
"""Questions of which the similarities with all rows are held at a time."""
_FOREVER: Final = np.iinfo(np.int64).max


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


class _Log:
    """All rows that any version of a memory has had, in the order in which they came, and their indexes.

    Attributes:
        version: the newest one, in which the rows of `standing` stand, by claim.
        born, gone: (rows,) the version with which a row came, and the one with which it went.
        stored, stored_in: vectors that were read from a file, by the search that they are for, of the first rows.
    """

    def __init__(self, rows: Sequence[MemoryRow] = ()) -> None:
        self.rows: list[MemoryRow] = []
        self.version = 0
        self.born = Growing(np.zeros(0, dtype=np.int64))
        self.gone = Growing(np.zeros(0, dtype=np.int64))
        self.standing: dict[tuple[str, ...], int] = {}
        self.indexes: dict[Search, Index] = {}
        self.stored: dict[str, Numbers] = {}
        self.stored_in = Path()
        self.add(rows)

    def add(self, rows: Sequence[MemoryRow]) -> None:
        """Add rows to the newest version; none of their claims stands."""
        for place, row in enumerate(rows, len(self.rows)):
            self.standing.update(dict.fromkeys(row.claims, place))
        self.rows += rows
        self.born.extend(np.full(len(rows), self.version))
        self.gone.extend(np.full(len(rows), _FOREVER))

    def remove(self, places: Iterable[int]) -> None:
        """Take rows out of the newest version."""
        for place in places:
            self.gone.rows[place] = self.version
            for claim in self.rows[place].claims:
                del self.standing[claim]

    def index(self, search: Search) -> Index:
        """The index of all rows; those that it lacks are encoded now."""
        found = self.indexes.get(search)
        if found is None:
            name = _stored_name(search) if self.stored else ""
            stored = self.stored.get(name)
            rows = self.rows if stored is None else self.rows[: len(stored)]
            try:
                found = search.encoder.index([search.text_of(row) for row in rows], stored)
            except MemoryUnreadable as mistake:
                raise MemoryUnreadable(f"{self.stored_in}: {mistake}") from mistake
            self.indexes[search] = found
            self.stored.pop(name, None)
        if len(found) < len(self.rows):
            found.extend([search.text_of(row) for row in self.rows[len(found) :]])
        return found

    def part(self, places: Places) -> _Log:
        """Return a log of its own with the rows at `places`; nothing is encoded anew."""
        found = _Log([self.rows[place] for place in places])
        found.indexes = {search: index.part(places[places < len(index)]) for search, index in self.indexes.items()}
        found.stored = {name: vectors[places[places < len(vectors)]] for name, vectors in self.stored.items()}
        found.stored_in = self.stored_in
        return found


class EditMemory:
    """Rows, oldest first; a row that contradicts an earlier one has taken its place at the end.

    Attributes:
        limit: most rows; None for no limit.
    """

    def __init__(self, rows: Iterable[MemoryRow] = (), *, limit: int | None = None) -> None:
        """Raises: InvalidEdit: the limit is below 1. MemoryFull: there are more rows than the limit."""
        _check_limit(limit)
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
        born, gone = self._log.born.rows, self._log.gone.rows
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
        if self._version == self._log.version:
            return ("id", wanted) in self._log.standing
        return any(each.id == wanted for each in self.rows)

    @cached_property
    def subjects(self) -> frozenset[str]:
        """The subjects of all rows that are edit requests."""
        return frozenset(row.request.subject for row in self.rows if row.request is not None)

    # ---- changing it

    def added(self, rows: Iterable[MemoryRow]) -> EditMemory:
        """Return the memory with these rows behind its own, less those that they contradict or repeat.

        Raises: MemoryFull: it would have more rows than its limit; nothing is added then.
        """
        new, claims = _last_of_each(rows)
        log = self._writable()
        replaced = {log.standing[claim] for claim in claims if claim in log.standing}
        count = self._count - len(replaced) + len(new)
        if self.limit is not None and count > self.limit:
            raise MemoryFull(
                f"the memory of edits has a limit of {self.limit} rows, and would have {count}: withdraw some, or "
                "raise the limit."
            )
        log.version += 1
        log.remove(replaced)
        log.add(new)
        return self._next(log, log.version, count)

    def withdrawn(self, ids: Iterable[str]) -> EditMemory:
        """Return the memory without the rows of these ids.

        Raises: InvalidEdit: it has no such row.
        """
        wanted = list(dict.fromkeys(ids))
        log = self._writable()
        for name in wanted:
            if ("id", name) not in log.standing:
                known = [row.id for row in self.rows]
                raise InvalidEdit(
                    f"the memory of edits ({self._count} rows) has no row {name!r}.{closest(name, known)} "
                    "The ids are those of its rows: [row.id for row in memory]."
                )
        log.version += 1
        log.remove([log.standing["id", name] for name in wanted])
        return self._next(log, log.version, self._count - len(wanted))

    def limited(self, limit: int | None) -> EditMemory:
        """Return the memory with another limit.

        Raises: InvalidEdit: the limit is below 1. MemoryFull: it has more rows.
        """
        _check_limit(limit)
        if limit is not None and self._count > limit:
            raise MemoryFull(
                f"the memory of edits has {self._count} rows, more than the limit of {limit}: withdraw some, or raise "
                "the limit."
            )
        found = self._next(self._log, self._version, self._count)
        found.limit = limit
        return found

    def _next(self, log: _Log, version: int, count: int) -> EditMemory:
        found = EditMemory(limit=self.limit)
        found._log, found._version, found._count = log, version, count
        return found

    def _writable(self) -> _Log:
        """The log, if no other version has gone on from here already; else a copy of this version's rows."""
        return self._log if self._version == self._log.version else self._log.part(self._places)

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
                best = nearest_places(row, count)
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
        write(Path(path), self.rows, self.limit, self._vectors())

    def _vectors(self) -> dict[str, Numbers]:
        """The rows' vectors (rows, width), by search; those of a file that no search has asked for yet, if complete."""
        log, places = self._log, self._places
        read = {name: vectors[places] for name, vectors in log.stored.items() if not (places >= len(vectors)).any()}
        searches = [search for search, index in log.indexes.items() if index.vectors() is not None]
        made = ((search, log.index(search).vectors()) for search in searches)
        return read | {_stored_name(search): vectors[places] for search, vectors in made if vectors is not None}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> EditMemory:
        """Read what `save` wrote; vectors beside it are used where they belong to the same rows and encoder.

        Raises: MemoryUnreadable: the file is missing, damaged, or holds something else; names the row and the field.
        """
        path = Path(path)
        rows, limit = read(path)
        try:
            found = cls(rows, limit=limit)
        except (InvalidEdit, MemoryFull) as mistake:
            raise MemoryUnreadable(f"{path}, the field 'limit': {mistake}") from mistake
        found._log.stored_in = vectors_beside(path)
        found._log.stored = read_vectors(path, found.rows)
        return found


def _last_of_each(rows: Iterable[MemoryRow]) -> tuple[list[MemoryRow], set[tuple[str, ...]]]:
    """Of rows with a claim in common the last one, in the order of these; and the claims of all."""
    claims: set[tuple[str, ...]] = set()
    last = []
    for row in reversed(list(rows)):
        if claims.isdisjoint(row.claims):
            last.append(row)
        claims.update(row.claims)
    return last[::-1], claims


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise InvalidEdit(f"a memory has room for at least one row; the limit is {limit}.")


def _stored_name(search: Search) -> str:
    return f"{search.text_of.__name__}: {search.encoder.identity}"
