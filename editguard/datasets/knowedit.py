"""KnowEdit: facts (WikiData recent, WikiData counterfact, ZsRE) with portability and locality questions, and WikiBio.

Source: Zhang et al., "A Comprehensive Study of Knowledge Editing for Large Language Models" (2024), section 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from editguard.datasets.answers import answer_groups, question
from editguard.datasets.fields import Fields
from editguard.datasets.form import Form, Record, request, slotted, target_of
from editguard.edits import EditCase, Probe, Property
from editguard.errors import InvalidEdit, UnusableRecord
from editguard.probes import rephrases

KINDS: Final[Mapping[str, Mapping[str, str]]] = {
    "portability": {
        "Subject_Aliasing": "subject_replace",
        "Reasoning": "reasoning",
        "Logical_Generalization": "logical_generalization",
    },
    "locality": {"Relation_Specificity": "other_relation", "Forgetfulness": "forgetfulness"},
}
ZSRE_KINDS: Final = {"reasoning": "one_hop", "logical_generalization": "reversed_relation"}
"""The ZsRE part holds the survey's three kinds of questions, which have the survey's names here."""


def translate_fact(fields: Fields) -> Record:
    """Translate one record of the three parts of facts; the ZsRE part is known by its field "rephrase_prompt"."""
    subject = fields.text("subject")
    target = target_of(fields, "target_new")
    before = [name for group in answer_groups(fields, "ground_truth") for name in group] if _truth(fields) else []
    if target in (name.strip() for name in before):
        raise UnusableRecord("same_target", f"the target {target!r} is the answer before the edit already.")
    edit = request(
        prompt=slotted(fields, fields.text("prompt"), subject),
        subject=subject,
        target=target,
        previous=before[0] if before else None,
    )
    wordings = [fields.optional_text(name) for name in ("rephrase_prompt", "rephrase")]
    names = ZSRE_KINDS if "rephrase_prompt" in fields else {}
    probes = (
        *rephrases(edit, [text for text in wordings if text and text.strip()]),
        *_questions(fields, "portability", names),
        *_questions(fields, "locality", names),
    )
    return Record(cases=(EditCase(request=edit, probes=probes),))


def translate_biography(fields: Fields) -> Record:
    """Translate one record of WikiBio: the passage so far is the prompt, the true next sentence the target."""
    subject = fields.text("concept")
    edit = request(
        prompt=slotted(fields, fields.text("text"), subject), subject=subject, target=target_of(fields, "labels")
    )
    return Record(cases=(EditCase(request=edit, probes=_questions(fields, "locality", {})),))


def _truth(fields: Fields) -> bool:
    return "ground_truth" in fields and fields.raw("ground_truth") is not None


def _questions(fields: Fields, property: Property, names: Mapping[str, str]) -> tuple[Probe, ...]:
    """The probes of one of the two objects, in the order of the record.

    Raises: InvalidEdit: a kind of question that the form does not have, or a question of another shape.
    """
    groups = fields.optional_object(property)
    if groups is None:
        return ()
    groups.refuse_unknown(f"the field {property!r}", tuple(KINDS[property]))
    found: list[Probe] = []
    for criterion in groups:
        kind = KINDS[property][criterion]
        for item in groups.objects(criterion):
            prompt = item.text("prompt")
            try:
                answers = answer_groups(item, "ground_truth")
            except InvalidEdit as mistake:
                raise InvalidEdit(f"{property}.{criterion}: {mistake}") from mistake
            probe = question(item, property, names.get(kind, kind), prompt, answers)
            if probe is None or (answers and not probe.answers):
                fields.keep(property)
            if probe is not None:
                found.append(probe)
    return tuple(found)


FACTS: Final = Form(
    name="knowedit",
    title="KnowEdit: WikiData recent, WikiData counterfact, ZsRE",
    keys=("prompt", "target_new", "subject"),
    any_of=("portability", "locality"),
    without=("locality_prompt",),
    example={
        "subject": "Velloria",
        "prompt": "The capital of Velloria is",
        "target_new": "Oskar",
        "ground_truth": "Tamrin",
        "portability": {
            "Reasoning": [{"prompt": "The mayor of Velloria's capital is", "ground_truth": [["Ines Holt"]]}]
        },
        "locality": {
            "Relation_Specificity": [{"prompt": "The language of Velloria is", "ground_truth": ["Vellorian"]}]
        },
    },
    translate=translate_fact,
    warning="kinds of questions belong to different records: compare methods within one kind.",
)
BIOGRAPHIES: Final = Form(
    name="knowedit-wikibio",
    title="KnowEdit: WikiBio",
    keys=("text", "labels", "concept"),
    example={
        "text": "This is a passage about ines holt. Ines Holt is a mayor.",
        "labels": "She was born in Oskar.",
        "concept": "ines holt",
        "locality": {"Relation_Specificity": [{"prompt": "The gender of Ines Holt is", "ground_truth": ["female"]}]},
    },
    translate=translate_biography,
    warning="the target is a whole sentence, which decoding hardly ever repeats word for word: read the token "
    "accuracy that stands beside it.",
)
