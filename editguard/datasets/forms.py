"""All forms of records that are known, and which of them a record has."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from editguard.datasets import (
    choices,
    counterfact,
    counterfact_flat,
    knowedit,
    mquake,
    qaedit,
    ripple_edits,
    zsre,
)
from editguard.datasets.fields import Fields, shown
from editguard.datasets.form import Form, Record
from editguard.datasets.jsonl import case_from
from editguard.errors import ConfigurationError, closest


def _own(fields: Fields) -> Record:
    case = case_from({name: fields.raw(name) for name in fields})
    return Record(cases=(case,), stratum=case.request.relation or "")


OWN: Final = Form(
    name="editguard",
    title="editguard's own form, one JSON object per line or a table (.csv)",
    keys=("prompt", "subject", "target"),
    without=("locality", "rephrase", "target_new"),
    example={"prompt": "The capital of {} is", "subject": "Velloria", "target": "Oskar", "previous": "Tamrin"},
    translate=_own,
    own=True,
)
REFUSED: Final = (
    Form(
        name="zsre-generator",
        title="ZsRE, the form of KE's generator",
        keys=("input", "alternatives", "output"),
        refusal="its records name no subject, which every edit needs; use the form of MEND and ROME.",
    ),
    Form(
        name="knowedit-convsent",
        title="KnowEdit: ConvSent",
        keys=("ent", "pos", "neg"),
        refusal="an opinion on a topic has no answer that decoding could be compared with.",
    ),
    Form(
        name="knowedit-sanitation",
        title="KnowEdit: Sanitation",
        keys=("question", "ground_truth", "target_new"),
        without=("subject",),
        refusal="what should be forgotten is an answer, whatever the question; its records name no subject to edit.",
    ),
    Form(
        name="pokemqa-questions",
        title="questions for PokeMQA's scope detector",
        keys=("edit", "questions"),
        without=("example_type",),
        refusal="its edits are whole sentences without subject and target.",
    ),
)
"""Known forms that become no edit case, so that the reason can be told."""

_ALL: Final = (
    zsre.FORM,
    counterfact.FORM,
    counterfact_flat.FORM,
    knowedit.FACTS,
    knowedit.BIOGRAPHIES,
    mquake.FORM,
    ripple_edits.FORM,
    qaedit.FORM,
    choices.PIQA,
    choices.CHOICE,
    OWN,
    *REFUSED,
)
FORMS: Final[Mapping[str, Form]] = MappingProxyType({form.name: form for form in _ALL})
USABLE: Final = tuple(name for name, form in FORMS.items() if not form.refusal)


def form_named(name: str) -> Form:
    """The form of that name.

    Raises: ConfigurationError: there is none, or its records become no edit case.
    """
    if name not in FORMS:
        raise ConfigurationError(f"unknown form {name!r}; there are {', '.join(USABLE)}.{closest(name, USABLE)}")
    return _usable(FORMS[name])


def form_of(record: object, where: object) -> Form:
    """The form whose keys a record has.

    Args:
        record: the first one of a file.
        where: the file, for messages.

    Raises: ConfigurationError: several forms fit, or none, or one whose records become no edit case.
    """
    fitting = [form for form in FORMS.values() if form.fits(record)]
    if len(fitting) == 1:
        return _usable(fitting[0])
    if fitting:
        names = " or ".join(f"--form {form.name}" for form in fitting)
        raise ConfigurationError(f"the records of {where} fit several forms; say which one is meant: {names}.")
    keys = f"has the fields {shown(sorted(map(str, record)))}" if isinstance(record, Mapping) else "is no object"
    raise ConfigurationError(
        f"the first record of {where} {keys}, which fits no form; name one with --form: {', '.join(USABLE)}."
    )


def _usable(form: Form) -> Form:
    if form.refusal:
        raise ConfigurationError(f"{form.title} cannot become edit cases: {form.refusal}")
    return form
