"""What methods may prepare from, chosen by the model: its own texts and demonstrations, or the user's files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from editguard.methods.materials import Lines, OnDemand, read_demonstrations
from editguard.pocket import MODEL_NAMES
from editguard.pytest_plugin.options import Configuration

if TYPE_CHECKING:
    from editguard.edits import EditRequest, Probe
    from editguard.methods.protocol import DemonstrationRecord, Preparation


def preparation(
    configuration: Configuration, requests: Sequence[EditRequest], on_progress: Callable[[str], None]
) -> Preparation:
    """Return what a method may prepare from, for the configured model.

    An embedded model brings its own corpus and demonstrations (none about an edited subject); for any other model
    the user names files: `--editguard-corpus` and `[tool.editguard] demonstrations`. They also replace the embedded
    model's own.

    Raises: ConfigurationError, MalformedRecord: a file cannot be read.
    """
    from editguard.methods.protocol import Preparation

    texts: Iterable[str] = ()
    demonstrations: Sequence[DemonstrationRecord] = ()
    if configuration.model in MODEL_NAMES:
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
    if configuration.model not in MODEL_NAMES:
        return ()
    from editguard.probes import pocket

    return pocket.pocket_tasks()


def cache_folder(configuration: Configuration) -> Path:
    """The configured cache folder, or the user's own for editguard."""
    if configuration.cache_dir is not None:
        return configuration.cache_dir.expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("editguard")
