"""The tables of the database, and the steps from each version of them to the next.

A new version is one more function at the end of `MIGRATIONS`; those before it are never changed, since files that they
made exist.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final

APPLICATION: Final = 0x65647464
"""SQLite's `application_id`, by which the file is told from other databases."""


def _begin(connection: sqlite3.Connection) -> None:
    """0 -> 1: runs, their environments, their checks."""
    connection.execute(
        """
        CREATE TABLE runs (
            number INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            began TEXT NOT NULL,
            ended TEXT NOT NULL,
            commit_id TEXT,
            branch TEXT,
            dirty INTEGER,
            model TEXT NOT NULL,
            exit_status INTEGER NOT NULL,
            complete INTEGER NOT NULL,
            workers INTEGER NOT NULL,
            version TEXT NOT NULL,
            methods TEXT NOT NULL
        )
        """
    )
    connection.execute("CREATE INDEX runs_by_time ON runs (began, number)")
    connection.execute(
        """
        CREATE TABLE environments (
            run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
            class_id TEXT NOT NULL,
            record TEXT NOT NULL,
            PRIMARY KEY (run, class_id)
        ) WITHOUT ROWID
        """
    )
    connection.execute(
        """
        CREATE TABLE checks (
            run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
            position INTEGER NOT NULL,
            suite TEXT NOT NULL,
            label TEXT NOT NULL,
            node_id TEXT NOT NULL,
            file TEXT,
            line INTEGER,
            environment TEXT,
            check_id TEXT NOT NULL,
            method TEXT NOT NULL,
            mode TEXT NOT NULL,
            property TEXT NOT NULL,
            kind TEXT,
            unit TEXT NOT NULL,
            lower_is_better INTEGER NOT NULL,
            edits INTEGER NOT NULL,
            cases INTEGER NOT NULL,
            mean REAL,
            low REAL,
            high REAL,
            verdict TEXT,
            reason TEXT,
            accepted REAL,
            mean_drop REAL,
            drop_low REAL,
            drop_high REAL,
            p_value REAL,
            lost INTEGER,
            gained INTEGER,
            smallest_drop REAL,
            PRIMARY KEY (run, position)
        ) WITHOUT ROWID
        """
    )


Migration = Callable[[sqlite3.Connection], None]
MIGRATIONS: tuple[Migration, ...] = (_begin,)
"""Each brings the tables from the version that is its position to the next."""


def version_of(connection: sqlite3.Connection) -> int:
    """The version of a file's tables; 0 of a new file."""
    [version] = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def is_ours(connection: sqlite3.Connection) -> bool:
    """Whether the file is a history, or is empty and may become one."""
    [application] = connection.execute("PRAGMA application_id").fetchone()
    if application == APPLICATION:
        return True
    [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return not tables and not application and not version_of(connection)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables to the present version, in one transaction; another process may be at it too."""
    if version_of(connection) >= len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for position in range(version_of(connection), len(MIGRATIONS)):
            MIGRATIONS[position](connection)
            connection.execute(f"PRAGMA user_version = {position + 1}")
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
