"""From edit cases to a review file: propose, read strictly, check the model's knowledge, write, go on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from editguard.datasets.fields import Fields
from editguard.datasets.streams import parse_line
from editguard.edits import SLOT, EditCase, EditRequest
from editguard.errors import ConfigurationError, InvalidEdit, MalformedRecord, UnusableRecord
from editguard.measurements.answering import Answering
from editguard.measurements.decoding import decode
from editguard.measurements.selection import recalled
from editguard.one_hop.generators import Generator
from editguard.one_hop.proposal import REASONS, Proposal, read_proposal
from editguard.one_hop.review import Row, read_review, write_review
from editguard.storage import locked, write_atomically

BATCH: Final = 16
"""Edits that are proposed, checked and written together: what a stopped run loses at most."""
_LEFT_OUT_FIELDS: Final = ("case", "edit", "reason", "problem", "model", "generator")


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """An edit without a question to judge, and why; `reason` is one of `REASONS`."""

    case: str
    edit: str
    reason: str
    problem: str
    model: str
    generator: str


@dataclass(frozen=True)
class Proposed:
    """What the two files hold after a run.

    Attributes:
        rows: questions to judge, with the verdicts given so far.
        left_out: edits without one.
        new: edits that this run has handled.
    """

    rows: tuple[Row, ...]
    left_out: tuple[LeftOut, ...]
    new: int

    @property
    def reasons(self) -> dict[str, int]:
        """How many edits were left out, by reason."""
        return dict(Counter(each.reason for each in self.left_out))


def left_out_path(review: Path) -> Path:
    """Where the edits without a question are listed, beside the review file."""
    return review.with_name(f"{review.name.removesuffix('.jsonl')}.left-out.jsonl")


@dataclass(frozen=True, kw_only=True)
class Propose:
    """A run of proposals for the edits of one model.

    Attributes:
        model: the unedited model whose edits are tested: it must know the second fact.
        model_name: its name.
        generator: who proposes.
        form: how a question is asked, with `{}` for it, such as "Question: {} Answer:".
        batch: edits that are handled together.

    Raises: ConfigurationError: the form has not exactly one `{}`, or the batch is empty.
    """

    model: Answering
    model_name: str
    generator: Generator
    form: str
    batch: int = BATCH
    on_progress: Callable[[str], None] = lambda _line: None

    def __post_init__(self) -> None:
        if self.form.count(SLOT) != 1:
            raise ConfigurationError(f"the form of a question has one {{}} for it, as 'Question: {{}} Answer:'; got "
                                     f"{self.form!r}.")  # fmt: skip
        if self.batch < 1:
            raise ConfigurationError(f"edits are handled one at a time or several together, not {self.batch}.")

    def run(self, cases: Iterable[EditCase], review: Path) -> Proposed:
        """Propose for every case that the files do not hold yet; each batch is written as soon as it is done.

        Args:
            cases: the edits; one that comes twice is handled once.
            review: the review file, made or gone on with. Verdicts in it stay, also those given meanwhile.

        Raises: ConfigurationError: a file cannot be read or written, or is about another model. MalformedRecord: a
            line of one of them. EditguardError: see the generator.
        """
        rows, left_out = self._known(review)
        done = {row.case for row in rows} | {each.case for each in left_out}
        waiting = (request for request in _once(cases) if request.id not in done)
        new = 0
        while batch := list(islice(waiting, self.batch)):
            found, without = self._handled(batch)
            with locked(review.with_name(f".{review.name}.lock"), error=ConfigurationError):
                rows, left_out = self._known(review)  # read again: a person may have judged meanwhile
                rows, left_out = [*rows, *found], [*left_out, *without]
                write_review(review, rows)
                _write_left_out(left_out_path(review), left_out)
            new += len(batch)
            self.on_progress(f"{new} edits: {len(rows)} questions to judge, {len(left_out)} left out")
        return Proposed(tuple(rows), tuple(left_out), new)

    def _handled(self, requests: Sequence[EditRequest]) -> tuple[list[Row], list[LeftOut]]:
        """The rows of a batch of edits, and the edits that have none."""
        proposals: list[tuple[EditRequest, Proposal]] = []
        left_out = []
        for request, text in zip(requests, self.generator.write(requests), strict=True):
            try:
                if text is None:
                    raise UnusableRecord("nothing_proposed", REASONS["nothing_proposed"])
                proposals.append((request, read_proposal(text, request)))
            except UnusableRecord as mistake:
                left_out.append(self._left_out(request, mistake.reason, str(mistake)))
        knows = [(self._asked(proposal.recall), proposal.answer) for _, proposal in proposals]
        said = recalled(knows, self.model)
        known = [each for each, pair in zip(proposals, knows, strict=True) if said[pair][1]]
        for (request, proposal), pair in zip(proposals, knows, strict=True):
            if not said[pair][1]:
                problem = f"asked {pair[0]!r} for {proposal.answer!r}, the unedited model said {said[pair][0]!r}"
                left_out.append(self._left_out(request, "unknown", problem))
        answers = decode(self.model, [self._asked(proposal.question) for _, proposal in known])
        rows = [
            Row(
                case=request.id,
                edit=request.statement,
                object=proposal.object,
                relation=proposal.relation,
                answer=proposal.answer,
                recall=self._asked(proposal.recall),
                question=self._asked(proposal.question),
                unedited=answer.text,
                model=self.model_name,
                generator=self.generator.name,
            )
            for (request, proposal), answer in zip(known, answers, strict=True)
        ]
        return rows, left_out

    def _asked(self, question: str) -> str:
        before, after = self.form.split(SLOT)
        return before + question + after

    def _left_out(self, request: EditRequest, reason: str, problem: str) -> LeftOut:
        return LeftOut(
            case=request.id,
            edit=request.statement,
            reason=reason,
            problem=problem,
            model=self.model_name,
            generator=self.generator.name,
        )

    def _known(self, review: Path) -> tuple[list[Row], list[LeftOut]]:
        """What both files hold; both are about one model's knowledge."""
        rows = read_review(review) if review.exists() else []
        left_out = _read_left_out(left_out_path(review)) if left_out_path(review).exists() else []
        for model in (*(row.model for row in rows), *(each.model for each in left_out)):
            if model != self.model_name:
                raise ConfigurationError(
                    f"{review} holds questions that were checked with the model {model!r}, not with "
                    f"{self.model_name!r}: name another file with --review."
                )
        return rows, left_out


def _once(cases: Iterable[EditCase]) -> Iterator[EditRequest]:
    """The requests of the cases, each at its first mention."""
    seen: set[str] = set()
    for case in cases:
        if case.id not in seen:
            seen.add(case.id)
            yield case.request


def _write_left_out(path: Path, left_out: Iterable[LeftOut]) -> None:
    lines = (
        json.dumps({name: getattr(each, name) for name in _LEFT_OUT_FIELDS}, ensure_ascii=False) + "\n"
        for each in left_out
    )
    write_atomically(path, lines, error=ConfigurationError)


def _read_left_out(path: Path) -> list[LeftOut]:
    found = []
    try:
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            if line.strip():
                found.append(_left_out_from(path, number, parse_line(path, number, line)))
    except OSError as failure:
        raise ConfigurationError(f"cannot read {path}: {failure.strerror or failure}.") from failure
    return found


def _left_out_from(path: Path, number: int, record: Any) -> LeftOut:
    try:
        fields = Fields(record, "a line of edits left out").refuse_unknown("a line of edits left out", _LEFT_OUT_FIELDS)
        return LeftOut(**{name: fields.text(name) for name in _LEFT_OUT_FIELDS})
    except InvalidEdit as mistake:
        raise MalformedRecord(path, number, str(mistake)) from mistake
