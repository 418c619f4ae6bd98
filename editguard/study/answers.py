"""Answers of one state of a model, kept on disk as they come: a process that follows a killed one asks the rest alone.

A batch of a thousand edits is asked thousands of questions before its part of a study is complete. They are asked in
groups, always the same ones, and each group is on the disk before the next is asked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from editguard.errors import ConfigurationError
from editguard.measurements.answering import ANSWER_TOKENS, Generated, Scored
from editguard.measurements.decoding import lookup_of
from editguard.measurements.fluency import continuing
from editguard.measurements.record import Lookup
from editguard.storage import append

if TYPE_CHECKING:
    from editguard.edited import EditedModel
    from editguard.models.generation import StopRule

GROUP: Final = 128
"""Questions that are asked together, and asked again when the process is killed meanwhile."""

Question = tuple[str, int | str]
Kind = Literal["generate", "score", "continue"]


@dataclass(frozen=True)
class Told:
    """An answer as it is kept; see `Generated`, and for the lookup `Lookup`."""

    text: str
    stopped: bool
    prompt: str
    lookup: Lookup | None

    @classmethod
    def of(cls, answer: Generated) -> Told:
        """What a measurement needs of an answer."""
        return cls(answer.text, answer.stopped, answer.prompt, lookup_of(answer))

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Told:
        """Return what was written as plain data."""
        lookup = record["lookup"]
        return cls(record["text"], record["stopped"], record["prompt"], Lookup(**lookup) if lookup else None)


@dataclass(frozen=True)
class Forced:
    """A teacher-forced score as it is kept; see `Scored`."""

    answer_ids: tuple[int, ...]
    argmax_ids: tuple[int, ...]
    log_prob: float
    token_accuracy: float

    @classmethod
    def of(cls, score: Scored) -> Forced:
        """What a measurement needs of a score."""
        return cls(tuple(score.answer_ids), tuple(score.argmax_ids), score.log_prob, score.token_accuracy)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Forced:
        """Return what was written as plain data."""
        ids = tuple(record["answer_ids"]), tuple(record["argmax_ids"])
        return cls(*ids, float(record["log_prob"]), float(record["token_accuracy"]))


class _Form(NamedTuple):
    """How values of a kind are made of what the model says, and of what stands in a file."""

    of: Callable[[Any], Any]
    to_json: Callable[[Any], Any]
    from_json: Callable[[Any], Any]


_FORMS: Final[Mapping[Kind, _Form]] = {
    "generate": _Form(Told.of, asdict, Told.from_json),
    "score": _Form(Forced.of, asdict, Forced.from_json),
    "continue": _Form(str, str, str),
}


class KeptAnswers:
    """A state of a model that answers like itself, each question once; what it says is kept in a file.

    Attributes:
        model: the state.
        seconds: what the answers took that were in the file already.
    """

    def __init__(self, model: EditedModel, path: Path, *, seed: int = 0) -> None:
        """Keep the answers of `model` in the file `path`, which must only ever hold answers of this state.

        A file that was cut short counts as far as it is whole.

        Args:
            seed: of continuations.

        Raises: ConfigurationError: the file is there and cannot be read.
        """
        self.model = model
        self.seconds = 0.0
        self._path = path
        self._known: dict[Kind, dict[Question, Any]] = {kind: {} for kind in _FORMS}
        self._continued = continuing(model, seed)
        try:
            self._whole = self._read()
        except OSError as failure:
            raise ConfigurationError(f"cannot read {path}: {failure.strerror or failure}.") from failure

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int = ANSWER_TOKENS, stop: StopRule | None = None
    ) -> Sequence[Generated]:
        """See `Answering`; answers by another rule than the model's own are not kept."""
        if stop is not None:
            return self.model.generate(prompts, max_new_tokens=max_new_tokens, stop=stop)

        def ask(asked: Sequence[str]) -> Sequence[Generated]:
            return self.model.generate(asked, max_new_tokens=max_new_tokens)

        return self._asked("generate", [(prompt, max_new_tokens) for prompt in prompts], _by_prompt(ask))

    def score(self, pairs: Sequence[tuple[str, str]]) -> Sequence[Scored]:
        """See `Answering`."""
        return self._asked("score", pairs, self.model.score)

    def next_tokens(self, prompts: Sequence[str], k: int = 5) -> Sequence[Sequence[tuple[str, float]]]:
        """See `Answering`; these are not kept."""
        return self.model.next_tokens(prompts, k)

    def continued(self, prompts: Sequence[str], *, tokens: int) -> list[str]:
        """See `Continuing`."""

        def ask(asked: Sequence[str]) -> Sequence[str]:
            return self._continued(asked, tokens=tokens)

        return self._asked("continue", [(prompt, tokens) for prompt in prompts], _by_prompt(ask))

    def _asked(
        self, kind: Kind, questions: Sequence[Question], ask: Callable[[Sequence[Any]], Iterable[Any]]
    ) -> list[Any]:
        """The values of all questions; those that are not known are asked group by group."""
        known, form = self._known[kind], _FORMS[kind]
        missing = [question for question in dict.fromkeys(questions) if question not in known]
        for start in range(0, len(missing), GROUP):
            group, began = missing[start : start + GROUP], time.perf_counter()
            found = [form.of(value) for value in ask(group)]
            seconds = time.perf_counter() - began
            values = [form.to_json(value) for value in found]
            self._keep({"kind": kind, "questions": group, "values": values, "seconds": seconds})
            known.update(zip(group, found, strict=True))
        return [known[question] for question in questions]

    def _keep(self, group: Mapping[str, Any]) -> None:
        raw = json.dumps(group, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        try:
            self._whole = append(self._path, raw, after=self._whole)
        except OSError as failure:
            raise ConfigurationError(
                f"cannot write {self._path}: {failure.strerror or failure}. All answers before are kept; free some "
                "space, and give the same command again."
            ) from failure

    def _read(self) -> int:
        """Take what the file holds; returns the byte behind the last line that is whole."""
        taken = 0
        for line, behind in _lines(self._path):
            try:
                group = json.loads(line)
                form, known = _FORMS[group["kind"]], self._known[group["kind"]]
                values = [form.from_json(value) for value in group["values"]]
                found = dict(zip([(text, other) for text, other in group["questions"]], values, strict=True))
                self.seconds += float(group["seconds"])
            except (KeyError, TypeError, ValueError):
                break
            known.update(found)
            taken = behind
        return taken


def _by_prompt(ask: Callable[[Sequence[str]], Sequence[Any]]) -> Callable[[Sequence[Question]], Sequence[Any]]:
    """What asks questions by their prompts alone."""
    return lambda questions: ask([prompt for prompt, _ in questions])


def _lines(path: Path) -> Iterator[tuple[bytes, int]]:
    """The whole lines of a file, each with the byte behind it."""
    *whole, _ = (path.read_bytes() if path.exists() else b"").split(b"\n")
    behind = 0
    for line in whole:
        behind += len(line) + 1
        yield line, behind
