"""Writing files so that a reader sees the old bytes or the new ones, never a part, and one writer at a time."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from editguard.errors import CacheError, EditguardError

OWN_FOLDER: Final = ".editguard"
"""Name of the folder, under the root directory, of what runs leave behind for later runs and nobody reviews."""
HISTORY_FILE: Final = Path(OWN_FOLDER, "history.sqlite")
"""Where the history of runs is kept, from the root directory."""
JOURNAL_FOLDER: Final = Path(OWN_FOLDER, "journal")
"""Where the journals of runs are kept, from the root directory."""


def write_atomically(
    path: str | os.PathLike[str],
    data: bytes | str | Iterable[str],
    *,
    error: type[EditguardError] = CacheError,
) -> None:
    """Replace the file `path` by `data` in one step; missing parent folders are made.

    The data goes to a temporary file in the same folder, is forced to the disk and then renamed over `path`: a
    process killed at any moment leaves either the old file or the new one. A failure removes the temporary file.

    Args:
        path: the file to write.
        data: bytes, or text that is written as UTF-8 with its line ends as they are; or pieces of a text, which are
            written one after another, as they come.
        error: class of the exception raised, the caller's own subject.

    Raises: `error`: the disk is full, or the folder cannot be made or written; what stood at `path` is intact.
    """
    with replacing(path, error=error) as file:
        for piece in (data,) if isinstance(data, bytes | str) else data:
            file.write(piece.encode() if isinstance(piece, str) else piece)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], *, error: type[EditguardError] = CacheError) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when the block ends well; see `write_atomically`.

    Raises: `error`: the disk is full, or the folder cannot be made or written; what stood at `path` is intact.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}.", suffix=".part")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode_of(path))
        os.replace(temporary, path)
        temporary = None
    except OSError as failure:
        reason = failure.strerror or str(failure)
        raise error(
            f"cannot write {path}: {reason}. Nothing was changed there; free some space, make the folder "
            "writable, or choose another folder."
        ) from failure
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
    _force_folder(path.parent)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str], *, error: type[EditguardError] = CacheError) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the block ends well; missing folders above it are made.

    It is filled beside `path` under another name, forced to the disk and then renamed: whoever looks sees all of it or
    nothing. A failure removes it.

    Raises: `error`: something stands at `path` that is no empty folder; the disk is full, or the folder cannot be made
        or written.
    """
    path = Path(path)
    refuse_filled(path, error=error)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:80]}.", suffix=".part"))
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
                file.chmod(_usual_mode(0o666))
        os.chmod(temporary, _usual_mode(0o777))
        if path.exists():
            path.rmdir()
        os.replace(temporary, path)
        temporary = None
    except OSError as failure:
        reason = failure.strerror or str(failure)
        raise error(
            f"cannot write {path}: {reason}. Nothing was left there; free some space, make the folder writable, or "
            "choose another folder."
        ) from failure
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    _force_folder(path.parent)


def refuse_filled(path: str | os.PathLike[str], *, error: type[EditguardError] = CacheError) -> None:
    """Refuse a place for a new folder where something stands already; an empty folder is none.

    Raises: `error`: there is something, or it cannot be looked at.
    """
    path = Path(path)
    try:
        filled = path.exists() and (not path.is_dir() or any(path.iterdir()))
    except OSError as failure:
        raise error(f"cannot look at {path}: {failure.strerror or failure}. Choose another folder.") from failure
    if filled:
        raise error(f"{path} exists already and is not an empty folder; nothing was written. Choose another one.")


def append(path: Path, raw: bytes, *, after: int) -> int:
    """Write at the byte `after`, cutting off what stood there, and force it to the disk; returns the file's length.

    Missing parent folders are made. Raises: OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(after)
        file.seek(after)
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    return after + len(raw)


def working_folder(root: str | os.PathLike[str], *, error: type[EditguardError] = CacheError) -> Path:
    """The folder `.editguard` under `root`, made if missing: what is kept between runs and belongs in no repository.

    Raises: `error`: it cannot be made.
    """
    folder = Path(root) / OWN_FOLDER
    ignored = folder / ".gitignore"
    if not ignored.exists():
        write_atomically(ignored, "# made by editguard; may be removed\n*\n", error=error)
    return folder


def refuse_unwritable(folder: str | os.PathLike[str], *, error: type[EditguardError] = CacheError) -> None:
    """Find out before long work whether files can be written to a folder, which need not exist yet.

    Nothing stays behind: where there is no folder yet, the nearest one above it is tried.

    Raises: `error`: no file can be made there.
    """
    folder = Path(folder)
    nearest = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as failure:
        reason = failure.strerror or str(failure)
        raise error(
            f"cannot write to {folder}: {reason}. Nothing was run; make the folder writable, or choose another one."
        ) from failure


@contextlib.contextmanager
def locked(
    path: str | os.PathLike[str], *, called: str = "folder", error: type[EditguardError] = CacheError
) -> Iterator[None]:
    """Let one process at a time do what belongs to the lock file `path`; a killed process leaves no lock behind.

    Others wait. A missing folder is made.

    Args:
        called: what the folder is, in words.

    Raises: `error`: the folder cannot be made or written.
    """
    from filelock import FileLock

    path = Path(path)
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as failure:
        raise error(
            f"the {called} {path.parent} cannot be written ({failure.strerror or failure}): "
            "make it writable, or choose another one."
        ) from failure
    try:
        yield
    finally:
        lock.release()


def _mode_of(path: Path) -> int:
    """The permissions of the file that is replaced, or those that a new file gets under the user's umask."""
    try:
        return path.stat().st_mode & 0o7777
    except OSError:
        return _usual_mode(0o666)


def _usual_mode(most: int) -> int:
    """The permissions that something new gets under the user's umask."""
    mask = os.umask(0)
    os.umask(mask)
    return most & ~mask


def _force_folder(folder: Path) -> None:
    """Force the renaming itself to the disk where the system can do that for a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
