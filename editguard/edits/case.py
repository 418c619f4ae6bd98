"""An edit case: a request together with the probes that tell what it did."""

import builtins
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from editguard.edits.request import EditRequest, content_id
from editguard.errors import InvalidEdit

Property = Literal["reliability", "generalization", "portability", "locality", "other_tasks"]
PROPERTIES: tuple[Property, ...] = get_args(Property)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One question to the edited model.

    Attributes:
        property: which of the survey's properties it speaks for.
        kind: finer name, e.g. "rephrase", "subject_replace", "reversed_relation", "one_hop",
            "other_relation", "neighbourhood", "distracting_neighbourhood", or the task's name.
        prompt: the text sent, ending right before the answer.
        answers: accepted answers, the first one is the gold answer. Empty for locality: the expected
            answer is then the unedited model's own.
        choices: for multiple choice, the options (`answers` holds the right one).
        knows: (prompt, answer) pairs that the unedited model must know before the probe counts.
    """

    property: Property
    kind: str
    prompt: str
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    knows: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.property not in PROPERTIES:
            raise InvalidEdit(f"a probe's property is one of {', '.join(PROPERTIES)}, not {self.property!r}.")
        if not self.prompt.strip():
            raise InvalidEdit(f"a {self.kind} probe has an empty prompt.")
        if not self.answers and self.property != "locality":
            raise InvalidEdit(f"the {self.kind} probe {self.prompt!r} needs at least one accepted answer.")
        if any(not answer.strip() for answer in self.answers):
            raise InvalidEdit(f"the {self.kind} probe {self.prompt!r} has an empty answer.")

    @builtins.property
    def id(self) -> str:
        """Content id of the probe: 16 hex digits."""
        return content_id("probe", self.property, self.kind, self.prompt, self.answers, self.choices)


@dataclass(frozen=True, kw_only=True)
class EditCase:
    """A request and its probes.

    Attributes:
        request: what should become true.
        probes: may be empty: the request's own prompt is always asked.
        label: a name for people.
        origin: where the case comes from, as plain data (form, id and file of a published record, and what of it
            has no place elsewhere). Neither this nor the label makes it another case.
    """

    request: EditRequest
    probes: tuple[Probe, ...] = ()
    label: str = field(default="", compare=False)
    origin: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.request, EditRequest):
            raise InvalidEdit(f"the request of an edit case is an EditRequest, not {self.request!r}.")
        object.__setattr__(self, "probes", tuple(self.probes))

    @property
    def id(self) -> str:
        """The request's content id: adding a probe to a case does not make it another edit."""
        return self.request.id


def as_cases(edits: EditRequest | EditCase | Iterable[EditRequest | EditCase]) -> tuple[EditCase, ...]:
    """Return what a suite declared (one or many, requests or cases) as a tuple of cases.

    Raises: InvalidEdit: something else was declared, or nothing.
    """
    if isinstance(edits, (EditRequest, EditCase)):
        edits = (edits,)
    cases = []
    for edit in edits:
        if isinstance(edit, EditRequest):
            edit = EditCase(request=edit)
        if not isinstance(edit, EditCase):
            raise InvalidEdit(f"an edit is an EditRequest or an EditCase, not {edit!r}.")
        cases.append(edit)
    if not cases:
        raise InvalidEdit("no edit was declared: give at least one EditRequest or EditCase.")
    return tuple(cases)
