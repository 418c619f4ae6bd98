"""The marks of a suite, as functions with checked arguments.

`pytest.mark.edit(...)` and `editguard.edit(...)` are the same mark; the functions here add a signature that editors
complete and type checkers check.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from editguard.edits import EditCase, EditRequest, Probe

Settings = Mapping[str, Mapping[str, Any]]

DECLARING = ("edit", "edit_sequence")
LINES = (
    "edit(*edits, settings=None, methods=None): run the test once per editing method on a model in which the "
    "given requests or cases were applied together, as one batch; settings={'rome': {...}} override a method's "
    "settings, methods=[...] names the methods that the test is meant for.",
    "edit_sequence(cases, checkpoints=None, settings=None, methods=None): apply the cases one after another and "
    "run the test at every checkpoint (a number of edits applied, by default all of them).",
    "must_hold(*cases): the named cases (or all of the test) fail a baseline check at their first flip; name a "
    "case by its EditCase, EditRequest, Probe or prompt.",
    "known_failure(*methods, reason, until=None): the test is known to fail for these methods; it turns red when it "
    "passes, and after the day `until`.",
)


def edit(
    *edits: EditRequest | EditCase | Iterable[EditRequest | EditCase],
    settings: Settings | None = None,
    methods: Sequence[str] | None = None,
) -> pytest.MarkDecorator:
    """Declare the edit of a test, class or module: one request or case, or a batch applied together."""
    return pytest.mark.edit(*edits, settings=settings, methods=methods)


def edit_sequence(
    cases: Iterable[EditRequest | EditCase],
    *,
    checkpoints: Sequence[int] | None = None,
    settings: Settings | None = None,
    methods: Sequence[str] | None = None,
) -> pytest.MarkDecorator:
    """Declare a growing sequence of edits, looked at after each of `checkpoints` many."""
    return pytest.mark.edit_sequence(cases, checkpoints=checkpoints, settings=settings, methods=methods)


def must_hold(*cases: EditRequest | EditCase | Probe | str) -> pytest.MarkDecorator:
    """Make the named cases, or all cases of the test, fail a baseline check at their first flip."""
    return pytest.mark.must_hold(*cases)


def known_failure(*methods: str, reason: str, until: str | date | None = None) -> pytest.MarkDecorator:
    """Declare that the test is known to fail for `methods`; it turns red when it starts to pass.

    Args:
        until: the last day on which that is accepted, such as "2027-01-31".
    """
    return pytest.mark.known_failure(*methods, reason=reason, until=until)
