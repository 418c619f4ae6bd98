"""What an editing method is, and what it may be given beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from editguard.edited import EditedModel
    from editguard.edits import EditCase, EditRequest
    from editguard.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class DemonstrationRecord:
    """One fact to demonstrate editing with, never the fact under test.

    Attributes:
        prompt: the filled-in prompt, ending right before the answer.
        subject: the entity that the fact is about.
        target_new: the answer that the demonstration pretends to be new.
        target_true: the answer to each of `neighbours`, which the new fact must not touch.
        paraphrases: other wordings of `prompt`.
        neighbours: prompts about other subjects that are answered by `target_true`.
    """

    prompt: str
    subject: str
    target_new: str
    target_true: str
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "paraphrases", tuple(self.paraphrases))
        object.__setattr__(self, "neighbours", tuple(self.neighbours))


def _silent(message: str) -> None:
    del message


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What `prepare` may use; a method takes what it needs and says clearly what it misses.

    Attributes:
        texts: a corpus of running text, for statistics of the unedited model; iterated once per model.
        demonstrations: records for methods that edit by example.
        training: edit cases for editors that are trained: request, rephrases and locality probes. None of them, nor
            any other case about one of their subjects, may be among those that are evaluated.
        cache_dir: folder for results that are kept between runs; None keeps them in memory only.
        seed: of every random draw; no global generator is touched.
        second_moment_tokens: how many tokens of `texts` the second moments see; None = ten times the
            width of the keys.
        on_progress: called with one line of text at each step of long work.
    """

    texts: Iterable[str] = ()
    demonstrations: Sequence[DemonstrationRecord] = ()
    training: Iterable[EditCase] = ()
    cache_dir: Path | None = None
    seed: int = 0
    second_moment_tokens: int | None = None
    on_progress: Callable[[str], None] = field(default=_silent, compare=False)


@runtime_checkable
class EditMethod(Protocol):
    """An editing method.

    An instance may serve several models; what it prepares is kept for each of them apart.
    """

    name: ClassVar[str]

    def prepare(self, model: LanguageModel, data: Preparation) -> None:
        """Do once per model what every later edit needs; a second call with the same data costs little.

        Raises: MethodRefused: the data lacks what the method needs, or the model cannot be edited by it.
        """

    def apply(self, edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
        """Return `edited` with the requests on top; several requests are one batch.

        Afterwards the physical model has the stack of changes that it had before, also after an exception.

        Raises: MethodRefused: the requests, or the model, are beyond the method; the message says why.
        """


@runtime_checkable
class TrainedMethod(EditMethod, Protocol):
    """An editing method that trains an editor from edit cases; its registry entry says `trains`."""

    def train(self, model: LanguageModel, data: Preparation, folder: Path | None) -> Path | None:
        """Train the editor of a model from `data.training`, or go on with it where it was cut short.

        Args:
            folder: where it goes; None is the cache, and without `data.cache_dir` memory alone.

        Returns: the file of the editor, if it is in one.
        Raises: MissingMaterial: the cases lack something. MethodRefused: the model lacks a part, or the training
            diverged. CacheError: a file is damaged, or is another editor's.
        """
