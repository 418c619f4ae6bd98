"""The object `portability` of the survey's files: one question that needs the edit and one more fact.

Source: Yao et al., "Editing Large Language Models: Problems, Methods, and Opportunities" (EMNLP 2023), section 4.2.
"""

from __future__ import annotations

from editguard.datasets.fields import Fields
from editguard.edits import EditRequest, Probe
from editguard.probes import one_hop


def one_hop_probes(fields: Fields, request: EditRequest) -> tuple[Probe, ...]:
    """The question of the object, where the record has one.

    Many of these questions state the new target, so that they can be answered without the edit, and some have it as
    their answer: both are noted. Ask them of the unedited model too.

    Raises: InvalidEdit: the object has no question or no answer.
    """
    asked = fields.optional_object("portability")
    if asked is None:
        return ()
    fields.keep("portability")  # "Recalled Relation", the second fact, is no question
    question, answer = asked.text("New Question"), asked.text("New Answer").strip()
    if not question.strip() or not answer:
        fields.note("empty_probe", f"one_hop: {question!r}")
        return ()
    if request.target.casefold() in question.casefold():
        fields.note("target_in_question", question)
    if request.target.casefold() == answer.casefold():
        fields.note("answer_is_target", question)
    return (one_hop(question, (answer,)),)
