"""COUNTERFACT: counterfactual facts with paraphrases and neighbours of the same relation.

Source: Meng, Bau, Andonian, Belinkov, "Locating and Editing Factual Associations in GPT" (NeurIPS 2022), section 3.3;
MEMIT's file without contradictory edits has the same form.
"""

from __future__ import annotations

from typing import Final

from editguard.datasets.fields import Fields
from editguard.datasets.form import Form, Record, request, target_of
from editguard.edits import EditCase, EditRequest, Probe
from editguard.probes import rephrases
from editguard.probes.locality import NEIGHBOURHOOD


def rewritten(fact: Fields) -> EditRequest:
    """The request of a `requested_rewrite`: template, subject, relation, new and true target.

    Raises: InvalidEdit: a field is missing or wrong. UnusableRecord: see `target_of` and `request`.
    """
    true = fact.optional_object("target_true")
    return request(
        prompt=fact.text("prompt"),
        subject=fact.text("subject"),
        target=target_of(fact.object("target_new"), "str"),
        previous=None if true is None else true.text("str"),
        relation=fact.optional_text("relation_id"),
    )


def translate(fields: Fields) -> Record:
    """Translate one record; from its neighbours the distracting form is made when they are asked.

    The true answer of a neighbour is the old target, with which ROME's neighbourhood score compares; a measurement by
    decoding asks for the unedited model's own. Attribute prompts and generation prompts are kept, and not asked.
    """
    edit = rewritten(fields.object("requested_rewrite"))
    fields.keep("requested_rewrite")  # ids of the targets
    true = (edit.previous,) if edit.previous else ()
    probes = (
        *rephrases(edit, _texts(fields, "paraphrase_prompts")),
        *(
            Probe(property="locality", kind=NEIGHBOURHOOD, prompt=prompt, answers=true)
            for prompt in dict.fromkeys(_texts(fields, "neighborhood_prompts"))
        ),
    )
    name = fields.identifier("case_id") if "case_id" in fields else None
    return Record(id=name, cases=(EditCase(request=edit, probes=probes),), stratum=edit.relation or "")


def _texts(fields: Fields, name: str) -> list[str]:
    return [text for text in fields.texts(name, required=True) if text.strip()]


FORM: Final = Form(
    name="counterfact",
    title="COUNTERFACT, the form of ROME and MEMIT",
    keys=("requested_rewrite", "paraphrase_prompts", "neighborhood_prompts"),
    example={
        "case_id": 0,
        "requested_rewrite": {
            "prompt": "The capital of {} is",
            "relation_id": "P36",
            "target_new": {"str": "Oskar"},
            "target_true": {"str": "Tamrin"},
            "subject": "Velloria",
        },
        "paraphrase_prompts": ["Velloria's capital city is"],
        "neighborhood_prompts": ["The capital of Dralonia is"],
    },
    translate=translate,
    warning="most paraphrases begin with an unrelated generated sentence.",
)
