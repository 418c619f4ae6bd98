"""`--editguard-resume`: groups of tests that an earlier run has finished are reported from its journal, not run again.

All processes of a run see the same journals, as long as they were when the run began, and decide alike; each replays
the groups that it would have run. Tests without an edit belong to no group: they always run.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from editguard.errors import CacheError, ConfigurationError
from editguard.pytest_plugin import collection
from editguard.pytest_plugin.content import shown
from editguard.pytest_plugin.journal import Finished, Part, parts_of
from editguard.pytest_plugin.result_key import ResultKey, result_keys
from editguard.pytest_plugin.run_parts import THREADS

if TYPE_CHECKING:
    from editguard.pytest_plugin.keeping import Keeper
    from editguard.pytest_plugin.state import State

INPUT = "editguard_journals"
THREADS_INPUT = "editguard_threads"
MOST_REASONS = 5


@dataclass
class Decision:
    """What is taken from journals.

    Attributes:
        taken: group -> its line.
        reasons: group -> why it is run again.
        damage: what could not be read, in sentences.
    """

    taken: dict[str, Finished] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    damage: list[str] = field(default_factory=list)

    def lines(self, root: Path) -> list[str]:
        """What to tell the user."""
        tests = sum(len(each.tests) for each in self.taken.values())
        paths = sorted({each.path for each in self.taken.values()}, reverse=True)
        found = "resumed: no group taken from a journal"
        if paths:
            taken = f"{_count(tests, 'test')} of {_count(len(self.taken), 'group')}"
            found = f"resumed: {taken} taken from {shown(paths[0], root)}"
            found += f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        if self.reasons:
            told = Counter(self.reasons.values()).most_common()
            listed = [f"{count}: {reason}" for reason, count in told[:MOST_REASONS]]
            listed += [f"{sum(count for _, count in told[MOST_REASONS:])}: other"] if told[MOST_REASONS:] else []
            found += f"; {_count(len(self.reasons), 'group')} run again ({'; '.join(listed)})"
        return [found, *(f"resumed: {sentence}" for sentence in self.damage)]


def decide(keys: Mapping[str, ResultKey], parts: Sequence[Part]) -> Decision:
    """Which groups are taken: those of which a journal has a line whose key is the present one; the latest counts."""
    decision = Decision()
    known: dict[str, list[Finished]] = {}
    for part in parts:
        try:
            found, damaged = part.finished()
        except CacheError as error:
            decision.damage.append(str(error))
            continue
        if damaged:
            decision.damage.append(f"{_count(damaged, 'line')} of {part.path} cut short or damaged, left out")
        for each in found:
            known.setdefault(each.group, []).append(each)
    for group, key in keys.items():
        lines = known.get(group, ())
        same = [line for line in lines if line.key == key.parts]
        if key.unknown:
            decision.reasons[group] = key.unknown
        elif same:
            decision.taken[group] = same[-1]
        else:
            decision.reasons[group] = key.difference(lines[-1].key) if lines else "not finished in any journal"
    return decision


class Resuming:
    """In a process that runs tests: what is taken, and its reports in the place of running."""

    def __init__(self, present: State, parts: Sequence[Part], keeper: Keeper | None = None) -> None:
        """Args: keeper: of the same process; None where another one keeps the journal."""
        self.keys: dict[str, ResultKey] = {}
        self.decision = Decision()
        self._state, self._parts, self._keeper = present, parts, keeper
        self._open: tuple[str, dict[str, list[dict[str, Any]]]] | None = None

    def collected(self, session: pytest.Session) -> None:
        """Make the keys of all groups, and decide."""
        self.keys = result_keys(session.items, self._state, session.config)
        self.decision = decide(self.keys, self._parts)
        if self._keeper is not None and self.keys:
            self._keeper.begin(collection.groups(session.items), self.keys, self.decision)

    def takes(self, item: pytest.Item) -> bool:
        """Whether a test is reported from a journal."""
        cell = collection.cell_of(item)
        return cell is not None and cell.group in self.decision.taken

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Report what the journal says of the test, as if it had run now."""
        told = self._told_of(item)
        if told is None:
            return None
        replay(item, nextitem, told)
        return True

    def _told_of(self, item: pytest.Item) -> list[dict[str, Any]] | None:
        cell = collection.cell_of(item)
        if cell is None or cell.group not in self.decision.taken:
            self._open = None
            return None
        if self._open is None or self._open[0] != cell.group:
            try:
                self._open = cell.group, self.decision.taken[cell.group].reports()
            except CacheError:
                self._open = None
                del self.decision.taken[cell.group]
                return None
        return self._open[1].pop(item.nodeid, None)


def replay(item: pytest.Item, nextitem: pytest.Item | None, told: Sequence[Mapping[str, Any]]) -> None:
    """Send a test's reports, and tear down what earlier tests have set up and the next one does not need.

    Should that fail, the test's teardown has failed, as where it is run.
    """
    hook, session = item.ihook, item.session
    reports = [item.config.hook.pytest_report_from_serializable(config=item.config, data=dict(each)) for each in told]
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    before = [report for report in reports if report.when != "teardown"]
    for report in before:
        hook.pytest_runtest_logreport(report=report)
    following = None if session.shouldfail or session.shouldstop else nextitem
    call = pytest.CallInfo.from_call(
        lambda: session._setupstate.teardown_exact(following),
        when="teardown",
        reraise=(pytest.exit.Exception, KeyboardInterrupt),
    )
    after = [report for report in reports if report.when == "teardown"]
    if call.excinfo is not None:
        after = [hook.pytest_runtest_makereport(item=item, call=call)]
    for report in after:
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


def begin(config: pytest.Config, present: State) -> None:
    """Look for journals, and register what replays and what keeps one, where each belongs."""
    asked = present.configuration
    if asked.journal is None:
        return
    keeper: Keeper | None = None
    given: dict[str, Any] | None = getattr(config, "workerinput", None)
    distributed = config.getoption("dist", "no") != "no"
    if given is not None:
        parts = [Part(Path(path), length) for path, length in given.get(INPUT, ())]
        present.runtime.threads_before = given.get(THREADS_INPUT)
    elif config.getoption("dist", "no") == "each":
        if asked.resume:
            raise ConfigurationError("--editguard-resume does not go with --dist=each, which runs every test twice.")
        return
    else:
        from editguard.pytest_plugin.keeping import Keeper

        parts = parts_of(asked.journal) if asked.resume else []
        if asked.resume:
            present.runtime.threads_before = _threads_before(present, parts)
        keeper = Keeper(config, present, parts)
        config.pluginmanager.register(keeper, "editguard-keeper")
    if given is not None or not distributed:
        present.resuming = Resuming(present, parts, keeper)
        config.pluginmanager.register(present.resuming, "editguard-resuming")


def _threads_before(present: State, parts: Sequence[Part]) -> int | None:
    """The threads of each process in the latest run that has a journal, unless the user says how many."""
    if present.configuration.threads is not None or "OMP_NUM_THREADS" in os.environ:
        return None
    for part in reversed(parts):
        try:
            found, _ = part.finished()
        except CacheError:
            continue
        if found:
            return int(found[-1].key[THREADS])
    return None


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
