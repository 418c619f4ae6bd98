"""pytest-xdist: all tests of a group run on one worker, so that each group's edits are applied once.

The controller does not collect and sees node ids alone; each worker therefore writes down which of its tests belong to
which group, in a folder that the controller named, before it reports its collection. A run without edit tests keeps
the scheduler that it asked for.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling, Scheduling
from xdist.workermanage import WorkerController

if TYPE_CHECKING:
    from editguard.pytest_plugin.result_key import ResultKey

INPUT = "editguard_exchange"
GROUPS = "groups.json"
KEYS = "keys.json"
LOW_WATER = 2
"""A worker with no more tests than this waiting gets another unit."""


def exchange_folder(testrunuid: str) -> Path:
    """The folder through which workers tell the controller of their groups; nobody makes it in an unrelated run."""
    return Path(tempfile.gettempdir()) / f"editguard-{testrunuid}"


def tell_groups(folder: Path, groups: Mapping[str, str]) -> None:
    """Worker's side: write the group of every edit test, by node id; every worker writes the same."""
    from editguard.storage import write_atomically

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(folder / GROUPS, json.dumps(dict(groups), sort_keys=True))


def tell_keys(folder: Path, keys: Mapping[str, ResultKey]) -> None:
    """Worker's side: write what the results of every group depend on."""
    from editguard.storage import write_atomically

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(folder / KEYS, json.dumps({group: key.to_json() for group, key in keys.items()}))


def told_of(folder: Path) -> tuple[dict[str, str], dict[str, ResultKey]] | None:
    """Controller's side: the group of every edit test and the keys of groups; None where no worker has told yet."""
    from editguard.pytest_plugin.result_key import ResultKey

    try:
        groups = json.loads((folder / GROUPS).read_text(encoding="utf-8"))
        keys = json.loads((folder / KEYS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return groups, {group: ResultKey.from_json(key) for group, key in keys.items()}


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist is not typed for others
    """Whole groups go to one worker; every other test goes wherever there is room."""

    def __init__(self, config: pytest.Config, log: Producer | None, groups: Mapping[str, str]) -> None:
        super().__init__(config, log)
        self._groups = groups

    def _split_scope(self, nodeid: str) -> str:
        return self._groups.get(nodeid, nodeid)

    def _reschedule(self, node: WorkerController) -> None:
        """Give a worker units until it has enough to go on with: it runs a test only when it knows the next one."""
        if node.shutting_down:
            return
        while self.workqueue and self._pending_of(self.assigned_work[node]) <= LOW_WATER:
            self._assign_work_unit(node)
        if not self.workqueue:
            node.shutdown()

    def remove_node(self, node: WorkerController) -> str | None:
        """Take a worker out; what it has not run goes back to the queue, except the test that it crashed in."""
        units = self.assigned_work.pop(node)
        left = {
            scope: pending
            for scope, unit in units.items()
            if (pending := {nodeid: done for nodeid, done in unit.items() if not done})
        }
        if not left:
            return None
        scope = next(iter(left))
        crashed: str = next(iter(left[scope]))
        del left[scope][crashed]
        self.workqueue.update({scope: unit for scope, unit in left.items() if unit})
        for other in self.assigned_work:
            self._reschedule(other)
        return crashed


class Scheduler:
    """The asked-for scheduler, until the workers' collections show that there are groups to keep together."""

    def __init__(self, config: pytest.Config, log: Producer, plain: Scheduling) -> None:
        self._config, self._log, self._plain = config, log, plain
        self._inner: Scheduling = plain
        self._decided = False
        self._nodes: list[WorkerController] = []
        self._collections: list[tuple[WorkerController, Sequence[str]]] = []

    def add_node(self, node: WorkerController) -> None:
        if not self._decided:
            self._nodes.append(node)
        self._inner.add_node(node)

    def add_node_collection(self, node: WorkerController, collection: Sequence[str]) -> None:
        if not self._decided:
            self._collections.append((node, collection))
        self._inner.add_node_collection(node, collection)

    def schedule(self) -> None:
        if not self._decided:
            self._decide()
        self._inner.schedule()

    def remove_node(self, node: WorkerController) -> str | None:
        if not self._decided:
            self._nodes = [other for other in self._nodes if other is not node]
            self._collections = [pair for pair in self._collections if pair[0] is not node]
        crashed: str | None = self._inner.remove_node(node)
        return crashed

    def _decide(self) -> None:
        self._decided = True
        groups: dict[str, str] = {}
        for node in self._nodes:
            with contextlib.suppress(OSError, ValueError):
                groups = json.loads((Path(node.workerinput[INPUT]) / GROUPS).read_text(encoding="utf-8"))
                break
        if groups:
            grouped = GroupScheduling(self._config, self._log, groups)
            grouped.numnodes = getattr(self._plain, "numnodes", grouped.numnodes)
            for node in self._nodes:
                grouped.add_node(node)
            for node, collection in self._collections:
                grouped.add_node_collection(node, collection)
            self._inner = grouped
        self._nodes, self._collections = [], []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Distribution:
    """Hooks of pytest-xdist, registered only where that plugin is."""

    def __init__(self) -> None:
        self._folders: set[Path] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Producer) -> Any:
        """Put the grouping in front of the schedulers that spread tests over workers."""
        plain = yield
        if plain is None or config.getvalue("dist") not in ("load", "worksteal", "loadscope", "loadfile"):
            return plain
        return Scheduler(config, log, plain)

    def pytest_configure_node(self, node: WorkerController) -> None:
        """Tell a worker where to write its groups."""
        folder = exchange_folder(node.workerinput["testrunuid"])
        self._folders.add(folder)
        node.workerinput[INPUT] = str(folder)

    def pytest_unconfigure(self) -> None:
        """Remove what the workers wrote."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
