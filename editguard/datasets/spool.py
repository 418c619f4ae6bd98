"""Many objects as lines of a temporary file: an import of any length holds one of them at a time."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from editguard.errors import ConfigurationError

T = TypeVar("T")


class Spool(Collection[T], Generic[T]):
    """Objects in the order in which they were added, to be gone through as often as needed.

    The file goes when nothing refers to the spool any more.
    """

    def __init__(self, record: Callable[[T], dict[str, Any]], read: Callable[[Any], T]) -> None:
        """Make an empty one.

        Args:
            record: an object as plain data.
            read: the way back.
        """
        self._record, self._read, self._length = record, read, 0
        self._folder = tempfile.TemporaryDirectory(prefix="editguard-")
        self._path = Path(self._folder.name) / "spool.jsonl"
        self._path.touch()

    def extend(self, objects: Collection[T]) -> None:
        """Add objects at the end.

        Raises: ConfigurationError: the disk is full.
        """
        if not objects:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                for each in objects:
                    file.write(json.dumps(self._record(each), ensure_ascii=False) + "\n")
        except OSError as failure:
            raise ConfigurationError(
                f"cannot write {self._path}: {failure.strerror or failure}. An import keeps its cases there for a "
                "while: free some space, or name another folder with the environment variable TMPDIR."
            ) from failure
        self._length += len(objects)

    def lines(self) -> Iterator[str]:
        """Yield the line of each object as plain data, with its end."""
        with self._path.open(encoding="utf-8") as file:
            yield from file

    def __iter__(self) -> Iterator[T]:
        return (self._read(json.loads(line)) for line in self.lines())

    def __len__(self) -> int:
        return self._length

    def __contains__(self, item: object) -> bool:
        return any(item == each for each in self)
