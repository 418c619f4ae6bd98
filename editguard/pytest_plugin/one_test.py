"""Running a test from a command, and taking from its reports which edits were found to blame."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import pytest

from editguard.errors import ConfigurationError
from editguard.pytest_plugin.state import ATTACHED


def findings_of(test: str, arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Run a test with pytest and return what was found, as plain data; known failures fail like any other test.

    Raises: ConfigurationError: pytest could not run it.
    """
    listener = _Listener()
    ours = ["--runxfail", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    ours.append("--editguard-journal=off")
    status = pytest.main([test, *ours, *arguments], plugins=[listener])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise ConfigurationError(f"pytest could not run {test}: exit status {int(status)}; see above.")
    return listener.findings


class _Listener:
    """Copies what was found from the reports, before the plugin takes it off them."""

    def __init__(self) -> None:
        self.findings: list[dict[str, Any]] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, object, object]:
        self.findings += report.__dict__.get(ATTACHED, {}).get("findings", ())
        return (yield)
