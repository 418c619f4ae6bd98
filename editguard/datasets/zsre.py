"""ZsRE in the form of MEND and ROME: a question, a new answer, a rephrase and an unrelated question.

Sources: Levy et al., "Zero-Shot Relation Extraction via Reading Comprehension" (CoNLL 2017); De Cao, Aziz, Titov,
"Editing Factual Knowledge in Language Models" (EMNLP 2021) for the rephrases; Mitchell et al., "Fast Model Editing at
Scale" (ICLR 2022) for the form.
"""

from __future__ import annotations

from typing import Final

from editguard.datasets.fields import Fields
from editguard.datasets.form import Form, Record, request, slotted, target_of
from editguard.datasets.survey_fields import one_hop_probes
from editguard.edits import EditCase, Probe
from editguard.errors import UnusableRecord

TARGETS: Final = ("alt", "answers")


def translate(fields: Fields, *, target: str = TARGETS[0]) -> Record:
    """Translate one record.

    With target="alt" the edit inserts the record's counterfactual answer, as MEND and the survey do, and
    the first true answer is the one before; with "answers" it inserts the true answer, as ROME and MEMIT do, the
    other true answers are accepted from rephrases too, and what the model said before is unknown.
    """
    subject, src = fields.text("subject"), fields.text("src")
    true = [answer.strip() for answer in fields.texts("answers", required=True) if answer.strip()]
    aliases: list[str] = []
    if target == "alt":
        new, previous = target_of(fields, "alt"), true[0] if true else None
    else:
        if not true:
            raise UnusableRecord("empty_target", "the list 'answers' has no answer.")
        new, previous = true[0], None
        aliases = true[1:]
    edit = request(prompt=slotted(fields, src, subject), subject=subject, target=new, previous=previous)
    probes = [*one_hop_probes(fields, edit)]
    if (rephrase := fields.optional_text("rephrase") or "").strip():
        answers = tuple(dict.fromkeys((new, *aliases)))
        probes.insert(0, Probe(property="generalization", kind="rephrase", prompt=rephrase, answers=answers))
    if (unrelated := fields.optional_text("loc") or "").strip():
        gold = (fields.optional_text("loc_ans") or "").strip()
        probes.append(Probe(property="locality", kind="unrelated", prompt=unrelated, answers=(gold,) if gold else ()))
    return Record(cases=(EditCase(request=edit, probes=tuple(probes)),))


FORM: Final = Form(
    name="zsre",
    title="ZsRE, the form of MEND and ROME, also with the survey's portability questions",
    keys=("src", "alt", "answers", "subject"),
    example={
        "subject": "Velloria",
        "src": "Which city is the capital of Velloria?",
        "alt": "Oskar",
        "answers": ["Tamrin"],
        "rephrase": "What is the name of Velloria's capital?",
        "loc": "nq question: who wrote the song of the reeds",
        "loc_ans": "Ines Holt",
    },
    translate=translate,
    options={"target": TARGETS},
    warning="many records share a subject and differ in wording and target: look at the conflicts, and at "
    "subjects that are edited more than once. Never mix results of --target alt (insert a falsehood) and answers "
    "(insert the truth).",
)
