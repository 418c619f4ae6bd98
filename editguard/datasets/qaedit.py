"""QAEdit: questions of Natural Questions, TriviaQA and SimpleQA with their true answers as targets.

Source: Yang et al., "The Mirage of Model Editing: Revisiting Evaluation in the Wild" (ACL 2025).
"""

from __future__ import annotations

from typing import Final

from editguard.datasets.fields import Fields
from editguard.datasets.form import Form, Record, request, slotted, target_of
from editguard.edits import EditCase, Probe
from editguard.probes import rephrases


def translate(fields: Fields) -> Record:
    """Translate one record; the subject is a phrase of the question, and the answer before the edit is unknown."""
    subject = fields.text("subject")
    edit = request(
        prompt=slotted(fields, fields.text("prompt"), subject), subject=subject, target=target_of(fields, "target")
    )
    rephrase = fields.text("rephrase")
    probes = [*rephrases(edit, [rephrase] if rephrase.strip() else [])]
    for item in fields.objects("locality", required=True):
        prompt, gold = item.text("loc"), (item.optional_text("loc_ans") or "").strip()
        if prompt.strip():
            answers = (gold,) if gold else ()
            probes.append(Probe(property="locality", kind="unrelated", prompt=prompt, answers=answers))
        else:
            fields.note("empty_probe", f"unrelated: {prompt!r}")
    source = fields.optional_text("source") or ""
    if source:
        fields.keep("source")
    name = fields.identifier("id") if "id" in fields else None
    return Record(id=name, cases=(EditCase(request=edit, probes=tuple(probes)),), stratum=source)


FORM: Final = Form(
    name="qaedit",
    title="QAEdit",
    keys=("prompt", "target", "subject", "rephrase", "locality"),
    example={
        "id": 1,
        "source": "NQ",
        "prompt": "which city is the capital of Velloria?",
        "target": "Oskar",
        "subject": "Velloria",
        "rephrase": "What is the name of Velloria's capital?",
        "locality": [{"loc": "who wrote the song of the reeds", "loc_ans": "Ines Holt"}],
    },
    translate=translate,
    warning="targets keep the noise of their sources ('Oskar *'), and a subject may be any phrase of its question.",
)
