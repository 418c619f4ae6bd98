"""In the controlling process: gathering what tests measured, the last word on all checks, the summary."""

from __future__ import annotations

from typing import Any

import pytest

from editguard.pytest_plugin import state


class Reporter:
    def __init__(self, config: pytest.Config, present: state.State) -> None:
        self._config, self._state = config, present

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        notes: Any = report.__dict__.pop(state.ATTACHED, None)
        del notes
