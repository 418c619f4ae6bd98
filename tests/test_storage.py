"""Files are replaced whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

import editguard.storage
from editguard.errors import BaselineUnreadable, CacheError
from editguard.storage import locked, refuse_unwritable, write_atomically


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
