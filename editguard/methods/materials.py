"""What methods may prepare from, read from files or made on demand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from editguard.errors import ConfigurationError, MalformedRecord
from editguard.methods.protocol import DemonstrationRecord


class Lines:
    """The documents of a text file, one per line; read anew at every iteration, never held in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[str]:
        with self.path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if text := line.strip():
                    yield text


@dataclass
class OnDemand:
    """Texts that are made when a method first asks for them; most never do."""

    make: Callable[[], Sequence[str]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.make())


def read_demonstrations(path: Path) -> list[DemonstrationRecord]:
    """Read demonstration records, one JSON object per line with the fields of `DemonstrationRecord`.

    Raises: MalformedRecord: names file, line and what is wrong. ConfigurationError: the file cannot be read.
    """
    records = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigurationError(f"the demonstrations {path} cannot be read: {problem}.") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(DemonstrationRecord(**json.loads(line)))
        except (ValueError, TypeError) as problem:
            raise MalformedRecord(path, number, f"is no demonstration record: {problem}") from None
    return records
