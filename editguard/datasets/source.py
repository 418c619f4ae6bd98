"""Where records come from: a file, or a data set of the Hugging Face hub through the package `datasets`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol

from editguard.datasets.choices import labelled
from editguard.datasets.streams import Positioned, file_records, sha256_of
from editguard.errors import ConfigurationError, MalformedRecord

HUB: Final = "hub:"
"""Begins the name of a data set of the hub, e.g. "hub:azhx/counterfact"."""


class Source(Protocol):
    """Records that can be read again and again."""

    @property
    def name(self) -> str:
        """The name for messages."""

    @property
    def stem(self) -> str:
        """A short name, from which those of written files are made."""

    @property
    def about(self) -> Mapping[str, str]:
        """What identifies the source, for the record of an import."""

    def records(self) -> Iterator[Positioned]:
        """The records in order, with their positions."""


@dataclass(frozen=True)
class FileSource:
    """A file of records, with a file of labels where the labels are apart."""

    path: Path
    labels: Path | None = None

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def stem(self) -> str:
        return self.path.stem

    @cached_property
    def about(self) -> Mapping[str, str]:
        about = {"file": self.path.name, "sha256": sha256_of(self.path)}
        if self.labels is not None:
            about |= {"labels": self.labels.name, "labels_sha256": sha256_of(self.labels)}
        return about

    def records(self) -> Iterator[Positioned]:
        """See `Source`. Raises: InvalidEdit, MalformedRecord: see `file_records`."""
        read = file_records(self.path)
        return read if self.labels is None else labelled(read, self.labels)


@dataclass(frozen=True)
class HubSource:
    """A split of a data set of the hub, read as a stream; no code of the data set is run."""

    dataset: str
    split: str = "train"
    revision: str | None = None

    @property
    def name(self) -> str:
        return f"{HUB}{self.dataset} ({self.split})"

    @property
    def stem(self) -> str:
        return self.dataset.rpartition("/")[2]

    @property
    def about(self) -> Mapping[str, str]:
        about = {"dataset": self.dataset, "split": self.split}
        return about if self.revision is None else {**about, "revision": self.revision}

    def records(self) -> Iterator[Positioned]:
        """See `Source`.

        Raises: ConfigurationError: the package is missing, or the data set cannot be loaded. MalformedRecord: it
            breaks off.
        """
        try:
            load_dataset: Any = import_module("datasets").load_dataset
        except (ImportError, AttributeError) as missing:  # or a folder of that name
            raise ConfigurationError(
                f"{self.name} needs the package datasets: pip install 'editguard[datasets]', or download the file and "
                "give its path."
            ) from missing
        try:
            rows = iter(load_dataset(self.dataset, split=self.split, revision=self.revision, streaming=True))
        except Exception as failure:  # of the network, the hub, or the data set: the package raises many kinds
            raise ConfigurationError(f"cannot load {self.name}: {_line(failure)}. Or download the file.") from failure
        place = 0
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except Exception as failure:
                raise MalformedRecord(self.name, f"[{place}]", f"cannot be loaded: {_line(failure)}.") from failure
            yield f"[{place}]", row
            place += 1


def source_of(
    given: str, *, labels: Path | None = None, split: str | None = None, revision: str | None = None
) -> Source:
    """The source that a command names: "hub:NAME", or a path.

    A file of labels that stands beside a file of items as PIQA's do ("valid.jsonl", "valid-labels.lst") is taken.

    Raises: ConfigurationError: options that the source does not have.
    """
    if given.startswith(HUB):
        if labels is not None:
            raise ConfigurationError("--labels belongs to a file; a data set of the hub has its labels.")
        return HubSource(given.removeprefix(HUB), split or "train", revision)
    if split is not None or revision is not None:
        raise ConfigurationError(f"--split and --revision belong to a data set of the hub, named {HUB}NAME.")
    path = Path(given)
    beside = path.with_name(f"{path.stem}-labels.lst")
    return FileSource(path, labels if labels is not None or not beside.is_file() else beside)


def _line(failure: Exception) -> str:
    return " ".join(f"{type(failure).__name__}: {failure}".split()).rstrip(".")
