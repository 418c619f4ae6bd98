"""Second moments on disk: finished ones under their key, and the sums of a pass that is still under way.

Every file is a safetensors file that is written in one step and carries a checksum: a process killed at any moment
leaves whole files. A pass keeps all of its sums, and how far it has come, in one file, so that they cannot disagree.
"""

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from editguard.edits.request import content_id
from editguard.models.tensor_cache import DAMAGES, TensorCache, warn_of_damage
from editguard.models.weights import tensor_sha256
from editguard.storage import write_atomically


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
        self._finished = TensorCache(folder, "second moment")

    def load(self, key: str) -> tuple[Tensor, int] | None:
        """The matrix of a finished moment and its number of tokens; see `TensorCache.load`."""
        return self._finished.load(key)

    def store(self, key: str, matrix: Tensor, tokens: int) -> None:
        """Keep a finished moment.

        Raises: CacheError: it cannot be written.
        """
        self._finished.store(key, matrix, tokens)

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
        except DAMAGES as failure:
            warn_of_damage(f"the unfinished second moments {path} are damaged ({failure}); starting again.")
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
        with suppress(Timeout, *DAMAGES), FileLock(self.folder / f"{run}.lock", timeout=0):
            with safe_open(path, framework="pt") as file:
                keys = list(file.keys())
            if all(self._finished.path(key).is_file() for key in keys):
                self.drop_partial(run)

    def lock(self, run: str) -> AbstractContextManager[None]:
        """Let one process at a time compute the same thing; see `TensorCache.lock`."""
        return self._finished.lock(run)

    def _partial(self, run: str) -> Path:
        return self.folder / f"{run}.unfinished"


def _checksum(sums: Mapping[str, Tensor], rows: int) -> str:
    return content_id(rows, {key: tensor_sha256(total) for key, total in sums.items()})
