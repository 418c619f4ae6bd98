"""What methods may prepare from, and what is asked beside the edits, by the run's configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from editguard.methods.materials import Lines
from editguard.pocket import MODEL_NAMES
from editguard.probes.materials import preparation_for
from editguard.pytest_plugin.options import Configuration

if TYPE_CHECKING:
    from editguard.edits import EditRequest, Probe
    from editguard.methods.protocol import Preparation

SIGNAL_TEXTS: Final = 4
SIGNAL_TEXTS_FROM: Final = 100
SIGNAL_WORDS: Final = 24
TRAINING_TEXTS: Final = 240
"""What `edited.after("fine-tuning")` reads where a test names no texts: enough for 30 steps of 8."""
TRAINING_TEXTS_FROM: Final = 400
TRAINING_WORDS: Final = 64
PLAIN_TEXTS: Final = (
    "The ferry left the harbour shortly after dawn, and by noon the island was in sight.",
    "Water boils at a lower temperature on a mountain, because the air presses less on its surface.",
    "She read the letter twice, put it back into the envelope, and went to open the window.",
    "Most birds that winter in the south return to the same place in spring, often to the same tree.",
)
"""What a model that brings no text of its own is asked for its perplexity, and trained on further."""


def preparation(
    configuration: Configuration, requests: Sequence[EditRequest], on_progress: Callable[[str], None]
) -> Preparation:
    """Return what a method may prepare from, for the configured model.

    Files come from `--editguard-corpus`, `[tool.editguard] demonstrations` and `--editguard-training`.

    Raises: ConfigurationError, MalformedRecord: see `preparation_for`.
    """
    return preparation_for(
        configuration.model,
        requests,
        corpus=configuration.corpus,
        demonstrations=configuration.demonstrations,
        training=configuration.training,
        cache_dir=configuration.cache_dir,
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
    """A few texts whose perplexity is read; see `unrelated_texts`."""
    return unrelated_texts(configuration, requests, count=SIGNAL_TEXTS, of=SIGNAL_TEXTS_FROM, words=SIGNAL_WORDS)


def training_texts(configuration: Configuration, requests: Sequence[EditRequest]) -> Sequence[str]:
    """Texts for a short further training; see `unrelated_texts`."""
    return unrelated_texts(configuration, requests, count=TRAINING_TEXTS, of=TRAINING_TEXTS_FROM, words=TRAINING_WORDS)


def unrelated_texts(
    configuration: Configuration, requests: Sequence[EditRequest], *, count: int, of: int, words: int
) -> Sequence[str]:
    """Texts that name no subject of the requests: of the user's corpus, the embedded model's, or plain English.

    Args:
        count: how many, at most.
        of: how many of the corpus are looked at.
        words: each is cut to so many.

    Raises: ConfigurationError: the corpus cannot be read.
    """
    texts: Iterable[str] = PLAIN_TEXTS
    if configuration.corpus is not None:
        texts = islice(Lines(configuration.corpus), of)
    elif configuration.model in MODEL_NAMES:
        from editguard.probes import pocket

        texts = pocket.pocket_texts(count=of)
    subjects = {request.subject for request in requests}
    apart = [text for text in texts if not any(subject in text for subject in subjects)]
    return [" ".join(text.split()[:words]) for text in apart[:count]]
