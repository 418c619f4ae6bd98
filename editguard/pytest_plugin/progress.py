"""Saying what takes long: a bar where someone watches, one plain line per long phase elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

LONG = 5.0
"""Seconds after which a finished phase is worth a line."""


class Progress:
    """Writes beside pytest's own output; silent under `-q`, without a terminal reporter and on xdist workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @property
    def _reporter(self) -> Any:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        return None if self._config.get_verbosity() < 0 else reporter

    @property
    def _live(self) -> bool:
        return self._reporter is not None and self._reporter.isatty and sys.__stderr__ is not None

    @contextlib.contextmanager
    def phase(self, what: str, steps: int = 0) -> Iterator[Callable[..., None]]:
        """Run a phase of work; the yielded function is called at each step, with a line of text if there is one.

        Args:
            what: the work in a few words, such as "rome: applying 50 edits".
            steps: how many calls there will be; 0 when unknown.
        """
        started = time.perf_counter()
        bar: Any = None

        def step(text: str | None = None) -> None:
            nonlocal bar
            if not self._live or time.perf_counter() - started < 1.0:
                return
            with self._uncaptured():
                if bar is None:
                    from tqdm import tqdm

                    bar = tqdm(total=steps or None, desc=what, file=sys.__stderr__, leave=False)
                if text:
                    bar.set_postfix_str(text, refresh=False)
                bar.update()

        try:
            yield step
        finally:
            if bar is not None:
                with self._uncaptured():
                    bar.close()
        seconds = time.perf_counter() - started
        if self._reporter is not None and (seconds >= LONG or self._config.get_verbosity() > 0):
            with self._uncaptured():
                self._reporter.ensure_newline()
                self._reporter.write_line(f"editguard: {what} took {seconds:.1f} s")

    def _uncaptured(self) -> contextlib.AbstractContextManager[None]:
        capture: Any = self._config.pluginmanager.get_plugin("capturemanager")
        if capture is None:
            return contextlib.nullcontext()
        disabled: contextlib.AbstractContextManager[None] = capture.global_and_fixture_disabled()
        return disabled
