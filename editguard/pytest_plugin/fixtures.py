"""What a test asks for by name: `edited`, `original`, `method`, `baseline`.

The first three are declared for the session but live as long as one test, because the plugin parametrises them per
test: hypothesis, which objects to fixtures of one function, takes them as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import pytest

from editguard.errors import EditguardError, MethodRefused, MissingMaterial
from editguard.pytest_plugin import state

if TYPE_CHECKING:
    from editguard.measurements import ModelUnderTest
    from editguard.pytest_plugin.baselines import Baseline
    from editguard.pytest_plugin.declarations import Cell
    from editguard.pytest_plugin.editor import Editor

Made = TypeVar("Made")


def _or_told(make: Callable[[], Made], method: str) -> Made:
    """What `make` returns; a refusal of the method skips the test, any other mistake fails it, in one line each."""
    told: EditguardError
    try:
        return make()
    except EditguardError as error:
        told = error
    if isinstance(told, MethodRefused) and not isinstance(told, MissingMaterial):
        pytest.skip(f"{state.REFUSED}{method}: {told}")
    pytest.fail(f"{type(told).__name__}: {told}", pytrace=False)


@pytest.fixture(scope="session")
def edited(request: pytest.FixtureRequest) -> ModelUnderTest:
    """The model with the declared edits in force, once per selected method (and checkpoint)."""
    __tracebackhide__ = True
    cell: Cell | None = getattr(request, "param", None)
    if cell is None:
        pytest.fail(
            "the fixture 'edited' must be an argument of the test (or of one of its fixtures), so that the test can "
            "be run once per editing method.",
            pytrace=False,
        )
    runtime = state.of(request.config).runtime
    return _or_told(lambda: runtime.enter(cell), cell.method)


@pytest.fixture(scope="session")
def editor(request: pytest.FixtureRequest) -> Editor:
    """Applies edits while the test runs: `with editor(edit_request) as edited: ...`; once per selected method."""
    __tracebackhide__ = True
    cell: Cell | None = getattr(request, "param", None)
    if cell is None:
        pytest.fail("the fixture 'editor' must be an argument of the test.", pytrace=False)
    runtime = state.of(request.config).runtime
    return _or_told(lambda: runtime.editor(cell), cell.method)


@pytest.fixture(scope="session")
def original(request: pytest.FixtureRequest) -> ModelUnderTest:
    """The unedited model; under an edit mark its measurements ask the same probes as those of `edited`."""
    __tracebackhide__ = True
    runtime = state.of(request.config).runtime
    return _or_told(lambda: runtime.original(getattr(request, "param", None)), "original")


@pytest.fixture(scope="session")
def method(request: pytest.FixtureRequest) -> str:
    """Name of the editing method that the test runs with."""
    cell: Cell | None = getattr(request, "param", None)
    if cell is None:
        pytest.fail("the fixture 'method' needs an edit mark on the test, its class or its module.", pytrace=False)
    return cell.method


@pytest.fixture
def baseline(request: pytest.FixtureRequest) -> Baseline:
    """Compares measurements with the accepted ones: `baseline.check(edited.locality())`."""
    from editguard.pytest_plugin.baselines import Baseline

    return Baseline(request.node, state.of(request.config))
