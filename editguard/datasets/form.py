"""What a form of published records is, and how an edit request is made of its fields, with every trap counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from editguard.datasets.fields import Fields, shown
from editguard.edits import SLOT, EditCase, EditRequest, Probe
from editguard.errors import UnusableRecord

REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "malformed": "a field is missing or of a wrong type",
        "empty_target": "no target",
        "empty_subject": "no subject",
        "subject_not_in_prompt": "the prompt does not name the subject",
        "braces_in_prompt": "the prompt has {} of its own",
        "same_target": "the target is the answer before the edit",
        "unknown_target": "the sentence does not tell where the target begins",
        "contradicts_itself": "two edits of one instance contradict each other",
        "same_choices": "two options are equal",
        "duplicate_id": "an earlier record has the same id; without ids: is the same request",
    }
)
"""Why a record is left out; the last is found by comparing records."""

NOTES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "stripped_target": "blanks around a target were removed",
        "subject_repeated": "the prompt names the subject more than once; the first place is its slot",
        "several_required_answers": "a question that asks for several answers together was left out",
        "locality_without_answer": "several right answers of a locality question are kept apart from its probe",
        "several_known_answers": "a question was left out whose premise has several answers together",
        "alternatives": "a test that one of several questions passes became one probe per question",
        "empty_probe": "a question without text or answer was left out",
        "target_in_question": "a portability question states the new target",
        "answer_is_target": "a portability question's answer is the new target itself",
    }
)
"""What is changed, left out or remarkable in a record that is used."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One translated record: edits to be applied together, or items of another task.

    Attributes:
        id: the record's own id; None where it has none.
        cases: one, or those of an instance of several edits.
        tasks: items of another task, for forms without edits.
        stratum: what a sample should be balanced by, e.g. the relation.
    """

    id: str | None = None
    cases: tuple[EditCase, ...] = ()
    tasks: tuple[Probe, ...] = ()
    stratum: str = ""


Translate = Callable[..., Record]
"""A function of the record's `Fields`, with the form's options as keyword arguments."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form of records, known by its keys.

    Attributes:
        name: for --form.
        title: the data set, with its source.
        keys: every record has them.
        any_of: every record has one of them, where there are any.
        without: no record has one of them.
        example: a record of the right shape, for messages.
        translate: record and options -> `Record`; raises InvalidEdit.
        options: by name, the values that there are; the first is the default.
        gives: "cases", "instances" (each applied alone, of one or several edits) or "tasks".
        own: whether label and origin of its cases are their own already.
        refusal: why records of this form become no edit case; empty for forms that do.
        warning: what everybody who imports the form must know.
    """

    name: str
    title: str
    keys: tuple[str, ...]
    any_of: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    example: Mapping[str, Any] = field(default_factory=dict)
    translate: Translate | None = None
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    gives: str = "cases"
    own: bool = False
    refusal: str = ""
    warning: str = ""

    def fits(self, record: object) -> bool:
        """Whether a record has the keys of the form."""
        return (
            isinstance(record, Mapping)
            and all(name in record for name in self.keys)
            and (not self.any_of or any(name in record for name in self.any_of))
            and not any(name in record for name in self.without)
        )


def target_of(fields: Fields, name: str) -> str:
    """The target without the blanks around it, which is noted.

    Raises: UnusableRecord: it is empty. InvalidEdit: it is no text.
    """
    written = fields.text(name)
    target = written.strip()
    if not target:
        raise UnusableRecord("empty_target", f"the target {name!r} is empty: {written!r}.")
    if target != written:
        fields.note("stripped_target", f"{written!r} became {target!r}")
    return target


def slotted(fields: Fields, text: str, subject: str) -> str:
    """The prompt with a slot at the subject's first occurrence; several are noted.

    Raises: UnusableRecord: there is no subject, or the prompt does not name it.
    """
    if not subject.strip():
        raise UnusableRecord("empty_subject", f"the record of the prompt {shown(text)} has an empty subject.")
    before, found, after = text.partition(subject)
    if not found:
        raise UnusableRecord("subject_not_in_prompt", f"the subject {subject!r} is not in the prompt {shown(text)}.")
    if subject in after:
        fields.note("subject_repeated", f"{subject!r} in {text!r}")
    return f"{before}{SLOT}{after}"


def request(
    *, prompt: str, subject: str, target: str, previous: str | None = None, relation: str | None = None
) -> EditRequest:
    """An edit request of a prompt with a slot; a blank previous answer or relation counts as unknown.

    Raises: UnusableRecord: the prompt has another slot, the subject is empty, or the target is the previous answer.
        InvalidEdit: the prompt has no slot.
    """
    if not subject.strip():
        raise UnusableRecord("empty_subject", f"the record of the prompt {shown(prompt)} has an empty subject.")
    if prompt.count(SLOT) > 1:
        raise UnusableRecord("braces_in_prompt", f"the prompt {shown(prompt)} has {SLOT} beside the subject's slot.")
    known = (previous or "").strip() or None
    if known == target:
        raise UnusableRecord("same_target", f"the target {target!r} is the answer before the edit already.")
    return EditRequest(
        prompt=prompt, subject=subject, target=target, previous=known, relation=(relation or "").strip() or None
    )
