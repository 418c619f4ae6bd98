"""What methods may prepare from, chosen by the model: its own texts and demonstrations, or the user's files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from editguard.errors import ConfigurationError, MalformedRecord
from editguard.pytest_plugin.options import Configuration

if TYPE_CHECKING:
    from editguard.edits import EditRequest, Probe
    from editguard.methods.protocol import DemonstrationRecord, Preparation

POCKET = "pocket"


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


def preparation(
    configuration: Configuration, requests: Sequence[EditRequest], on_progress: Callable[[str], None]
) -> Preparation:
    """Return what a method may prepare from, for the configured model.

    The embedded model brings its own corpus and demonstrations (none about an edited subject); for any other model
    the user names files: `--editguard-corpus` and `[tool.editguard] demonstrations`. They also replace the embedded
    model's own.

    Raises: ConfigurationError, MalformedRecord: a file cannot be read.
    """
    from editguard.methods.protocol import Preparation

    texts: Iterable[str] = ()
    demonstrations: Sequence[DemonstrationRecord] = ()
    if configuration.model == POCKET:
        from editguard.probes import pocket

        texts = OnDemand(pocket.pocket_texts)
        demonstrations = pocket.pocket_demonstrations(exclude={request.subject for request in requests})
    if configuration.corpus is not None:
        texts = Lines(configuration.corpus)
    if configuration.demonstrations is not None:
        demonstrations = read_demonstrations(configuration.demonstrations)
    return Preparation(
        texts=texts,
        demonstrations=demonstrations,
        cache_dir=cache_folder(configuration),
        seed=configuration.seed,
        on_progress=on_progress,
    )


def other_tasks(configuration: Configuration) -> Sequence[Probe]:
    """The probes that `other_tasks()` asks when a suite gives none: the embedded model's own tasks."""
    if configuration.model != POCKET:
        return ()
    from editguard.probes import pocket

    return pocket.pocket_tasks()


def cache_folder(configuration: Configuration) -> Path:
    """The configured cache folder, or the user's own for editguard."""
    if configuration.cache_dir is not None:
        return configuration.cache_dir.expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("editguard")


def read_demonstrations(path: Path) -> list[DemonstrationRecord]:
    """Read demonstration records, one JSON object per line with the fields of `DemonstrationRecord`.

    Raises: MalformedRecord: names file, line and what is wrong. ConfigurationError: the file cannot be read.
    """
    from editguard.methods.protocol import DemonstrationRecord

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
