"""What a generator proposes for an edit: a known fact about the new object, and two questions.

Source: Yao et al., "Editing Large Language Models: Problems, Methods, and Opportunities" (EMNLP 2023), section 4.2 and
its appendix: a model writes a triple (new object, relation, answer) and a question that needs the edit and the triple.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from editguard.datasets.fields import Fields, shown
from editguard.edits import EditRequest
from editguard.errors import InvalidEdit, UnusableRecord
from editguard.measurements.matching import mentions, normalise

FIELDS: Final = ("object", "relation", "answer", "recall", "question")
REASONS: Final = {
    "nothing_proposed": "the generator knows no fact about the new object",
    "not_parsed": "what the generator wrote is not one JSON object with the fields asked for",
    "other_object": "the triple is not about the edit's target",
    "answer_is_edited": "the answer is the edit's target or its subject",
    "recall_lacks_object": "the recall question does not name the new object",
    "recall_names_subject": "the recall question names the edit's subject, so it is not about the triple alone",
    "recall_states_answer": "the recall question states its answer",
    "question_lacks_subject": "the one-hop question does not name the edit's subject",
    "question_names_object": "the one-hop question names the new object, so it can be answered without the edit",
    "question_states_answer": "the one-hop question states its answer",
    "unknown": "the unedited model does not answer the recall question rightly",
}
"""Why something is left out, in the order of the checks."""
_FENCE: Final = re.compile(r"```(?:json)?\s*\n(?P<inside>.*)\n\s*```", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A fact about the new object of an edit, and what can be asked with it.

    Attributes:
        object, relation, answer: the triple (y*, r, y2).
        recall: a question about the triple alone.
        question: the one-hop question about the edit's subject, whose answer after the edit is `answer`.
    """

    object: str
    relation: str
    answer: str
    recall: str
    question: str


def read_proposal(text: str, request: EditRequest) -> Proposal:
    """Read what a generator wrote, strictly: one JSON object, alone or in one code fence, with five texts.

    Args:
        text: the generator's answer.
        request: the edit that it was asked about.

    Raises: UnusableRecord: it is something else, or its questions do not fit the edit; the reason is one of `REASONS`.
    """
    bare = text.strip()
    fenced = _FENCE.fullmatch(bare)
    try:
        record = json.loads(fenced["inside"] if fenced else bare, object_pairs_hook=_without_repetition)
        fields = Fields(record, "the proposal").refuse_unknown("the proposal", FIELDS)
        texts = {name: fields.text(name).strip() for name in FIELDS}
        if empty := [name for name, value in texts.items() if not value]:
            raise InvalidEdit(f"the field {empty[0]!r} is empty.")
    except (ValueError, RecursionError) as mistake:  # of JSON, and InvalidEdit
        raise UnusableRecord("not_parsed", f"{mistake} It wrote {shown(bare)}.") from mistake
    proposal = Proposal(**texts)
    if reason := misfit(proposal, request):
        raise UnusableRecord(reason, f"{REASONS[reason]}: {shown(bare)}.")
    return proposal


def misfit(proposal: Proposal, request: EditRequest) -> str:
    """Return the reason, one of `REASONS`, why the proposal's questions cannot test this edit; "" if they can."""
    subject, target, answer = request.subject, request.target, proposal.answer
    of_subject = mentions(proposal.recall, subject) and not mentions(target, subject)
    found = {
        "other_object": normalise(proposal.object) != normalise(target),
        "answer_is_edited": normalise(answer) in (normalise(target), normalise(subject)),
        "recall_lacks_object": not mentions(proposal.recall, target),
        "recall_names_subject": of_subject,
        "recall_states_answer": mentions(proposal.recall, answer) and not mentions(target, answer),
        "question_lacks_subject": not mentions(proposal.question, subject),
        "question_names_object": mentions(proposal.question, target) and not mentions(subject, target),
        "question_states_answer": mentions(proposal.question, answer) and not mentions(subject, answer),
    }
    return next((reason for reason, holds in found.items() if holds), "")


def _without_repetition(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The object of a JSON text; one that gives a field twice says two things."""
    record: dict[str, Any] = {}
    for name, value in pairs:
        if name in record:
            raise ValueError(f"the field {name!r} stands there twice.")
        record[name] = value
    return record
