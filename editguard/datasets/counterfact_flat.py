"""COUNTERFACT in EasyEdit's flat form, also with the survey's portability questions.

Source of the form: Wang et al., "EasyEdit" (ACL 2024 demonstrations); of the questions: Yao et al. (EMNLP 2023).
"""

from __future__ import annotations

from typing import Final

from editguard.datasets.fields import Fields
from editguard.datasets.form import Form, Record, request, slotted, target_of
from editguard.datasets.survey_fields import one_hop_probes
from editguard.edits import EditCase, Probe
from editguard.probes import rephrases
from editguard.probes.locality import NEIGHBOURHOOD

DRAWN: Final = "rephrase_or_continuation"
"""Kind of the flat form's `rephrase_prompt`: not "rephrase", because 838 of 1,000 are generation prompts."""


def translate(fields: Fields) -> Record:
    """Translate one record."""
    subject = fields.text("subject")
    edit = request(
        prompt=slotted(fields, fields.text("prompt"), subject),
        subject=subject,
        target=target_of(fields, "target_new"),
        previous=fields.optional_text("ground_truth"),
    )
    neighbour, gold = fields.text("locality_prompt"), (fields.optional_text("locality_ground_truth") or "").strip()
    drawn = fields.text("rephrase_prompt")
    probes = [
        *rephrases(edit, [drawn] if drawn.strip() else [], kind=DRAWN),
        *one_hop_probes(fields, edit),
    ]
    if neighbour.strip():
        answers = (gold,) if gold else ()
        probes.append(Probe(property="locality", kind=NEIGHBOURHOOD, prompt=neighbour, answers=answers))
    name = fields.identifier("case_id") if "case_id" in fields else None
    return Record(id=name, cases=(EditCase(request=edit, probes=tuple(probes)),))


FORM: Final = Form(
    name="counterfact-flat",
    title="COUNTERFACT, EasyEdit's flat form, also with the survey's portability questions",
    keys=("prompt", "target_new", "subject", "rephrase_prompt", "locality_prompt"),
    example={
        "case_id": 0,
        "prompt": "The capital of Velloria is",
        "target_new": "Oskar",
        "subject": "Velloria",
        "ground_truth": "Tamrin",
        "rephrase_prompt": "Velloria's capital city is",
        "locality_prompt": "The capital of Dralonia is",
        "locality_ground_truth": "Tamrin",
    },
    translate=translate,
    warning="'rephrase_prompt' was drawn from two paraphrases and ten open generation prompts together, so that five "
    f"of six need not be answered by the target; its probes are of the kind {DRAWN!r}. Report generalization on the "
    "paraphrases of the original file.",
)
