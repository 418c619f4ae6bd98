"""What methods may prepare from, chosen by the model: its own texts and demonstrations, or the user's files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from editguard.methods.materials import Lines, OnDemand, apart, read_demonstrations
from editguard.pocket import MODEL_NAMES
from editguard.pytest_plugin.options import Configuration

if TYPE_CHECKING:
    from editguard.edits import EditCase, EditRequest, Probe
    from editguard.methods.protocol import DemonstrationRecord, Preparation

SIGNAL_TEXTS: Final = 4
SIGNAL_TEXTS_FROM: Final = 100
SIGNAL_WORDS: Final = 24
PLAIN_TEXTS: Final = (
    "The ferry left the harbour shortly after dawn, and by noon the island was in sight.",
    "Water boils at a lower temperature on a mountain, because the air presses less on its surface.",
    "She read the letter twice, put it back into the envelope, and went to open the window.",
    "Most birds that winter in the south return to the same place in spring, often to the same tree.",
)
"""What a model that brings no text of its own is asked for its perplexity."""


def preparation(
    configuration: Configuration, requests: Sequence[EditRequest], on_progress: Callable[[str], None]
) -> Preparation:
    """Return what a method may prepare from, for the configured model.

    An embedded model brings its own corpus, demonstrations (none about an edited subject) and training cases (always
    the same ones); for any other model the user names files: `--editguard-corpus`, `[tool.editguard] demonstrations`
    and `--editguard-training`. They also replace the embedded model's own.

    Raises: ConfigurationError, MalformedRecord: a file cannot be read. The training cases are read, and found to share
        a subject with `requests`, when a method asks for them.
    """
    from editguard.methods.protocol import Preparation

    texts: Iterable[str] = ()
    demonstrations: Sequence[DemonstrationRecord] = ()
    training: Iterable[EditCase] = ()
    subjects = [request.subject for request in requests]
    if configuration.model in MODEL_NAMES:
        from editguard.probes import pocket

        texts = OnDemand(pocket.pocket_texts)
        demonstrations = pocket.pocket_demonstrations(exclude=set(subjects))
        training = OnDemand(lambda: apart(pocket.pocket_training_cases(), subjects, otherwise=pocket.KEEP_APART))
    if configuration.corpus is not None:
        texts = Lines(configuration.corpus)
    if configuration.demonstrations is not None:
        demonstrations = read_demonstrations(configuration.demonstrations)
    if configuration.training is not None:
        from editguard.datasets.jsonl import load_cases

        file = configuration.training
        training = OnDemand(lambda: apart(load_cases(file), subjects))
    return Preparation(
        texts=texts,
        demonstrations=demonstrations,
        training=training,
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


def signal_texts(configuration: Configuration, requests: Sequence[EditRequest]) -> Sequence[str]:
    """A few texts that none of the requests is about: of the user's corpus, the embedded model's, or plain English.

    Raises: ConfigurationError: the corpus cannot be read.
    """
    texts: Iterable[str] = PLAIN_TEXTS
    if configuration.corpus is not None:
        texts = islice(Lines(configuration.corpus), SIGNAL_TEXTS_FROM)
    elif configuration.model in MODEL_NAMES:
        from editguard.probes import pocket

        texts = pocket.pocket_texts(count=SIGNAL_TEXTS_FROM)
    subjects = {request.subject for request in requests}
    apart = [text for text in texts if not any(subject in text for subject in subjects)]
    return [" ".join(text.split()[:SIGNAL_WORDS]) for text in apart[:SIGNAL_TEXTS]]


def cache_folder(configuration: Configuration) -> Path:
    """The configured cache folder, or the user's own for editguard."""
    if configuration.cache_dir is not None:
        return configuration.cache_dir.expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("editguard")
