"""What stands in files and folders, and which model a name means, without loading anything."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Final

from editguard.pocket import MODEL_NAMES

LARGE: Final = 64 << 20
"""Bytes from which on a file is told by its size, the time of its last change, and its beginning and end."""
_END: Final = 1 << 20
_NO_PART: Final = frozenset({"__pycache__", ".git", ".cache"})


class Unknown(Exception):
    """It cannot be told what a name means; the message says why, and how to mend it."""


def digest_of_file(path: Path) -> str:
    """ "sha256:..." of what stands in a file; "none" where there is none.

    A file of 64 MiB or more is not read whole: its time of the last change is part of the digest, so that a copy made
    later counts as another file, and one that was written anew never as the same.
    """
    digest = hashlib.sha256()
    try:
        found = path.stat()
        with path.open("rb") as file:
            if found.st_size < LARGE:
                digest.update(file.read())
            else:
                digest.update(f"{found.st_size} {found.st_mtime_ns} ".encode() + file.read(_END))
                file.seek(-_END, os.SEEK_END)
                digest.update(file.read())
    except OSError as failure:
        return "none" if isinstance(failure, FileNotFoundError) else f"unreadable: {failure.strerror}"
    return f"sha256:{digest.hexdigest()[:32]}"


def digest_of_texts(*texts: str) -> str:
    """ "sha256:..." of texts in turn."""
    digest = hashlib.sha256("\0".join(texts).encode(errors="surrogatepass")).hexdigest()
    return f"sha256:{digest[:32]}"


def shown(path: Path, root: Path) -> str:
    """A path as it is named in keys, below the root directory the same on every machine."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def digest_of_folder(folder: Path) -> str:
    """ "sha256:..." of all files below a folder, with their names; see `digest_of_file`."""
    digest = hashlib.sha256()
    for path in files_of(folder):
        inside = path.relative_to(folder).as_posix()
        digest.update(f"{inside}\0{digest_of_file(path)}\0".encode(errors="surrogatepass"))
    return f"sha256:{digest.hexdigest()[:32]}"


def files_of(path: Path) -> list[Path]:
    """The file itself, or all files below a folder but for caches; sorted, and empty where there is nothing."""
    if path.is_file():
        return [path]
    return [
        inside
        for inside in sorted(path.rglob("*"))
        if not _NO_PART.intersection(inside.relative_to(path).parts) and inside.is_file()
    ]


def model_identity(name: str, revision: str | None, *, offline: bool) -> str:
    """What tells a model from any other: the digest of its folder, or of its files in the hub's local cache.

    Raises: Unknown: the hub could say something else today than what is in the cache, or nothing is there.
    """
    if name in MODEL_NAMES:
        return "embedded"
    folder = Path(name).expanduser()
    if folder.is_dir():
        return digest_of_folder(folder)
    fixed = bool(re.fullmatch(r"[0-9a-f]{40}", revision or ""))
    if not (fixed or offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")):
        raise Unknown(
            f"{name} may have moved on the hub; --editguard-offline settles that, or for the model a whole commit as "
            "--editguard-revision"
        )
    from huggingface_hub import snapshot_download

    try:
        return digest_of_folder(Path(snapshot_download(name, revision=revision, local_files_only=True)))
    except Exception:  # of the many kinds that the hub's library raises, all mean that it is not there
        raise Unknown(f"{name} is neither a folder nor whole in the hub's local cache") from None
