"""Accepted answers of published questions, which nest lists of them in several ways."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from editguard.datasets.fields import Fields, shown
from editguard.edits import Probe, Property
from editguard.errors import InvalidEdit

_YES_OR_NO: Final = re.compile(
    r"(?:is|are|was|were|am|do|does|did|has|have|had|can|could|will|would|should|may|might)\b.*\?\s*", re.I | re.S
)


def is_yes_or_no(prompt: str) -> bool:
    """Whether a question asks for yes or no."""
    return _YES_OR_NO.fullmatch(prompt.strip()) is not None


def answer_groups(fields: Fields, name: str) -> tuple[tuple[str, ...], ...]:
    """The answers of a field: each group is one answer with its other names.

    A text is one group of one name; a list of texts is one group, whose first is the gold answer; a list of lists
    has a group per inner list. Empty names and repeated groups are dropped.

    Raises: InvalidEdit: the field is missing, or something else.
    """
    value = fields.raw(name)
    if isinstance(value, str):
        value = [[value]]
    elif isinstance(value, list) and all(isinstance(each, str) for each in value):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(each, (list, str)) for each in value):
        raise InvalidEdit(f"the field {name!r} is a text, a list of texts or a list of such lists, not {shown(value)}.")
    groups = (Fields({name: [each] if isinstance(each, str) else each}).texts(name) for each in value)
    named = (tuple(dict.fromkeys(each for each in group if each.strip())) for group in groups)
    return tuple(dict.fromkeys(group for group in named if group))


def accepted(prompt: str, groups: tuple[tuple[str, ...], ...]) -> tuple[str, ...] | None:
    """Answers of which one suffices; None where the groups are answers that are required together.

    Of a question for yes or no the groups are alternatives ("no", "is dead").
    """
    if len(groups) <= 1 or is_yes_or_no(prompt):
        return tuple(dict.fromkeys(name for group in groups for name in group))
    return None


def question(
    fields: Fields,
    property: Property,
    kind: str,
    prompt: str,
    groups: tuple[tuple[str, ...], ...],
    *,
    knows: Iterable[tuple[str, str]] = (),
) -> Probe | None:
    """A probe of a published question, or None, which is noted, where it cannot be asked.

    For locality what counts is the unedited model's own answer, so that several required answers do not matter; they
    are left out, because one alone would be no right answer.
    """
    found = accepted(prompt, groups)
    if not prompt.strip() or (not found and found is not None and property != "locality"):
        fields.note("empty_probe", f"{kind}: {prompt!r}")
        return None
    if found is None and property != "locality":
        fields.note("several_required_answers", f"{kind}: {prompt!r}")
        return None
    if found is None:
        fields.note("locality_without_answer", f"{kind}: {prompt!r}")
    return Probe(property=property, kind=kind, prompt=prompt, answers=found or (), knows=tuple(knows))
