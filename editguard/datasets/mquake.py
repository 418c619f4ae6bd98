"""MQuAKE: instances of one to four edits, and questions over several facts whose answer the edits change together.

Source: Zhong et al., "MQuAKE: Assessing Knowledge Editing in Language Models via Multi-Hop Questions" (EMNLP 2023);
the files CF, CF-3k (also version 2) and T have one form.

An instance becomes one case per edit, in its order. The questions over several facts need all of its edits, so they
stand with the *last* case: any prefix of a sequence of cases then asks only what can be answered. The cases of an
instance share `origin["instance"]`; `instances` puts them together again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from editguard.datasets.counterfact import rewritten
from editguard.datasets.fields import Fields
from editguard.datasets.form import Form, Record
from editguard.edits import EditCase, Probe, refuse_conflicts
from editguard.errors import ConflictingEdits, InvalidEdit, UnusableRecord
from editguard.probes import one_hop, rephrases

QUESTION: Final = "question"
"""Kind of an edit's own question, in words other than the prompt's."""
MULTI_HOP: Final = "multi_hop_{}"
"""Kind of a question over so many facts, the edited ones among them, as MQuAKE counts them."""


def translate(fields: Fields) -> Record:
    """Translate one instance."""
    facts = fields.objects("requested_rewrite", required=True)
    if not facts:
        raise InvalidEdit("the list 'requested_rewrite' has no edit.")
    cases: list[EditCase] = []
    asked_for: set[str] = set()
    for fact in facts:
        edit = rewritten(fact)
        wording = fact.optional_text("question")
        asked_for.update((edit.text, wording or edit.text))
        cases.append(EditCase(request=edit, probes=rephrases(edit, [wording] if wording else [], kind=QUESTION)))
    try:
        refuse_conflicts([case.request for case in cases])
    except ConflictingEdits as mistake:
        raise UnusableRecord("contradicts_itself", str(mistake)) from mistake
    hops = fields.objects("new_single_hops", required=True)
    probes = _multi_hop(fields, hops, asked_for)
    cases[-1] = EditCase(request=cases[-1].request, probes=(*cases[-1].probes, *probes))
    for name in ("requested_rewrite", "new_single_hops"):
        fields.keep(name)
    own_id = fields.identifier("case_id") if "case_id" in fields else None
    return Record(id=own_id, cases=tuple(cases), stratum=f"{len(hops)} hops")


def _multi_hop(fields: Fields, hops: list[Fields], asked_for: set[str]) -> list[Probe]:
    """The questions over all hops, which count where the unedited model knows the hops that are not edited."""
    answer = fields.text("new_answer").strip()
    answers = tuple(name for name in (answer, *fields.texts("new_answer_alias")) if name.strip())
    if not answers:
        raise InvalidEdit("the field 'new_answer' is empty.")
    knows = tuple(
        (cloze, hop.text("answer"))
        for hop in hops
        if asked_for.isdisjoint({cloze := hop.text("cloze"), hop.text("question")})
    )
    return [
        one_hop(text, dict.fromkeys(answers), knows=knows, kind=MULTI_HOP.format(len(hops)))
        for text in fields.texts("questions", required=True)
        if text.strip()
    ]


@dataclass(frozen=True)
class Hop:
    """One fact of the chain after the edits: as a question, as a statement's beginning, and its accepted answers."""

    question: str
    cloze: str
    answers: tuple[str, ...]


def chain(instance: Sequence[EditCase]) -> tuple[Hop, ...]:
    """The hops of an instance's chain after its edits; none where its first case does not carry the record's.

    Raises: InvalidEdit: what it carries is no list of hops.
    """
    return tuple(
        Hop(hop.text("question"), hop.text("cloze"), _named(hop.text("answer"), hop.texts("answer_alias")))
        for hop in _kept(instance).objects("new_single_hops")
    )


def old_answers(instance: Sequence[EditCase]) -> tuple[str, ...]:
    """Accepted answers to the questions over all hops before the edits; none where the record does not tell them.

    Raises: InvalidEdit: what the first case carries is no text, or no list of texts.
    """
    record = _kept(instance)
    return _named(record.optional_text("answer") or "", record.texts("answer_alias"), record.texts("answer_extended"))


def _kept(instance: Sequence[EditCase]) -> Fields:
    return Fields(instance[0].origin.get("fields", {}), "the kept record of an instance", path="origin.fields.")


def _named(answer: str, *others: Iterable[str]) -> tuple[str, ...]:
    names = (answer.strip(), *(name for each in others for name in each))
    return tuple(dict.fromkeys(name for name in names if name.strip()))


def instances(cases: Iterable[EditCase]) -> list[tuple[EditCase, ...]]:
    """Neighbouring cases of one instance together, in order; a case of no instance is one of its own."""
    return list(each_instance(cases))


def each_instance(cases: Iterable[EditCase]) -> Iterator[tuple[EditCase, ...]]:
    """`instances`, one in memory at a time."""

    def key(numbered: tuple[int, EditCase]) -> tuple[Any, ...]:
        number, case = numbered
        name = case.origin.get("instance")
        return ("case", number) if name is None else ("instance", name)

    for _, group in groupby(enumerate(cases), key=key):
        yield tuple(case for _, case in group)


FORM: Final = Form(
    name="mquake",
    title="MQuAKE-CF, -CF-3k and -T",
    keys=("requested_rewrite", "questions", "new_answer", "new_single_hops"),
    example={
        "case_id": 1,
        "requested_rewrite": [
            {
                "prompt": "The capital of {} is",
                "relation_id": "P36",
                "target_new": {"str": "Oskar"},
                "target_true": {"str": "Tamrin"},
                "subject": "Velloria",
                "question": "What is the capital of Velloria?",
            }
        ],
        "questions": ["Who is the mayor of Velloria's capital?"],
        "new_answer": "Ines Holt",
        "new_answer_alias": [],
        "new_single_hops": [
            {"question": "What is the capital of Velloria?", "cloze": "The capital of Velloria is", "answer": "Oskar"},
            {"question": "Who is the mayor of Oskar?", "cloze": "The mayor of Oskar is", "answer": "Ines Holt"},
        ],
    },
    translate=translate,
    gives="instances",
    warning="instances share facts, and in version 1 of CF-3k contradict each other: apply each alone, or look at the "
    "conflicts before you apply all.",
)
