"""Which commit a run belongs to, where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SECONDS: Final = 10


@dataclass(frozen=True)
class Commit:
    """The commit that was checked out.

    Attributes:
        id: the whole hash.
        branch: its name; None where none is checked out, as on most build servers.
        dirty: whether a tracked file differed from it; None where git could not tell.
    """

    id: str
    branch: str | None
    dirty: bool | None


def present_commit(folder: Path) -> Commit | None:
    """Ask git for the commit of a folder; None without git, outside of a repository and before its first commit."""
    found = _git(folder, "rev-parse", "HEAD", "--abbrev-ref", "HEAD")
    if found is None or len(lines := found.splitlines()) != 2:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    id, branch = lines
    return Commit(id, None if branch == "HEAD" else branch, None if changed is None else bool(changed.strip()))


def _git(folder: Path, *arguments: str) -> str | None:
    """What the command prints; None where it fails. Nothing is written into the repository."""
    if (git := shutil.which("git")) is None:
        return None
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            [git, "-C", str(folder), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=SECONDS,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
