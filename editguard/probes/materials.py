"""What methods may prepare from, chosen by the model: an embedded model's own texts and demonstrations, or files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from editguard.methods.materials import Lines, OnDemand, apart, read_demonstrations
from editguard.pocket import MODEL_NAMES

if TYPE_CHECKING:
    from editguard.edits import EditCase, EditRequest
    from editguard.methods.protocol import DemonstrationRecord, Preparation


def preparation_for(
    model: str,
    requests: Sequence[EditRequest],
    *,
    corpus: Path | None,
    demonstrations: Path | None,
    training: Path | None,
    cache_dir: Path | None,
    seed: int,
    on_progress: Callable[[str], None],
) -> Preparation:
    """Return what a method may prepare from, for a model of that name.

    An embedded model brings its own corpus, demonstrations (none about an edited subject) and training cases (always
    the same ones); the files, which any other model needs, also replace these.

    Args:
        model: a name as `load_model` takes it.
        requests: what is going to be edited.
        corpus: running text, one document per line.
        demonstrations, training: records, and edit cases, one JSON object per line.
        cache_dir: where prepared data is kept; None is the user's own cache for editguard.

    Raises: ConfigurationError, MalformedRecord: a file cannot be read. The training cases are read, and found to share
        a subject with `requests`, when a method asks for them.
    """
    from editguard.methods.protocol import Preparation

    texts: Iterable[str] = ()
    shown: Sequence[DemonstrationRecord] = ()
    cases: Iterable[EditCase] = ()
    subjects = [request.subject for request in requests]
    if model in MODEL_NAMES:
        from editguard.probes import pocket

        texts = OnDemand(pocket.pocket_texts)
        shown = pocket.pocket_demonstrations(exclude=set(subjects))
        cases = OnDemand(lambda: apart(pocket.pocket_training_cases(), subjects, otherwise=pocket.KEEP_APART))
    if corpus is not None:
        texts = Lines(corpus)
    if demonstrations is not None:
        shown = read_demonstrations(demonstrations)
    if training is not None:
        from editguard.datasets.jsonl import load_cases

        cases = OnDemand(lambda: apart(load_cases(training), subjects))
    return Preparation(
        texts=texts,
        demonstrations=shown,
        training=cases,
        cache_dir=cache_folder(cache_dir),
        seed=seed,
        on_progress=on_progress,
    )


def cache_folder(given: Path | None) -> Path:
    """The given cache folder, or the user's own for editguard."""
    if given is not None:
        return given.expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("editguard")
