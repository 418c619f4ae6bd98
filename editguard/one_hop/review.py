"""The file in which a person judges what was proposed: one JSON object per line, written to be read and edited."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from editguard.datasets.fields import Fields, shown
from editguard.datasets.streams import parse_line
from editguard.edits import EditCase, Probe
from editguard.errors import ConfigurationError, InvalidEdit, MalformedRecord, closest
from editguard.probes import one_hop
from editguard.storage import write_atomically

VERDICTS: Final = ("accept", "reject")
FIELDS: Final = (
    "case",
    "edit",
    "object",
    "relation",
    "answer",
    "recall",
    "question",
    "unedited",
    "verdict",
    "note",
    "model",
    "generator",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One proposed question, and what a person says of it.

    Attributes:
        case: id of the edit request.
        edit: its statement, for the reader.
        object, relation, answer: the triple.
        recall: the prompt of the recall question, as the model is asked.
        question: the prompt of the one-hop question.
        unedited: what the unedited model answers to the one-hop question, for the reader.
        verdict: "accept", "reject", or "" as long as nobody has judged.
        note: free text.
        model: the model whose knowledge was checked.
        generator: who proposed.
    """

    case: str
    edit: str
    object: str
    relation: str
    answer: str
    recall: str
    question: str
    unedited: str
    verdict: str = ""
    note: str = ""
    model: str
    generator: str

    @property
    def probe(self) -> Probe:
        """The one-hop probe: its answer, and the known fact that it builds on."""
        return one_hop(self.question, (self.answer,), knows=((self.recall, self.answer),))

    def as_record(self) -> dict[str, str]:
        """The row as one JSON object; what a person reads first comes first."""
        return {name: getattr(self, name) for name in FIELDS}


@dataclass
class Judged:
    """What `accept` found.

    Attributes:
        accepted: by case id, the probes to add.
        rejected, open: rows rejected, and rows without a verdict.
        present: accepted probes that their case had already.
    """

    accepted: dict[str, list[Probe]] = field(default_factory=lambda: defaultdict(list))
    rejected: int = 0
    open: int = 0
    present: int = 0

    @property
    def count(self) -> int:
        """How many probes were accepted and are new."""
        return sum(map(len, self.accepted.values())) - self.present


def read_review(path: Path) -> list[Row]:
    """Read a review file.

    Raises: ConfigurationError: it cannot be read. MalformedRecord: a line is no row, or its verdict is another word.
    """
    return [row for _, row in _numbered(path)]


def write_review(path: Path, rows: Iterable[Row]) -> None:
    """Replace a review file in one step. Raises: ConfigurationError: it cannot be written."""
    lines = (json.dumps(row.as_record(), ensure_ascii=False) + "\n" for row in rows)
    write_atomically(path, lines, error=ConfigurationError)


def accept(review: Path, cases: Path, *, judged: Judged | None = None) -> Iterator[EditCase]:
    """Yield the cases of a file with the accepted probes behind their own, one case in memory.

    Args:
        review: the review file.
        cases: the file that `propose` read.
        judged: is filled with the counts; it is complete when the last case was taken.

    Raises: MalformedRecord: see `read_review`; or a row's case is not in the file. InvalidEdit: see `read_cases`.
    """
    from editguard.datasets.jsonl import read_cases

    judged = Judged() if judged is None else judged
    rows = list(_numbered(review))
    known = {case.id for case in read_cases(cases)}
    for number, row in rows:
        if row.case not in known:
            raise MalformedRecord(
                review,
                number,
                f"its case {row.case} ({shown(row.edit)}) is not in {cases}: name the file of cases that the "
                "questions were proposed for, or take the line out.",
            )
        if row.verdict == "accept":
            judged.accepted[row.case].append(row.probe)
    counts = Counter(row.verdict for _, row in rows)
    judged.rejected, judged.open = counts["reject"], counts[""]
    seen: set[str] = set()
    for case in read_cases(cases):
        own = {probe.id for probe in case.probes}
        added = {probe.id: probe for probe in judged.accepted.get(case.id, ()) if probe.id not in own}
        if case.id not in seen:
            judged.present += len(judged.accepted.get(case.id, ())) - len(added)
            seen.add(case.id)
        yield EditCase(
            request=case.request, probes=(*case.probes, *added.values()), label=case.label, origin=case.origin
        )


def _numbered(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, _row(path, number, parse_line(path, number, line))
    except OSError as failure:
        raise ConfigurationError(
            f"cannot read the review file {os.fspath(path)}: {failure.strerror or failure}. "
            "It is written by: editguard one-hop propose."
        ) from failure


def _row(path: Path, number: int, record: Any) -> Row:
    try:
        fields = Fields(record, "a row of a review file").refuse_unknown("a row of a review file", FIELDS)
        texts = {name: fields.text(name) for name in FIELDS}
        for name in ("case", "answer", "recall", "question"):
            if not texts[name].strip():
                raise InvalidEdit(f"the field {name!r} is empty.")
        verdict = texts["verdict"].strip().casefold()
        if verdict and verdict not in VERDICTS:
            raise InvalidEdit(
                f"the verdict {texts['verdict']!r} is none of {' and '.join(VERDICTS)}, and is not left empty either."
                f"{closest(verdict, VERDICTS)}"
            )
    except InvalidEdit as mistake:
        raise MalformedRecord(path, number, str(mistake)) from mistake
    return Row(**{**texts, "verdict": verdict})
