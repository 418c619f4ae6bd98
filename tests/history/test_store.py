"""The database holds every run whole or not at all, whoever writes at once, is killed, or finds no room."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from history.recorded import check, run, runs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from editguard.errors import HistoryUnreadable
from editguard.history import RunHistory, schema, store

TESTS = Path(__file__).parents[1]
LOOP = """
import sys
sys.path.insert(0, sys.argv[2])
from history.recorded import check, run
from editguard.history import RunHistory
for number in range(int(sys.argv[3])):
    made = run([check(check=f"c{position}") for position in range(int(sys.argv[4]))], day=number)
    RunHistory(sys.argv[1]).add(made)
    print(made.id, flush=True)
"""
STOP_INSIDE = """
import sys, time
sys.path.insert(0, sys.argv[2])
from history.recorded import check, run
from editguard.history import RunHistory, store
real = store._insert
def insert(connection, made):
    real(connection, made)
    print("inside", flush=True)
    time.sleep(600)
store._insert = insert
RunHistory(sys.argv[1]).add(run([check(check=f"c{position}") for position in range(2000)]))
"""


@pytest.fixture
def history(tmp_path: Path) -> RunHistory:
    return RunHistory(tmp_path / "deep" / "history.sqlite")


def start(program: str, history: RunHistory, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, str(history.path), str(TESTS), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(runs, min_size=1, max_size=3, unique_by=lambda made: made.id))
def test_what_is_added_is_read_back_equal_and_in_order_of_time(tmp_path_factory, made) -> None:
    history = RunHistory(tmp_path_factory.mktemp("history") / "h.sqlite")
    for each in made:
        history.add(each)
    assert history.runs() == sorted(made, key=lambda each: each.began)
    for last in range(1, len(made) + 1):
        assert history.runs(last) == history.runs()[-last:]


@pytest.mark.slow
def test_two_processes_that_write_at_once_lose_nothing(history: RunHistory) -> None:
    processes = [start(LOOP, history, 20, 10) for _ in range(2)]
    written = [process.communicate(timeout=120)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [len(ids) for ids in written] == [20, 20]
    found = history.runs()
    assert {each.id for each in found} == {*written[0], *written[1]}
    assert all(len(each.checks) == 10 for each in found)


@pytest.mark.slow
def test_a_process_killed_inside_the_transaction_leaves_the_earlier_runs(history: RunHistory) -> None:
    first, later = run([check()], day=1), run([check()], day=2)
    history.add(first)
    process = start(STOP_INSIDE, history)
    assert process.stdout is not None
    assert process.stdout.readline() == "inside\n"
    assert history.runs() == [first], "nobody sees a part of a run"
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert history.runs() == [first]
    history.add(later)
    assert history.runs() == [first, later]


@pytest.mark.slow
def test_a_writer_killed_at_random_moments_leaves_whole_runs_and_all_that_it_told_of(history: RunHistory) -> None:
    moments, told = random.Random(0), set()
    for _ in range(12):
        process = start(LOOP, history, 10_000, 300)
        assert process.stdout is not None
        for _ in range(moments.randrange(1, 6)):
            told.add(process.stdout.readline().strip())
        signalled = moments.uniform(0, 0.02)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(signalled)
        process.kill()
        told |= set(process.communicate()[0].split())
    found = history.runs()
    assert told <= {each.id for each in found}
    assert {len(each.checks) for each in found} == {300}
    with sqlite3.connect(history.path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


V1 = """
CREATE TABLE runs (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, began TEXT NOT NULL, ended TEXT NOT NULL,
  commit_id TEXT, branch TEXT, dirty INTEGER, model TEXT NOT NULL, exit_status INTEGER NOT NULL,
  complete INTEGER NOT NULL, workers INTEGER NOT NULL, version TEXT NOT NULL, methods TEXT NOT NULL);
CREATE INDEX runs_by_time ON runs (began, number);
CREATE TABLE environments (run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE, class_id TEXT NOT NULL,
  record TEXT NOT NULL, PRIMARY KEY (run, class_id)) WITHOUT ROWID;
CREATE TABLE checks (run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE, position INTEGER NOT NULL,
  suite TEXT NOT NULL, label TEXT NOT NULL, node_id TEXT NOT NULL, file TEXT, line INTEGER, environment TEXT,
  check_id TEXT NOT NULL, method TEXT NOT NULL, mode TEXT NOT NULL, property TEXT NOT NULL, kind TEXT,
  unit TEXT NOT NULL, lower_is_better INTEGER NOT NULL, edits INTEGER NOT NULL, cases INTEGER NOT NULL, mean REAL,
  low REAL, high REAL, verdict TEXT, reason TEXT, accepted REAL, mean_drop REAL, drop_low REAL, drop_high REAL,
  p_value REAL, lost INTEGER, gained INTEGER, smallest_drop REAL, PRIMARY KEY (run, position)) WITHOUT ROWID;
INSERT INTO runs VALUES (1, 'a', '2026-01-01T00:00:00.000000+00:00', '2026-01-01T00:00:05.000000+00:00',
  'c0ffee', 'main', 0, 'pocket', 1, 1, 2, '0.1.0', '["rome"]');
INSERT INTO environments VALUES (1, 'cpu-float32-abc', '{"device": "cpu"}');
INSERT INTO checks VALUES (1, 0, 'test_a', 'test_it[rome]', 'test_a.py::test_it[rome]', 'test_a.py', 7,
  'cpu-float32-abc', 'c0', 'rome', 'single', 'reliability', NULL, 'fraction', 0, 1, 10, 0.5, 0.25, 0.75, 'regressed',
  'worse', 1.0, 0.5, 0.25, 0.75, 0.01, 5, 0, 0.4);
PRAGMA application_id = 1701082212;
PRAGMA user_version = 1;
"""
"""A file as the first version wrote it; never changed here, since such files exist."""


def first_version(path: Path) -> RunHistory:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    connection.executescript(V1)
    connection.close()
    return RunHistory(path)


def test_a_file_of_the_first_version_is_read(tmp_path: Path) -> None:
    [found] = first_version(tmp_path / "h.sqlite").runs()
    assert (found.id, found.commit, found.workers, found.exit_status) == ("a", "c0ffee", 2, 1)
    judged = {"reason": "worse", "accepted": 1.0, "drop": 0.5, "drop_low": 0.25, "drop_high": 0.75, "p_value": 0.01}
    wanted = check(0.5, "regressed", file="test_a.py", line=7, lost=5, gained=0, smallest_drop=0.4, **judged)
    assert found.checks == (replace(wanted, low=0.25, high=0.75),)
    assert found.environments == {"cpu-float32-abc": {"device": "cpu"}}


def seconds_column(connection: sqlite3.Connection) -> None:
    """What a second version could be."""
    connection.execute("ALTER TABLE runs ADD COLUMN seconds REAL")
    connection.execute("UPDATE runs SET seconds = 5.0")


def column(path: Path, name: str) -> list[object]:
    connection = sqlite3.connect(path)
    try:
        return [value for (value,) in connection.execute(f"SELECT {name} FROM runs ORDER BY number")]
    finally:
        connection.close()


@pytest.mark.parametrize("first", ["add", "runs"])
def test_an_older_file_is_migrated_once_and_keeps_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    history = first_version(tmp_path / "h.sqlite")
    before = history.runs()
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, seconds_column))
    if first == "runs":
        assert history.runs() == before
        assert column(history.path, "seconds") == [5.0]
    history.add(run(day=9))
    assert history.runs()[:-1] == before
    assert column(history.path, "seconds") == [5.0, None]
    monkeypatch.undo()
    with pytest.raises(HistoryUnreadable, match=r"h\.sqlite has version 2; .* up to 1, and changed nothing"):
        history.runs()
    content = history.path.read_bytes()
    with pytest.raises(HistoryUnreadable, match="has version 2"):
        history.add(run())
    assert history.path.read_bytes() == content


def test_a_migration_that_fails_leaves_the_old_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = first_version(tmp_path / "h.sqlite")
    before = history.runs()

    def breaks(connection: sqlite3.Connection) -> None:
        seconds_column(connection)
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, breaks))
        with pytest.raises(HistoryUnreadable):
            history.add(run())
    assert history.runs() == before


def test_another_database_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "accounts.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE accounts (id)")
    connection.commit()
    connection.close()
    content = path.read_bytes()
    for use in (lambda: RunHistory(path).add(run()), RunHistory(path).runs):
        with pytest.raises(HistoryUnreadable, match=r"accounts\.sqlite is a database of something else"):
            use()
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["accounts.sqlite"]


@pytest.mark.parametrize("damage", ["foreign", "cut", "scribbled"])
def test_a_damaged_file_is_one_error_with_the_cure_and_is_left_alone(history: RunHistory, damage: str) -> None:
    for day in range(20):
        history.add(run([check(check=f"c{position}") for position in range(20)], day=day))
    whole = history.path.read_bytes()
    middle = len(whole) // 2
    content = {
        "foreign": b"no database at all" * 100,
        "cut": whole[:middle],
        "scribbled": whole[:4096] + bytes(reversed(whole[4096:])),
    }[damage]
    history.path.write_bytes(content)
    with pytest.raises(HistoryUnreadable, match=r"history\.sqlite is damaged \(.*move it away, and the next run"):
        history.runs()
    if damage != "cut":
        with pytest.raises(HistoryUnreadable, match="is damaged"):
            history.add(run())
        assert history.path.read_bytes()[-1000:] == content[-1000:]


def test_text_in_a_column_that_should_hold_data_is_damage(history: RunHistory) -> None:
    history.add(run())
    with sqlite3.connect(history.path) as connection:
        connection.execute("UPDATE runs SET methods = 'not json'")
    connection.close()
    with pytest.raises(HistoryUnreadable, match="is damaged"):
        history.runs()


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    for folder in ("taken", "taken/.editguard"):
        with pytest.raises(HistoryUnreadable, match="taken"):
            RunHistory(tmp_path / folder / "h.sqlite").add(run())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is unwritable to root")
def test_an_unwritable_folder_is_one_error(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(HistoryUnreadable, match="make the file and its folder writable"):
        RunHistory(folder / "h.sqlite").add(run())


def test_a_history_in_an_unwritable_folder_is_read(history: RunHistory, monkeypatch: pytest.MonkeyPatch) -> None:
    history.add(first := run([check()]))
    assert history.runs() == [first]
    history.path.parent.chmod(0o500)
    try:
        monkeypatch.setattr(os, "access", lambda *_: False)  # who may write everywhere would be told so
        assert history.runs() == [first]
        assert os.listdir(history.path.parent) == ["history.sqlite"], "reading leaves nothing behind"
    finally:
        history.path.parent.chmod(0o700)


def test_a_file_that_cannot_be_opened_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "h.sqlite").mkdir()
    with pytest.raises(HistoryUnreadable, match=r"h\.sqlite cannot be used: .*make the file and its folder writable"):
        RunHistory(tmp_path / "h.sqlite").add(run())


@pytest.mark.slow
def test_a_full_disk_is_one_error_and_keeps_the_earlier_runs(history: RunHistory) -> None:
    """RLIMIT_FSIZE in a process of its own, as a disk quota would do it."""
    history.add(first := run([check()]))
    program = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from history.recorded import check, run\n"
        "from editguard.errors import HistoryUnreadable\n"
        "from editguard.history import RunHistory\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
        "try:\n"
        "    RunHistory(sys.argv[1]).add(run([check(check=f'c{n}') for n in range(2000)]))\n"
        "except HistoryUnreadable as error:\n"
        "    print(error)\n"
    )
    told, _ = start(program, history).communicate(timeout=60)
    assert "cannot be used" in told
    assert "free some space" in told
    assert history.runs() == [first]


def test_a_writer_that_never_ends_is_waited_for_and_then_named(
    history: RunHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.add(first := run())
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.05)
    connection = sqlite3.connect(history.path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(HistoryUnreadable, match="another process has been writing it"):
        history.add(run())
    assert history.runs() == [first]
    connection.close()


def test_no_file_is_one_error_that_says_how_to_get_one(history: RunHistory) -> None:
    with pytest.raises(HistoryUnreadable, match=r"there is no history .*history\.sqlite yet"):
        history.runs()
    assert not history.path.parent.exists()


def test_the_own_folder_is_hidden_from_git_and_others_are_not(tmp_path: Path) -> None:
    RunHistory(tmp_path / ".editguard" / "history.sqlite").add(run())
    assert "*" in (tmp_path / ".editguard" / ".gitignore").read_text().splitlines()
    RunHistory(tmp_path / "results" / "history.sqlite").add(run())
    assert os.listdir(tmp_path / "results") == ["history.sqlite"]


def test_odd_names_of_files_and_tests_are_kept(tmp_path: Path) -> None:
    history = RunHistory(tmp_path / "what? 100% #1.sqlite")
    history.add(run([check(node_id="test_\udcff.py::test_it", label="a\0b")]))
    [found] = history.runs()[0].checks
    assert (found.node_id, found.label) == ("test_\\udcff.py::test_it", "a\0b")
    assert history.path.exists()
