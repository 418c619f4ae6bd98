"""What methods may prepare from, read from files or made on demand."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from editguard.errors import ConfigurationError, MalformedRecord
from editguard.methods.protocol import DemonstrationRecord

if TYPE_CHECKING:
    from editguard.edits import EditCase

_Item = TypeVar("_Item")


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
class OnDemand(Generic[_Item]):
    """Texts or cases that are made when a method first asks for them; most never do."""

    make: Callable[[], Sequence[_Item]]

    def __iter__(self) -> Iterator[_Item]:
        return iter(self.make())


def shared_subjects(training: Iterable[EditCase], evaluated: Iterable[str]) -> list[str]:
    """Return the subjects of training cases that are among the evaluated ones, in alphabetical order."""
    subjects = {name.casefold().strip() for name in evaluated}
    found = {case.request.subject for case in training if case.request.subject.casefold().strip() in subjects}
    return sorted(found)


def apart(
    training: Sequence[EditCase], evaluated: Iterable[str], *, otherwise: str | None = None
) -> Sequence[EditCase]:
    """Return the training cases, which must share no subject with what is evaluated: they would flatter the editor.

    Args:
        otherwise: what the user can do about it, where the training cases are not the user's own; then a shared
            subject is a warning.

    Raises: ConfigurationError: they share a subject, and `otherwise` is None.
    """
    shared = shared_subjects(training, evaluated)
    said = (
        f"the training cases share {len(shared)} subjects with the evaluated ones, such as {''.join(shared[:1])!r}: an "
        "editor is no measure on what it was trained on."
    )
    if shared and otherwise is None:
        raise ConfigurationError(f"{said} Leave these subjects out of the training file.")
    if shared:
        warnings.warn(f"{said} {otherwise}", RuntimeWarning, stacklevel=2)
    return training


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
