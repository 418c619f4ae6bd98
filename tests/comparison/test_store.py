"""Baseline files: what is written, what is refused, and what survives."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from comparison.built import accepted, environment, measured

import editguard.storage
from editguard.comparison import BaselineStore, CheckRecord, who
from editguard.errors import BaselineUnreadable

SUITE, MODEL = "test_capitals", "pocket"


@pytest.fixture
def store(tmp_path: Path) -> BaselineStore:
    return BaselineStore(tmp_path / "baselines")


def fresh(store: BaselineStore) -> BaselineStore:
    return BaselineStore(store.directory)


def check(*numbers: float | None, name: str = "reliability", **more: str) -> CheckRecord:
    return accepted(measured(numbers or (1.0, 0.0), name=name), **more)


def test_what_is_accepted_is_found_again(store: BaselineStore) -> None:
    one = check(1.0, 0.0, None)
    assert store.accept(SUITE, MODEL, environment(), [one]) == [one.id]
    found = fresh(store).find(SUITE, MODEL, environment(), one.id)
    assert found == one
    assert store.path(SUITE, MODEL).name == "test_capitals.pocket.json"
    assert fresh(store).recorded(SUITE, MODEL, environment()) == environment()


def test_without_a_file_nothing_is_found_and_nothing_is_written(store: BaselineStore) -> None:
    assert store.find(SUITE, MODEL, environment(), "x") is None
    assert store.orphans(SUITE, MODEL, environment(), []) == []
    assert not store.directory.exists()


def test_the_text_is_the_same_whatever_the_order_and_each_case_is_a_line(store: BaselineStore, tmp_path: Path) -> None:
    one, other = check(), check(name="locality")
    store.accept(SUITE, MODEL, environment(), [one, other])
    second = BaselineStore(tmp_path / "again")
    for part in (other, one):
        second.accept(SUITE, MODEL, environment(), [part])
    text = store.path(SUITE, MODEL).read_text()
    assert text == second.path(SUITE, MODEL).read_text()
    assert '"probe0000": [1, "exact", 1, "T0", "edit0000"]' in text
    assert json.loads(text)["format"] == 1
    assert text.endswith("}\n")


def test_an_update_without_a_change_leaves_every_byte(store: BaselineStore) -> None:
    store.accept(SUITE, MODEL, environment(), [check()])
    path = store.path(SUITE, MODEL)
    before, written = path.read_bytes(), path.stat().st_mtime_ns
    newer = environment(record={"versions": {"torch": "3.0"}})
    again = check(why="nothing new", on="2027-01-01", label="renamed")
    assert fresh(store).accept(SUITE, MODEL, newer, [again]) == []
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, written)


def test_a_changed_value_takes_the_new_acceptance_and_the_others_keep_theirs(store: BaselineStore) -> None:
    kept = check(name="locality")
    store.accept(SUITE, MODEL, environment(), [check(1.0, 1.0), kept])
    changed = check(1.0, 0.0, why="new layer", on="2027-01-01")
    same = accepted(measured((1.0, 0.0), name="locality"), why="should not appear")
    assert fresh(store).accept(SUITE, MODEL, environment(), [changed, same]) == [changed.id]
    assert fresh(store).find(SUITE, MODEL, environment(), changed.id) == changed
    assert fresh(store).find(SUITE, MODEL, environment(), kept.id) == kept


def test_creating_never_replaces_what_was_accepted(store: BaselineStore) -> None:
    store.accept(SUITE, MODEL, environment(), [check(1.0, 1.0)])
    assert store.accept(SUITE, MODEL, environment(), [check(0.0, 0.0)], only_new=True) == []
    assert store.find(SUITE, MODEL, environment(), check(1.0, 1.0).id) == check(1.0, 1.0)


def test_another_environment_is_kept_apart_and_can_be_named(store: BaselineStore) -> None:
    one, gpu = check(), environment(device="cuda")
    store.accept(SUITE, MODEL, environment(), [one])
    assert store.find(SUITE, MODEL, gpu, one.id) is None
    assert store.elsewhere(SUITE, MODEL, gpu, one.id) == [environment()]
    store.accept(SUITE, MODEL, gpu, [one])
    assert fresh(store).find(SUITE, MODEL, environment(), one.id) == one
    assert fresh(store).find(SUITE, MODEL, gpu, one.id) == one


def test_a_renamed_test_finds_its_baseline(store: BaselineStore) -> None:
    store.accept(SUITE, MODEL, environment(), [check(label="test_old_name")])
    renamed = check(label="test_new_name")
    assert store.find(SUITE, MODEL, environment(), renamed.id) is not None
    assert store.orphans(SUITE, MODEL, environment(), [renamed.id]) == []
    assert [one.label for one in store.of_label(SUITE, MODEL, environment(), "test_old_name")] == ["test_old_name"]


def test_orphans_are_reported_and_pruned(store: BaselineStore) -> None:
    one, other = check(), check(name="locality")
    store.accept(SUITE, MODEL, environment(), [one, other])
    assert store.orphans(SUITE, MODEL, environment(), [one.id]) == [other]
    assert store.prune(SUITE, MODEL, environment(), [one.id]) == [other]
    assert fresh(store).orphans(SUITE, MODEL, environment(), [one.id]) == []
    assert fresh(store).find(SUITE, MODEL, environment(), one.id) == one
    store.prune(SUITE, MODEL, environment(), [])
    assert not store.path(SUITE, MODEL).exists()


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"format": 1}',
        b'{"format": 1, "suite": "s", "model": "m", "environments": {"x": 3}}',
        b"<<<<<<< HEAD\n{}\n=======\n",
    ],
)
def test_a_damaged_file_is_refused_and_never_overwritten(store: BaselineStore, damage: bytes) -> None:
    path = store.path(SUITE, MODEL)
    path.parent.mkdir()
    path.write_bytes(damage)
    for use in (
        lambda: store.find(SUITE, MODEL, environment(), "x"),
        lambda: store.accept(SUITE, MODEL, environment(), [check()]),
        lambda: store.prune(SUITE, MODEL, environment(), []),
    ):
        with pytest.raises(BaselineUnreadable, match=r"damaged.*git checkout"):
            use()
    assert path.read_bytes() == damage


def test_a_value_that_is_no_number_is_damage(store: BaselineStore) -> None:
    store.accept(SUITE, MODEL, environment(), [check()])
    path = store.path(SUITE, MODEL)
    path.write_text(path.read_text().replace('[1, "exact"', '["1", "exact"'))
    with pytest.raises(BaselineUnreadable, match="damaged"):
        fresh(store).file(SUITE, MODEL)


def test_a_foreign_version_is_refused_and_kept(store: BaselineStore) -> None:
    store.accept(SUITE, MODEL, environment(), [check()])
    path = store.path(SUITE, MODEL)
    foreign = path.read_text().replace('"format": 1', '"format": 2')
    path.write_text(foreign)
    with pytest.raises(BaselineUnreadable, match=r"format 2.*reads format 1"):
        fresh(store).accept(SUITE, MODEL, environment(), [check(0.0)])
    assert path.read_text() == foreign


def test_a_full_disk_leaves_the_old_file_and_no_leftovers(
    store: BaselineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.accept(SUITE, MODEL, environment(), [check(1.0, 1.0)])
    before = store.path(SUITE, MODEL).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(editguard.storage.os, "fsync", full)
    with pytest.raises(BaselineUnreadable, match="No space left"):
        store.accept(SUITE, MODEL, environment(), [check(0.0, 0.0)])
    assert store.path(SUITE, MODEL).read_bytes() == before
    assert [path.name for path in store.directory.iterdir()] == [store.path(SUITE, MODEL).name]
    assert store.find(SUITE, MODEL, environment(), check().id) == check(1.0, 1.0)


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "baselines").write_text("a file where the folder should be")
    with pytest.raises(BaselineUnreadable, match="baselines"):
        BaselineStore(tmp_path / "baselines").accept(SUITE, MODEL, environment(), [check()])


@pytest.mark.slow
def test_a_file_size_limit_is_one_clear_error(store: BaselineStore) -> None:
    """RLIMIT_FSIZE in a process of its own, as a disk quota would do it."""
    program = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from comparison.built import accepted, environment, measured\n"
        "from editguard.comparison import BaselineStore\n"
        "from editguard.errors import BaselineUnreadable\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))\n"
        "try:\n"
        "    BaselineStore(sys.argv[1]).accept('s', 'm', environment(), [accepted(measured([1.0] * 50))])\n"
        "except BaselineUnreadable as error:\n"
        "    print(error)\n"
    )
    tests = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", program, str(store.directory), tests], capture_output=True, text=True, check=True
    )
    assert "cannot write" in done.stdout
    assert list(store.directory.iterdir()) == []


@pytest.mark.parametrize("name", ["suites/test_a.py", "Qwen/Qwen3-0.6B", "/some/where/model", "..", "ünicode"])
def test_any_name_makes_a_file_inside_the_folder(store: BaselineStore, name: str) -> None:
    path = store.path(name, name)
    assert path.parent == store.directory
    assert path != store.path(name + "x", name)
    assert path.name.isascii()


def test_names_that_look_alike_do_not_share_a_file(store: BaselineStore) -> None:
    assert store.path("a/b", "m") != store.path("a-b", "m")


def _accept_one(directory: str, name: str) -> None:
    BaselineStore(directory).accept(SUITE, MODEL, environment(), [check(name=name)])


def test_processes_that_write_at_once_lose_nothing(store: BaselineStore) -> None:
    names = [f"property{i}" for i in range(8)]
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_accept_one, args=(str(store.directory), name)) for name in names]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    found = fresh(store).file(SUITE, MODEL).environments[environment().class_id].checks.values()
    assert sorted(one.name for one in found) == names


def _keep_accepting(directory: str) -> None:
    for i in range(1_000_000):
        BaselineStore(directory).accept(SUITE, MODEL, environment(), [check(float(i % 2), *[1.0] * 200)])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_process_leaves_a_whole_file_and_a_free_lock(store: BaselineStore) -> None:
    context = multiprocessing.get_context("fork")
    for moment in range(10):
        worker = context.Process(target=_keep_accepting, args=(str(store.directory),))
        worker.start()
        time.sleep(0.03 + 0.011 * moment)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        worker.join(10)
        fresh(store).file(SUITE, MODEL)
    assert fresh(store).accept(SUITE, MODEL, environment(), [check(name="after")])


def test_the_person_is_named_by_the_environment_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITGUARD_ACCEPTED_BY", "Grace")
    assert who() == "Grace"
    monkeypatch.delenv("EDITGUARD_ACCEPTED_BY")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "user.name")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "Linus")
    if shutil.which("git"):
        assert who() == "Linus"
    monkeypatch.setattr("editguard.comparison.check.shutil.which", lambda _: None)
    monkeypatch.setattr("editguard.comparison.check.getpass.getuser", lambda: "user")
    assert who() == "user"


def test_a_long_answer_is_cut_in_the_file(store: BaselineStore) -> None:
    run = measured([1.0])
    long = replace(run, values=(replace(run.values[0], answer="x" * 500),))
    value = accepted(long).values["probe0000"]
    assert len(value.answer) == 80
    assert value.answer.endswith("...")
