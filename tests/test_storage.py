"""Files are replaced whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

import editguard.storage
from editguard.errors import BaselineUnreadable, CacheError
from editguard.storage import locked, new_folder, refuse_unwritable, write_atomically


def test_text_and_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_atomically(path, "ä\r\n")
    assert path.read_bytes() == "ä\r\n".encode()
    write_atomically(path, b"\x00")
    assert path.read_bytes() == b"\x00"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace", "fdopen", "chmod"])
def test_a_failure_at_any_step_keeps_the_old_file_and_removes_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fails(*arguments: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(editguard.storage.os, step, fails)
    with pytest.raises(CacheError, match=r"cannot write .*file: No space left"):
        write_atomically(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_error_is_the_callers_own(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BaselineUnreadable):
        write_atomically(tmp_path / "file" / "inside", "x", error=BaselineUnreadable)


def test_a_new_file_has_the_usual_permissions_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.touch()
    path = tmp_path / "file"
    write_atomically(path, "x")
    assert path.stat().st_mode == usual.stat().st_mode
    path.chmod(0o640)
    write_atomically(path, "y")
    assert path.stat().st_mode & 0o777 == 0o640


def test_trying_a_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    refuse_unwritable(tmp_path / "new" / "folder")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("inside", ["", "new/folder"])
def test_a_folder_that_takes_no_file_is_refused(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BaselineUnreadable, match=r"cannot write to .*Nothing was run"):
        refuse_unwritable(tmp_path / "file" / inside, error=BaselineUnreadable)


def test_a_lock_is_held_by_one_at_a_time_and_free_afterwards_whatever_happened_inside(tmp_path: Path) -> None:
    path = tmp_path / "new" / "one.lock"
    with pytest.raises(KeyError), locked(path):
        with pytest.raises(Timeout):
            FileLock(path, timeout=0).acquire()
        raise KeyError
    with locked(path):
        pass


def test_a_lock_in_a_folder_that_cannot_be_made_is_one_error_that_says_which(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BaselineUnreadable, match=r"the store .*file cannot be written"):
        locked(tmp_path / "file" / "one.lock", called="store", error=BaselineUnreadable).__enter__()


@pytest.mark.parametrize("there", [False, True])
def test_a_new_folder_is_there_when_it_is_complete_with_the_usual_permissions(tmp_path: Path, there: bool) -> None:
    out, usual = tmp_path / "above" / "out", tmp_path / "usual"
    usual.mkdir()
    (usual / "file").touch()
    if there:
        out.mkdir(parents=True)
    with new_folder(out) as folder:
        (folder / "inside").mkdir()
        (folder / "inside" / "file").write_text("x")
        (folder / "inside" / "file").chmod(0o600)
        assert not out.exists() or not any(out.iterdir())
    assert (out / "inside" / "file").read_text() == "x"
    assert (out / "inside" / "file").stat().st_mode == (usual / "file").stat().st_mode
    assert out.stat().st_mode == usual.stat().st_mode
    assert os.listdir(out.parent) == ["out"]


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_a_folder_that_cannot_be_finished_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fails(*arguments: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(BaselineUnreadable, match=r"cannot write .*out: No space left"):  # noqa: SIM117
        with new_folder(tmp_path / "out", error=BaselineUnreadable) as folder:
            (folder / "file").write_text("x")
            monkeypatch.setattr(editguard.storage.os, step, fails)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []


def test_a_folder_is_never_put_in_the_place_of_another(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("out", "file", "file/below"):
        with pytest.raises(CacheError), new_folder(tmp_path / name):
            pytest.fail("there was something")
    with pytest.raises(KeyError), new_folder(tmp_path / "new") as folder:
        (folder / "file").touch()
        raise KeyError
    assert sorted(os.listdir(tmp_path)) == ["file", "out"]
    assert (tmp_path / "out" / "mine").read_text() == "x"
