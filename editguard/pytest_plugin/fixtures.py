"""What a test asks for by name: `edited`, `original`, `method`, `baseline`.

The first three are declared for the session but live as long as one test, because the plugin parametrises them per
test: hypothesis, which objects to fixtures of one function, takes them as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from editguard.errors import EditguardError, MethodRefused
from editguard.pytest_plugin import state

if TYPE_CHECKING:
    from editguard.measurements import ModelUnderTest
    from editguard.pytest_plugin.baselines import Baseline
    from editguard.pytest_plugin.declarations import Cell
    from editguard.pytest_plugin.editor import Editor


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
    try:
        return state.of(request.config).runtime.enter(cell)
    except MethodRefused as refused:
        pytest.skip(f"{state.REFUSED}{cell.method}: {refused}")
    except EditguardError as error:
        pytest.fail(f"{type(error).__name__}: {error}", pytrace=False)


@pytest.fixture(scope="session")
def editor(request: pytest.FixtureRequest) -> Editor:
    """Applies edits while the test runs: `with editor(edit_request) as edited: ...`; once per selected method."""
    __tracebackhide__ = True
    cell: Cell | None = getattr(request, "param", None)
    if cell is None:
        pytest.fail("the fixture 'editor' must be an argument of the test.", pytrace=False)
    try:
        return state.of(request.config).runtime.editor(cell)
    except MethodRefused as refused:
        pytest.skip(f"{state.REFUSED}{cell.method}: {refused}")
    except EditguardError as error:
        pytest.fail(f"{type(error).__name__}: {error}", pytrace=False)


@pytest.fixture(scope="session")
def original(request: pytest.FixtureRequest) -> ModelUnderTest:
    """The unedited model; under an edit mark its measurements ask the same probes as those of `edited`."""
    __tracebackhide__ = True
    try:
        return state.of(request.config).runtime.original(getattr(request, "param", None))
    except EditguardError as error:
        pytest.fail(f"{type(error).__name__}: {error}", pytrace=False)


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
