"""In the controlling process: the journal of the run, to which each group goes when its last test has finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from editguard.errors import EditguardError
from editguard.pytest_plugin.journal import Journal, Part, Unwritable, encoded, line_of
from editguard.pytest_plugin.resuming import INPUT, THREADS_INPUT, Decision, decide
from editguard.storage import OWN_FOLDER, working_folder

if TYPE_CHECKING:
    from editguard.pytest_plugin.result_key import ResultKey
    from editguard.pytest_plugin.state import State

OF_XDIST = ("node", "worker_id", "testrun_uid", "item_index")
"""What pytest-xdist notes on reports for itself."""
AT_ONCE = 64


class Keeper:
    """Hears all reports, whichever process they come from, and keeps those of finished groups."""

    def __init__(self, config: pytest.Config, present: State, parts: Sequence[Part]) -> None:
        self._config, self._state, self._parts = config, present, parts
        assert present.configuration.journal is not None
        self._journal = Journal(present.configuration.journal)
        self._keys: dict[str, ResultKey] | None = None
        self._group_of: dict[str, str] = {}
        self._waiting: dict[str, set[str]] = {}
        self._told: dict[str, dict[str, list[str]]] = {}
        self._failed = False

    # ---- before the first test

    def pytest_report_collectionfinish(self) -> list[str]:
        """What is taken, before the tests run."""
        return [f"editguard: {line}" for line in self._state.told]

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker of pytest-xdist which journals count, and how many threads it has."""
        node.workerinput[INPUT] = [[str(part.path), part.length] for part in self._parts]
        node.workerinput[THREADS_INPUT] = self._state.runtime.threads_before

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any) -> None:
        """With workers: the groups are those that the first of them to be ready has told."""
        from editguard.pytest_plugin.distribution import INPUT as EXCHANGE
        from editguard.pytest_plugin.distribution import told_of

        if self._keys is None and (told := told_of(Path(node.workerinput[EXCHANGE]))) is not None:
            self.begin(*told, decide(told[1], self._parts))

    def begin(self, groups: Mapping[str, str], keys: Mapping[str, ResultKey], decision: Decision) -> None:
        """Expect the tests of all groups; what is taken from earlier journals goes to this one at once.

        Args:
            groups: node id -> group.
        """
        self._keys = dict(keys)
        if self._state.configuration.resume:
            self._state.told += decision.lines(self._config.rootpath)
        taken = list(decision.taken.values())
        for start in range(0, len(taken), AT_ONCE):
            self._add([each.line() for each in taken[start : start + AT_ONCE]])
        for test, group in groups.items():
            if group in keys and group not in decision.taken and not keys[group].unknown:
                self._group_of[test] = group
                self._waiting.setdefault(group, set()).add(test)

    # ---- while tests run

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Any:
        """Take a copy before others take parts off the report."""
        group = self._group_of.get(report.nodeid)
        if group is not None:
            try:
                data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
                if data is None or data.get("$report_type") != "TestReport":
                    raise Unwritable("a report of a kind of its own, such as that of a subtest")
                text = encoded({name: value for name, value in data.items() if name not in OF_XDIST})
                self._told.setdefault(group, {}).setdefault(report.nodeid, []).append(text)
            except Exception:  # whatever a report holds that cannot be written down, its test does not fail for it
                self._forget(group)
        return (yield)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """A test has reported all its phases; the last one of a group brings it to the journal."""
        group = self._group_of.pop(nodeid, None)
        if group is None:
            return
        self._waiting[group].discard(nodeid)
        if not self._waiting[group]:
            del self._waiting[group]
            told = self._told.pop(group)
            assert self._keys is not None
            key = self._keys.pop(group)
            if key.settled():
                self._add([line_of(group, key.parts, told)])

    def pytest_unconfigure(self) -> None:
        """Let go of the journal."""
        self._journal.close()

    def _add(self, lines: Sequence[bytes]) -> None:
        """Bring lines to the disk; where that fails the run goes on, and says so once."""
        try:
            if self._journal.path.parent.is_relative_to(self._config.rootpath / OWN_FOLDER):
                working_folder(self._config.rootpath)
            self._journal.add(lines)
        except EditguardError as error:
            if not self._failed:
                self._failed = True
                self._state.told.append(f"journal: {error}")

    def _forget(self, group: str) -> None:
        """A group that cannot be written down is run again by whoever resumes."""
        self._group_of = {test: other for test, other in self._group_of.items() if other != group}
        self._waiting.pop(group, None)
        self._told.pop(group, None)
