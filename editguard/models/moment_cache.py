"""Second moments on disk: finished ones under their key, and the sums of a pass that is still under way.

Every file is a safetensors file that is written in one step and carries a checksum: a process killed at any moment
leaves whole files. A pass keeps all of its sums, and how far it has come, in one file, so that they cannot disagree.
"""

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from editguard.edits.request import content_id
from editguard.errors import CacheError
from editguard.models.weights import tensor_sha256
from editguard.storage import write_atomically

_NAME: Final = "second_moment"
_DAMAGES: Final = (SafetensorError, OSError, KeyError, ValueError)


@dataclass(frozen=True, eq=False)
class PartialSums:
    """Sums of outer products over the first rows of a pass.

    Attributes:
        sums: key of a layer's moment -> sum of k k^T, (d_ff, d_ff), float64.
        rows: how many rows of the pass are in the sums.
    """

    sums: Mapping[str, Tensor]
    rows: int


class MomentCache:
    """A folder of second moments; a `run` names one pass over one text on one model, whatever its layers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, key: str) -> tuple[Tensor, int] | None:
        """The matrix of a finished moment and its number of tokens; None where there is none, or a damaged one, which
        is warned about and left to be replaced."""
        path = self._finished(key)
        try:
            if not path.is_file():
                return None
            with safe_open(path, framework="pt") as file:
                metadata: dict[str, str] = file.metadata() or {}
                matrix: Tensor = file.get_tensor(_NAME)
            if metadata["key"] != key or metadata["sha256"] != tensor_sha256(matrix):
                raise ValueError("its content does not match its checksum")
            return matrix, int(metadata["tokens"])
        except _DAMAGES as failure:
            _warn(f"the cached second moment {path} is damaged ({failure}); computing it again.")
            return None

    def store(self, key: str, matrix: Tensor, tokens: int) -> None:
        """Keep a finished moment.

        Raises: CacheError: it cannot be written.
        """
        metadata = {"key": key, "tokens": str(tokens), "sha256": tensor_sha256(matrix)}
        write_atomically(self._finished(key), save({_NAME: matrix}, metadata))

    def load_partial(self, run: str, keys: Collection[str]) -> PartialSums | None:
        """The sums of a pass that was cut short, if it was for all of these keys; a damaged file is warned about."""
        path = self._partial(run)
        try:
            if not path.is_file():
                return None
            with safe_open(path, framework="pt") as file:
                metadata: dict[str, str] = file.metadata() or {}
                if not set(keys) <= set(file.keys()):
                    return None
                sums = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            if metadata["sha256"] != _checksum(sums, int(metadata["rows"])):
                raise ValueError("its content does not match its checksum")
            return PartialSums({key: sums[key] for key in keys}, int(metadata["rows"]))
        except _DAMAGES as failure:
            _warn(f"the unfinished second moments {path} are damaged ({failure}); starting again.")
            return None

    def store_partial(self, run: str, partial: PartialSums) -> None:
        """Keep the sums of a pass under way in place of earlier ones.

        Raises: CacheError: they cannot be written.
        """
        sums = {key: total.cpu() for key, total in partial.sums.items()}
        metadata = {"rows": str(partial.rows), "sha256": _checksum(sums, partial.rows)}
        write_atomically(self._partial(run), save(sums, metadata))

    def drop_partial(self, run: str) -> None:
        """Forget the sums of a pass; its moments are stored."""
        self._partial(run).unlink(missing_ok=True)

    def tidy(self, run: str) -> None:
        """Remove sums that a process left although all of their moments are stored; not those of a running pass."""
        path = self._partial(run)
        if not path.is_file():
            return
        with suppress(Timeout, *_DAMAGES), FileLock(self.folder / f"{run}.lock", timeout=0):
            with safe_open(path, framework="pt") as file:
                keys = list(file.keys())
            if all(self._finished(key).is_file() for key in keys):
                self.drop_partial(run)

    @contextmanager
    def lock(self, run: str) -> Iterator[None]:
        """Let one process at a time compute the same thing; a killed process leaves no lock behind.

        Raises: CacheError: the folder cannot be written.
        """
        lock = FileLock(self.folder / f"{run}.lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as failure:
            raise CacheError(
                f"the cache folder {self.folder} cannot be written ({failure.strerror or failure}): "
                "make it writable, or choose another one."
            ) from failure
        try:
            yield
        finally:
            lock.release()

    def _finished(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _partial(self, run: str) -> Path:
        return self.folder / f"{run}.unfinished"


def _checksum(sums: Mapping[str, Tensor], rows: int) -> str:
    return content_id(rows, {key: tensor_sha256(total) for key, total in sums.items()})


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=5)
