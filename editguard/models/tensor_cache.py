"""Computed tensors on disk, each under a key of everything that determines it.

Every file is a safetensors file that is written in one step and carries a checksum: a process killed at any moment
leaves whole files, and a damaged one is noticed.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from editguard.models.weights import tensor_sha256
from editguard.storage import locked, write_atomically

DAMAGES: Final = (SafetensorError, OSError, KeyError, ValueError)
"""What reading a damaged file may raise."""


class TensorCache:
    """A folder of tensors of one kind.

    Args:
        folder: where they are; made when the first one is stored.
        kind: what they are, in words, such as "second moment".
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.kind = kind
        self._name = kind.replace(" ", "_")

    def path(self, key: str) -> Path:
        """Where the tensor of that key is, or would be."""
        return self.folder / f"{key}.safetensors"

    def load(self, key: str) -> tuple[Tensor, int] | None:
        """A tensor and the number of tokens that it was made from; None where there is none, or a damaged one, which is
        warned about and left to be replaced."""
        path = self.path(key)
        try:
            if not path.is_file():
                return None
            with safe_open(path, framework="pt") as file:
                metadata: dict[str, str] = file.metadata() or {}
                tensor: Tensor = file.get_tensor(self._name)
            if metadata["key"] != key or metadata["sha256"] != tensor_sha256(tensor):
                raise ValueError("its content does not match its checksum")
            return tensor, int(metadata["tokens"])
        except DAMAGES as failure:
            warn_of_damage(f"the cached {self.kind} {path} is damaged ({failure}); computing it again.")
            return None

    def store(self, key: str, tensor: Tensor, tokens: int) -> None:
        """Keep a tensor.

        Raises: CacheError: it cannot be written.
        """
        metadata = {"key": key, "tokens": str(tokens), "sha256": tensor_sha256(tensor)}
        write_atomically(self.path(key), save({self._name: tensor}, metadata))

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Let one process at a time compute the same thing; a killed process leaves no lock behind.

        Raises: CacheError: the folder cannot be written.
        """
        with locked(self.folder / f"{name}.lock", called="cache folder"):
            yield


def warn_of_damage(message: str) -> None:
    """Warn of a file that will be made again."""
    warnings.warn(message, RuntimeWarning, stacklevel=6)
