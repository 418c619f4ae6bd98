"""From marks to items: parametrisation over methods and checkpoints, grouping, messages with file and line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pytest

from editguard.errors import EditguardError, UnknownMethod
from editguard.pytest_plugin import locations
from editguard.pytest_plugin.declarations import (
    Cell,
    Declaration,
    KnownFailure,
    cells,
    known_failures,
    must_hold_ids,
    read_mark,
    unedited,
)
from editguard.pytest_plugin.marks import DECLARING
from editguard.pytest_plugin.options import CANDIDATE, Configuration

PARAMETRISED = ("edited", "editor", "method")
NO_EDITS = Declaration(())
"""What stands in for a mark where a test applies its edits itself, through `editor`."""
OURS = "editguard.pytest_plugin.fixtures"


@dataclass
class Selection:
    """Which methods run; the registry is read when the first edit test is collected."""

    configuration: Configuration
    report_only: tuple[str, ...] = ()
    """Methods whose tests may fail, by the gate's policy."""
    _known: tuple[str, ...] | None = None
    _declared: dict[int, tuple[pytest.Mark, Declaration]] = field(default_factory=dict)

    @property
    def known(self) -> tuple[str, ...]:
        """Names of all registered methods."""
        if self._known is None:
            from editguard.methods.registry import methods

            self._known = tuple(methods())
        return self._known

    def methods(self) -> tuple[str, ...]:
        """The selected methods, in the registry's order for "default" and "all", else in the given order.

        With a candidate none is applied, and its name stands in their place.

        Raises: UnknownMethod.
        """
        if self.configuration.candidate is not None:
            return (CANDIDATE,)
        from editguard.methods.registry import default_methods

        names: list[str] = []
        for name in self.configuration.methods:
            if name == "all":
                names.extend(self.known)
            elif name == "default":
                names.extend(default_methods())
            else:
                names.append(self.checked(name))
        return tuple(dict.fromkeys(names))

    @property
    def chosen(self) -> bool:
        """Whether the user named methods, rather than leaving the default set."""
        return "methods" in self.configuration.given and self.configuration.methods != ("default",)

    def checked(self, name: str) -> str:
        """Return the name; raise UnknownMethod when nothing is registered under it."""
        if name not in self.known:
            raise UnknownMethod(name, self.known)
        return name

    def declaration(self, mark: pytest.Mark) -> Declaration:
        """What the mark declares; read once, however many tests it stands over."""
        if id(mark) not in self._declared:
            self._declared[id(mark)] = (mark, read_mark(mark, self.configuration.case_limit))
        return self._declared[id(mark)][1]


def parametrise(metafunc: pytest.Metafunc, selection: Selection) -> None:
    """Run a test that uses `edited` or `editor` (or, under an edit mark, `method`) once per state of the model.

    Raises: pytest.Collector.CollectError: a declaration is wrong; the message names file and line.
    """
    definition, root = metafunc.definition, metafunc.config.rootpath
    wanted = [
        name
        for name in (*PARAMETRISED, "original")
        if name in metafunc.fixturenames and not _own(definition, name) and _is_ours(definition, name)
    ]
    if not wanted:
        return
    found = next((pair for pair in definition.iter_markers_with_node() if pair[1].name in DECLARING), None)
    if found is None:
        if "edited" in wanted:
            raise pytest.Collector.CollectError(
                f"{locations.of_function(definition, root)}: {definition.name} uses the fixture 'edited', but no "
                "edit is declared: put @pytest.mark.edit(EditRequest(...)) or @pytest.mark.edit_sequence(...) on "
                "the test, on its class, or into the module's pytestmark."
            )
        if "editor" not in wanted:
            return
        declaration = NO_EDITS
        parameters = list(_parameters(declaration, selection))
    else:
        node, mark = found
        with _located(lambda: locations.of_mark(node, mark.name, root)):
            if sum(other.name in DECLARING for other in node.own_markers) > 1:
                raise EditguardError(
                    f"several edits are declared on {node.name}: give the edits of a batch to one mark, "
                    "edit(first, second), or write one test for each."
                )
            declaration = selection.declaration(mark)
            parameters = list(_parameters(declaration, selection))
    if wanted == ["original"]:
        hidden = pytest.param(unedited(declaration), id=pytest.HIDDEN_PARAM)
        metafunc.parametrize(wanted, [hidden], indirect=True, scope="function")
        return
    with _located(lambda: locations.of_function(definition, root)):
        must_hold_ids(definition.iter_markers("must_hold"))
        failures = known_failures(definition.iter_markers("known_failure"))
        for method in failures:
            if method != CANDIDATE:
                selection.checked(method)
    values = []
    for cell, marks in parameters:
        known = failures.get(cell.method)
        if known is not None and known.accepted(date.today()):
            marks = (*marks, pytest.mark.xfail(reason=known.reason, strict=True, raises=AssertionError))
        elif cell.method in selection.report_only:
            marks = (*marks, pytest.mark.xfail(reason="reported only, by the gate's policy", strict=False))
        if cell.method == CANDIDATE and "editor" in wanted:
            marks = (*marks, pytest.mark.skip(reason="applies edits itself, and a candidate is edited already"))
        values.append(pytest.param(*[cell] * len(wanted), marks=marks, id=cell.id))
    metafunc.parametrize(wanted, values, indirect=True, scope="function")


def _parameters(
    declaration: Declaration, selection: Selection
) -> Iterator[tuple[Cell, tuple[pytest.MarkDecorator, ...]]]:
    """The cells of a declaration, with a skip where the declaration's methods are not among the chosen ones."""
    selected = selection.methods()
    marks: tuple[pytest.MarkDecorator, ...] = ()
    asks_candidate = selection.configuration.candidate is not None
    if declaration.methods is not None and not asks_candidate:
        named = tuple(selection.checked(name) for name in declaration.methods)
        if selection.chosen:
            both = tuple(name for name in named if name in selected)
            if not both:
                reason = f"written for {', '.join(named)}; selected are {', '.join(selected)}"
                marks = (pytest.mark.skip(reason=reason),)
            named = both or named
        selected = named
    for name in declaration.settings:
        selection.checked(name)
    found = cells(declaration, selected, selection.configuration)
    for cell in found[-1:] if asks_candidate else found:
        yield cell, marks


def _own(definition: pytest.Item, name: str) -> bool:
    """Whether the test parametrises the argument itself."""
    for mark in definition.iter_markers("parametrize"):
        names = mark.args[0] if mark.args else mark.kwargs.get("argnames", ())
        if name in (names.replace(",", " ").split() if isinstance(names, str) else names):
            return True
    return False


def _is_ours(definition: pytest.Item, name: str) -> bool:
    """Whether the test gets editguard's fixture of that name, itself or through fixtures that build on it."""
    information: Any = getattr(definition, "_fixtureinfo", None)
    chain = information.name2fixturedefs.get(name, ()) if information is not None else ()
    for fixture in reversed(chain):
        if getattr(fixture.func, "__module__", None) == OURS:
            return True
        if name not in fixture.argnames:
            return False
    return False


@contextmanager
def _located(where: Callable[[], str]) -> Iterator[None]:
    """Turn an EditguardError into a collection error that begins with file and line."""
    try:
        yield
    except EditguardError as error:
        raise pytest.Collector.CollectError(f"{where()}: {error}") from None


def cell_of(item: pytest.Item | None) -> Cell | None:
    """The state of the model that a test looks at; None for a test without an edit."""
    parameters = getattr(getattr(item, "callspec", None), "params", None) or {}
    for name in PARAMETRISED:
        if isinstance(cell := parameters.get(name), Cell):
            return cell
    return None


def uses(item: pytest.Item, name: str) -> bool:
    """Whether a test gets editguard's fixture of that name."""
    return name in getattr(item, "fixturenames", ()) and _is_ours(item, name)


def concerns(item: pytest.Item) -> bool:
    """Whether a test has to do with editguard."""
    return cell_of(item) is not None or uses(item, "original") or uses(item, "baseline")


def expired_failure(item: pytest.Item) -> KnownFailure | None:
    """The known failure of a test whose day has passed."""
    if (cell := cell_of(item)) is None:
        return None
    known = known_failures(item.iter_markers("known_failure")).get(cell.method)
    return None if known is None or known.accepted(date.today()) else known


def needs_model(item: pytest.Item) -> bool:
    """Whether running a test loads the model."""
    if any(mark.name == "skip" for mark in item.iter_markers()):
        return False
    return any(uses(item, name) for name in ("edited", "editor", "original"))


def grouped(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """The items in a stable order that applies every group's edits once and lets sequences grow.

    Tests of one group stand together where the first of them stood, in a sequence by checkpoint; all others keep
    their place.
    """
    slots: dict[object, list[pytest.Item]] = {}
    for item in items:
        cell = cell_of(item)
        slots.setdefault(id(item) if cell is None else cell.group, []).append(item)
    for members in slots.values():
        if len(members) > 1:
            members.sort(key=_edits)
    return [item for members in slots.values() for item in members]


def _edits(item: pytest.Item) -> int:
    cell = cell_of(item)
    return 0 if cell is None else cell.edits


def groups(items: Iterable[pytest.Item]) -> dict[str, str]:
    """Group of every test with an edit, by node id."""
    return {item.nodeid: cell.group for item in items if (cell := cell_of(item)) is not None}


def planned_checks(items: Iterable[pytest.Item]) -> int:
    """How many tests will compare with a baseline: the family of the multiple-testing correction."""
    return sum(uses(item, "baseline") for item in items)


def shorten_report(report: pytest.CollectReport, collector: pytest.Collector) -> None:
    """Replace the traceback of an editguard mistake made while a suite was imported by one line that locates it."""
    call: Any = getattr(report, "call", None)
    error = getattr(call, "excinfo", None)
    if error is None or collector.config.getoption("fulltrace", False):
        return
    if isinstance(error.value, EditguardError):
        report.longrepr = f"{locations.of_error(collector, error)}: {error.value}"
