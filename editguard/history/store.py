"""The database of runs: one SQLite file, whole runs only, whatever happens to the process that writes.

Each run is one transaction with write-ahead logging: processes that write at once wait for each other, and one that is
killed at any moment leaves the runs before it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from editguard.errors import HistoryUnreadable
from editguard.history import schema
from editguard.history.run import RunCheck, RunRecord, columns, plain
from editguard.storage import OWN_FOLDER, working_folder

BUSY_SECONDS: Final = 30.0
"""How long a process waits for another one that writes."""
_RUN: Final = columns(RunRecord)
_CHECK: Final = columns(RunCheck)
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
_CURES: Final = {
    sqlite3.SQLITE_FULL: "free some space",
    sqlite3.SQLITE_IOERR: "free some space, or choose a file on a local disk",
    sqlite3.SQLITE_BUSY: "another process has been writing it; run again when that has ended",
}
_CURE: Final = "make the file and its folder writable"


class RunHistory:
    """The runs in a database file, which is made when the first run is added; git ignores a folder `.editguard`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def add(self, run: RunRecord) -> None:
        """Write a run with its checks, all or nothing.

        Raises: HistoryUnreadable: the file is damaged, of a newer version, no history, or cannot be written; the runs
            in it stay as they are.
        """
        self._make_folder()
        with self._open("rwc") as connection:
            self._bring_up(connection)
            connection.execute("BEGIN IMMEDIATE")
            _insert(connection, run)
            connection.execute("COMMIT")

    def runs(self, last: int | None = None) -> list[RunRecord]:
        """The runs by the time that they began, the oldest first.

        Args:
            last: only so many, the latest.

        Raises: HistoryUnreadable: there is no such file, it cannot be read, or it is damaged, of a newer version, or
            no history.
        """
        if not self.path.is_file():
            raise HistoryUnreadable(
                f"there is no history {self.path} yet: a run of pytest with tests of edits writes it. "
                "Another file is named with --database."
            )
        try:
            with self._open(self._reading) as connection:
                if self._version(connection) < len(schema.MIGRATIONS):
                    self._bring_up(connection)
                return _select(connection, last)
        except (ValueError, TypeError) as mistake:
            raise self._damaged(f"{type(mistake).__name__}: {mistake}") from mistake

    @property
    def _reading(self) -> str:
        """SQLite's mode of reading, for which it makes files beside the database, and removes them, where it can.

        Where it cannot, it has to be told that nobody writes.
        """
        if os.access(self.path.parent, os.W_OK):
            return "rw"
        return "ro" if self.path.with_name(f"{self.path.name}-wal").exists() else "ro&immutable=1"

    def _make_folder(self) -> None:
        folder = self.path.parent
        if folder.name == OWN_FOLDER:
            working_folder(folder.parent, error=HistoryUnreadable)
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as failure:
            raise self._unwritable(failure.strerror or str(failure)) from failure

    @contextlib.contextmanager
    def _open(self, mode: str) -> Iterator[sqlite3.Connection]:
        """A connection in SQLite's mode of that name; what goes wrong in the block is one clear error."""
        connection = None
        try:
            connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None
            )
            connection.execute("PRAGMA foreign_keys = ON")
            yield connection
        except sqlite3.Error as problem:
            code = (getattr(problem, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR) & 0xFF
            if code in _DAMAGED:
                raise self._damaged(str(problem)) from problem
            raise self._unwritable(str(problem), _CURES.get(code, _CURE)) from problem
        finally:
            if connection is not None:
                connection.close()

    def _version(self, connection: sqlite3.Connection) -> int:
        """The version of the file's tables. Raises: HistoryUnreadable: it is newer than all known, or no history."""
        if not schema.is_ours(connection):
            raise HistoryUnreadable(
                f"{self.path} is a database of something else; nothing was changed. Choose another file for the "
                "history with --editguard-history, or --database."
            )
        version = schema.version_of(connection)
        if version > (known := len(schema.MIGRATIONS)):
            raise HistoryUnreadable(
                f"the history {self.path} has version {version}; this version of editguard knows versions up to "
                f"{known}, and changed nothing. Use the version that wrote it, or choose another file with "
                "--editguard-history."
            )
        return version

    def _bring_up(self, connection: sqlite3.Connection) -> None:
        """Prepare a connection for writing: the present tables, every commit forced to the disk."""
        self._version(connection)
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous = FULL")
        schema.migrate(connection)

    def _unwritable(self, problem: str, cure: str = _CURE) -> HistoryUnreadable:
        return HistoryUnreadable(
            f"the history {self.path} cannot be used: {problem}. The runs in it are as they were; {cure}, or choose "
            "another file (or 'off') with --editguard-history."
        )

    def _damaged(self, problem: str) -> HistoryUnreadable:
        return HistoryUnreadable(
            f"the history {self.path} is damaged ({problem}). It was left as it is: move it away, and the next run "
            f"begins a new one; `sqlite3 {self.path.name} .recover` may bring its runs back."
        )


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Turn on write-ahead logging; SQLite does not wait by itself where another process opens the file just then."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as problem:
            if problem.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _insert(connection: sqlite3.Connection, run: RunRecord) -> None:
    values = {**plain(run), "methods": json.dumps(list(run.methods))}
    number = connection.execute(_insertion("runs", values), _writable(values.values())).lastrowid
    connection.executemany(
        _insertion("environments", ("run", "class_id", "record")),
        [_writable((number, name, json.dumps(record, sort_keys=True))) for name, record in run.environments.items()],
    )
    connection.executemany(
        _insertion("checks", ("run", "position", *_CHECK.values())),
        [_writable((number, position, *plain(check).values())) for position, check in enumerate(run.checks)],
    )


def _insertion(table: str, names: Collection[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"


def _writable(values: Iterable[Any]) -> list[Any]:
    """Values as columns hold them; letters that are no text, as odd file names have them, become escapes."""
    return [value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value for value in values]


def _select(connection: sqlite3.Connection, last: int | None) -> list[RunRecord]:
    """Read in one transaction, so that checks and runs belong together."""
    connection.execute("BEGIN")
    chosen = "SELECT number FROM runs ORDER BY began DESC, number DESC LIMIT ?"
    limit = (-1 if last is None else last,)
    environments: dict[int, dict[str, Any]] = {}
    rows = connection.execute(f"SELECT run, class_id, record FROM environments WHERE run IN ({chosen})", limit)
    for number, name, record in rows:
        environments.setdefault(number, {})[name] = json.loads(record)
    checks: dict[int, list[RunCheck]] = {}
    names = ", ".join(_CHECK.values())
    rows = connection.execute(f"SELECT run, {names} FROM checks WHERE run IN ({chosen}) ORDER BY run, position", limit)
    for number, *values in rows:
        read = dict(zip(_CHECK, values, strict=True))
        read["lower_is_better"] = bool(read["lower_is_better"])
        checks.setdefault(number, []).append(RunCheck(**read))
    names = ", ".join(_RUN.values())
    rows = connection.execute(
        f"SELECT number, methods, {names} FROM runs WHERE number IN ({chosen}) ORDER BY began, number", limit
    )
    found = [
        _run(dict(zip(_RUN, values, strict=True)), methods, environments.get(number, {}), checks.get(number, []))
        for number, methods, *values in rows
    ]
    connection.execute("COMMIT")
    return found


def _run(read: dict[str, Any], methods: str, environments: dict[str, Any], checks: list[RunCheck]) -> RunRecord:
    read |= {name: datetime.fromisoformat(read[name]) for name in ("began", "ended")}
    read["complete"] = bool(read["complete"])
    read["dirty"] = None if read["dirty"] is None else bool(read["dirty"])
    return RunRecord(**read, methods=tuple(json.loads(methods)), environments=environments, checks=tuple(checks))
