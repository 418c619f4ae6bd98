"""Several workers on one study: who holds the folder hands out items, writes what comes back, and replaces the lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from editguard.errors import WorkersLost
from editguard.study.folder import StudyFolder
from editguard.study.items import Item
from editguard.study.plan import Plan
from editguard.study.recording import Done, Recorder
from editguard.study.schedule import TRIES, Schedule
from editguard.study.worker import Failed, Finished, Forgotten, Message, Prepared, Ready, Told

if TYPE_CHECKING:
    from editguard.edits import EditCase


class Crew(Protocol):
    """Workers in other processes, known by numbers from 0 on. They can be lost at any moment."""

    def start(self, worker: int) -> None:
        """Have a worker begin; it says `Ready` and `Finished`, and waits."""

    def give(self, worker: int, item: Item | None) -> None:
        """Have a waiting worker do an item, or come to its end; it says `Finished` at last."""

    def receive(self, *, wait: bool = True) -> Sequence[tuple[int, Message]]:
        """What workers have said, in each one's order; waits until there is something. After `Lost` comes nothing."""

    def stop(self) -> None:
        """End all workers at once."""


def run_shared(
    crew: Crew,
    plan: Plan,
    cases: Sequence[EditCase],
    folder: StudyFolder,
    *,
    workers: int,
    told: Callable[[str], None],
) -> StudyFolder:
    """Carry out what of a plan the folder does not hold yet, as `run` does, in several processes.

    Args:
        crew: of which as many are started as there are items for.
        plan, cases: the same that the workers build for themselves; a difference is refused.
        folder: where the records go.
        workers: how many there may be.
        told: called with a line of text now and then.

    Raises:
        ConfigurationError, InvalidSettings, ModelChanged: see `run`.
        WorkersLost: workers were lost again and again; all that can be done without what they were at is done.
    """
    plan.refuse_too_few(cases)
    with folder.locked():
        recorder = Recorder(plan, cases, folder, told)
        items = recorder.items(workers=workers)
        shared = _Shared(crew, recorder, items, told)
        try:
            shared.run(min(workers, len(items)) or 1)
        except BaseException:
            shared.keep()
            raise
        finally:
            crew.stop()
        recorder.arrange()
        shared.refuse_given_up()
        recorder.forget_all()
    return folder


class _Shared:
    """A run under way."""

    def __init__(self, crew: Crew, recorder: Recorder, items: Sequence[Item], told: Callable[[str], None]) -> None:
        self._crew, self._recorder, self._told = crew, recorder, told
        self._schedule = Schedule(items)
        self._inbox: deque[tuple[int, Message]] = deque()
        self._free: set[int] = set()
        self._ending: set[int] = set()
        self._working: set[int] = set()
        self._failed_starts = 0
        self._begun = False
        self._why = ""

    def run(self, workers: int) -> None:
        """Until nothing is left to do, or to be done by anybody."""
        self._told(f"{workers} {'worker' if workers == 1 else 'workers'}, each with a model of its own")
        for worker in range(workers):
            self._crew.start(worker)
            self._working.add(worker)
        while self._working:
            self._inbox.extend(self._crew.receive())
            while self._inbox:
                self._take(*self._inbox[0])
                self._inbox.popleft()
            self._hand_out()

    def keep(self) -> None:
        """Write the parts that have been handed over and not written yet."""
        self._inbox.extend(self._crew.receive(wait=False))
        for _, message in self._inbox:
            if isinstance(message, Done):
                self._recorder.add(message)

    def refuse_given_up(self) -> None:
        """See that all was done.

        Raises: WorkersLost: it was not.
        """
        if self._schedule.given_up or not self._schedule.is_over:
            raise WorkersLost([str(item) for item in self._schedule.given_up], self._why, TRIES)

    def _hand_out(self) -> None:
        for worker in sorted(self._free):
            item = self._schedule.next_for(worker)
            if item is not None:
                self._free.remove(worker)
                self._crew.give(worker, item)
        if self._schedule.is_over and self._begun:
            for worker in self._free:
                self._crew.give(worker, None)
            self._ending |= self._free
            self._working &= self._ending  # those who come too late are not waited for
            self._free.clear()

    def _take(self, worker: int, message: Message) -> None:
        if isinstance(message, Done):
            self._recorder.add(message)
            for cell in message.cells:
                self._schedule.did(worker, (cell, message.name))
        elif isinstance(message, Told):
            self._told(message.line)
        elif isinstance(message, Prepared):
            self._recorder.prepared(message.method, message.cost)
            self._schedule.prepared(message.method)
        elif isinstance(message, Forgotten):
            self._recorder.forget(message.state)
        elif isinstance(message, Ready):
            self._recorder.folder.begin(message.header)
            self._failed_starts, self._begun = 0, True
        elif isinstance(message, Finished):
            self._finished(worker)
        elif isinstance(message, Failed):
            raise message.error or RuntimeError(f"worker {worker + 1} has failed:\n{message.traceback}")
        else:
            self._lost(worker, message.why)

    def _finished(self, worker: int) -> None:
        if worker in self._ending:
            self._working.discard(worker)
            return
        if self._schedule.holds(worker) is not None:
            self._schedule.finished(worker)
        self._free.add(worker)

    def _lost(self, worker: int, why: str) -> None:
        self._why = why
        if worker in self._ending:
            self._working.discard(worker)
            return
        at = self._schedule.holds(worker)
        left = self._schedule.lost(worker)
        self._failed_starts += at is None and worker not in self._free
        self._free.discard(worker)
        where = f" at {left}" if left is not None else " before it began" if at is None else ""
        self._told(f"warning: worker {worker + 1} was lost{where} ({why}); what it had not finished is done again")
        if self._schedule.is_over or self._failed_starts >= TRIES:
            self._working.discard(worker)
            return
        self._crew.start(worker)
