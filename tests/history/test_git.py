"""The commit of a run; outside of git there is none, and no error."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from editguard.history import Commit, present_commit

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=trunk"]
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No repository around the folder, and no settings of the person at work."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)


def test_outside_of_git_and_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert present_commit(tmp_path) is None
    assert present_commit(tmp_path / "missing") is None
    monkeypatch.setenv("PATH", "")
    assert present_commit(Path(__file__).parent) is None


@needs_git
def test_commit_branch_and_changes(tmp_path: Path) -> None:
    git(tmp_path, "init")
    assert present_commit(tmp_path) is None, "before the first commit there is none"
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "First")
    id = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "untracked").write_text("")
    assert present_commit(tmp_path) == Commit(id, "trunk", dirty=False)
    (tmp_path / "file").write_text("2")
    git(tmp_path, "checkout", "--detach")
    assert present_commit(tmp_path) == Commit(id, None, dirty=True)
