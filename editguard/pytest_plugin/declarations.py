"""What a suite's marks declare, checked: edits, checkpoints, methods, settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Any

import pytest

from editguard.edits import EditCase, EditRequest, Probe, as_cases, content_id, refuse_conflicts
from editguard.errors import InvalidEdit, InvalidSettings
from editguard.pytest_plugin.options import Configuration


@dataclass(frozen=True, eq=False)
class Declaration:
    """The edits of one mark: a batch applied together, or a sequence looked at after each checkpoint."""

    cases: tuple[EditCase, ...]
    checkpoints: tuple[int, ...] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    methods: tuple[str, ...] | None = None

    @property
    def sequence(self) -> bool:
        return bool(self.checkpoints)

    @cached_property
    def id(self) -> str:
        """Content id of the edits, in order, and of how they are applied."""
        return content_id(
            "sequence" if self.sequence else "batch",
            [[case.request.id, case.request.relation, case.request.previous] for case in self.cases],
        )


@dataclass(frozen=True, eq=False)
class Cell:
    """One state of the model that tests look at: a declaration, a method and, in a sequence, a checkpoint."""

    declaration: Declaration
    method: str
    edits: int
    settings: Mapping[str, Any]
    group: str
    """Content id of model, method, settings and edits; checkpoints of one sequence share it."""

    @property
    def id(self) -> str:
        """What stands in a test's id, e.g. "rome" or, at a checkpoint, "rome-10"."""
        return f"{self.method}-{self.edits}" if self.declaration.sequence else self.method

    @property
    def cases(self) -> tuple[EditCase, ...]:
        """The cases applied at this cell, in order."""
        return self.declaration.cases[: self.edits]

    def __repr__(self) -> str:
        return f"<{self.id} of {len(self.declaration.cases)} edits>"


def read_mark(mark: pytest.Mark, case_limit: int = 0) -> Declaration:
    """Return what an `edit` or `edit_sequence` mark declares.

    Args:
        case_limit: use only that many cases; checkpoints beyond it move to it. 0 uses all of them.

    Raises: InvalidEdit, ConflictingEdits, InvalidSettings: the message says what to mend.
    """
    sequence = mark.name == "edit_sequence"
    known = {"settings", "methods"} | ({"checkpoints", "cases"} if sequence else set())
    for name in mark.kwargs:
        if name not in known:
            raise InvalidEdit(f"@pytest.mark.{mark.name} takes no argument {name!r}, only {_words(known)}.")
    edits = mark.args
    if sequence:
        if "cases" in mark.kwargs:
            edits = (*edits, mark.kwargs["cases"])
        if len(edits) != 1:
            raise InvalidEdit("@pytest.mark.edit_sequence takes one list of cases.")
    cases = as_cases(list(_flat(edits)))
    checkpoints = _checkpoints(mark.kwargs.get("checkpoints"), len(cases)) if sequence else ()
    if not sequence:
        refuse_conflicts([case.request for case in cases])
    if case_limit and len(cases) > case_limit:
        cases = cases[:case_limit]
        checkpoints = tuple(dict.fromkeys(min(point, case_limit) for point in checkpoints))
    return Declaration(cases, checkpoints, _settings(mark.kwargs.get("settings")), _methods(mark.kwargs.get("methods")))


def cells(declaration: Declaration, methods: Iterable[str], configuration: Configuration) -> list[Cell]:
    """The states of one declaration under the given methods, method by method, checkpoints ascending."""
    found = []
    for method in methods:
        settings = {**configuration.settings.get(method, {}), **declaration.settings.get(method, {})}
        group = content_id(
            "group",
            configuration.model,
            configuration.revision,
            method,
            json.dumps(settings, sort_keys=True, default=repr),
            declaration.id,
        )
        counts = declaration.checkpoints or (len(declaration.cases),)
        found += [Cell(declaration, method, edits, settings, group) for edits in counts]
    return found


def unedited(declaration: Declaration) -> Cell:
    """The original model, asked what all cases of a declaration ask; it belongs to no group."""
    return Cell(declaration, "original", len(declaration.cases), {}, "")


@dataclass(frozen=True)
class KnownFailure:
    """Why a test fails for a method, and up to which day that is accepted; None for no end."""

    reason: str
    until: date | None = None

    def accepted(self, today: date) -> bool:
        """Whether it still counts as known."""
        return self.until is None or today <= self.until


def known_failures(marks: Iterable[pytest.Mark]) -> dict[str, KnownFailure]:
    """What is known by method, from `known_failure` marks; the innermost mark counts.

    Raises: InvalidEdit: a mark names no method, gives no reason, or its `until` is no day.
    """
    known: dict[str, KnownFailure] = {}
    for mark in marks:
        reason = mark.kwargs.get("reason")
        if set(mark.kwargs) - {"reason", "until"} or not isinstance(reason, str) or not reason.strip():
            raise InvalidEdit(
                "@pytest.mark.known_failure needs a reason: known_failure('rome', reason='why it fails'); "
                "until='2027-01-31' gives it an end."
            )
        if not mark.args or not all(isinstance(method, str) for method in mark.args):
            raise InvalidEdit("@pytest.mark.known_failure names the methods that fail, as text.")
        for method in mark.args:
            known.setdefault(method, KnownFailure(reason, _day(mark.kwargs.get("until"))))
    return known


def _day(value: Any) -> date | None:
    if value is None:
        return None
    try:
        return date.fromisoformat(value) if isinstance(value, str) else date(value.year, value.month, value.day)
    except (AttributeError, TypeError, ValueError):
        raise InvalidEdit(
            f"the until of @pytest.mark.known_failure is a day such as '2027-01-31', not {value!r}."
        ) from None


def must_hold_ids(marks: Iterable[pytest.Mark]) -> frozenset[str] | None:
    """What must hold: ids and prompts of the named cases; empty when nothing must; None when everything must.

    Raises: InvalidEdit: a mark names something that is no case.
    """
    named: set[str] = set()
    for mark in marks:
        if mark.kwargs:
            raise InvalidEdit("@pytest.mark.must_hold takes cases, requests, probes or prompts, nothing else.")
        if not mark.args:
            return None
        for case in _flat(mark.args):
            if isinstance(case, (EditCase, EditRequest, Probe)):
                named.add(case.id)
            elif isinstance(case, str):
                named.add(case)
            else:
                raise InvalidEdit(f"@pytest.mark.must_hold takes cases, requests, probes or prompts, not {case!r}.")
    return frozenset(named)


def _flat(edits: Iterable[Any]) -> Iterator[Any]:
    for edit in edits:
        if isinstance(edit, (EditRequest, EditCase, Probe, str, bytes)) or not isinstance(edit, Iterable):
            yield edit
        else:
            yield from edit


def _checkpoints(points: Any, cases: int) -> tuple[int, ...]:
    if points is None:
        return (cases,)
    if isinstance(points, int) and not isinstance(points, bool):
        points = (points,)
    if not isinstance(points, Sequence) or isinstance(points, str) or not points:
        raise InvalidEdit(f"checkpoints are whole numbers, for example (1, 10, 50), not {points!r}.")
    for point in points:
        if isinstance(point, bool) or not isinstance(point, int) or point < 1:
            raise InvalidEdit(f"a checkpoint is a number of edits, at least 1, not {point!r}.")
        if point > cases:
            edits = "1 edit" if cases == 1 else f"{cases} edits"
            raise InvalidEdit(f"the checkpoint {point} lies beyond the sequence, which has {edits}.")
    if list(points) != sorted(set(points)):
        raise InvalidEdit(f"checkpoints must increase: {tuple(points)}.")
    return tuple(points)


def _settings(settings: Any) -> Mapping[str, Mapping[str, Any]]:
    if settings is None:
        return {}
    if not isinstance(settings, Mapping) or not all(isinstance(each, Mapping) for each in settings.values()):
        raise InvalidSettings(
            f"settings are given by method, for example settings={{'rome': {{'layer': 3}}}}, not {settings!r}."
        )
    return settings


def _methods(methods: Any) -> tuple[str, ...] | None:
    if methods is None:
        return None
    if isinstance(methods, str):
        methods = (methods,)
    if not isinstance(methods, Iterable) or not (names := tuple(methods)):
        raise InvalidEdit("methods=[...] names at least one editing method.")
    return names


def _words(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
