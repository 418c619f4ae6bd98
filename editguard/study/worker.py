"""What a process does that works on a study for another one, and what it says to that one.

It builds the model once, prepares a method before the first item of it, and hands over each part when it is finished.
How it and the other talk is not decided here.
"""

from __future__ import annotations

import os
import socket
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editguard.errors import ConfigurationError, EditguardError
from editguard.measurements import PhaseCost
from editguard.study.folder import StudyFolder
from editguard.study.items import Item
from editguard.study.plan import UNEDITED
from editguard.study.recording import Done

if TYPE_CHECKING:
    from editguard.edits import EditCase
    from editguard.models.language_model import LanguageModel
    from editguard.study.plan import Plan
    from editguard.study.running import Bench, Materials


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which of several processes one is.

    Attributes:
        number: from 0 on.
        workers: how many share the cores of its machine.
        threads: of the processor, for each; None shares the cores out, unless `OMP_NUM_THREADS` says how many.
    """

    number: int = 0
    workers: int = 1
    threads: int | None = None

    def use_threads(self) -> int:
        """Set how many threads this process computes with; returns how many."""
        import torch

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        elif self.workers > 1 and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, torch.get_num_threads() // self.workers))
        return torch.get_num_threads()

    def device(self, wanted: str) -> str:
        """Of several GPUs that are visible, each of several workers takes its own, in turns."""
        if self.workers > 1 and wanted in ("auto", "cuda"):
            import torch

            if (count := torch.cuda.device_count()) > 1:
                return f"cuda:{self.number % count}"
        return wanted


@dataclass(frozen=True)
class Setup:
    """All that a study is run with, in memory."""

    plan: Plan
    model: LanguageModel
    cases: Sequence[EditCase]
    materials: Materials


@dataclass(frozen=True)
class Sight:
    """A study's folder, and how it looks to the process that holds its lock; another machine may not see it.

    Attributes:
        folder: absolute.
        mark: of its lock file, the number and the time of change; None where there is none.
    """

    folder: Path
    mark: tuple[int, int] | None

    @classmethod
    def of(cls, folder: Path) -> Sight:
        """What this process sees."""
        try:
            found = (folder / ".lock").stat()
        except OSError:
            return cls(folder, None)
        return cls(folder, (found.st_ino, found.st_mtime_ns))

    @property
    def is_clear(self) -> bool:
        """Whether this process sees the same folder."""
        return self.mark is not None and Sight.of(self.folder) == self


Build = Callable[[Place], Setup]
"""Makes the same setup in every process; it is handed to processes by its name and arguments."""


# ---- what a worker says


@dataclass(frozen=True)
class Ready:
    """The model is there; what the study is of, as this process sees it."""

    header: dict[str, Any]


@dataclass(frozen=True)
class Told:
    """A line about the progress."""

    line: str


@dataclass(frozen=True)
class Prepared:
    """A method is ready, or has refused."""

    method: str
    cost: PhaseCost | None


@dataclass(frozen=True)
class Forgotten:
    """All parts of a state under way have been handed over."""

    state: str


@dataclass(frozen=True)
class Finished:
    """The item is done, and the worker waits for another."""


@dataclass(frozen=True)
class Failed:
    """The study cannot go on: an error, or the traceback of one that is no user's mistake."""

    error: EditguardError | None
    traceback: str


@dataclass(frozen=True)
class Lost:
    """The worker is no more; said by whoever has noticed."""

    why: str


Message = Ready | Told | Prepared | Done | Forgotten | Finished | Failed | Lost
Send = Callable[[Message], None]


# ---- what a worker does


class _Outlet:
    """A sink that hands everything over; states under way stay in the study's folder, where that can be seen."""

    def __init__(self, send: Send, sight: Sight, place: Place, threads: int) -> None:
        self._send = send
        self._by = {"threads": threads, "worker": place.number, "host": socket.gethostname()}
        self._own = None if sight.is_clear else tempfile.TemporaryDirectory(prefix="editguard-")
        self.states = StudyFolder(self._own.name if self._own is not None else sight.folder)
        self.original = f"{UNEDITED}-{place.number}"

    def prepared(self, method: str, cost: PhaseCost | None) -> None:
        """See `Sink`."""
        self._send(Prepared(method, cost))

    def add(self, done: Done) -> None:
        """See `Sink`."""
        self._send(replace(done, cost={**done.cost, **self._by}))
        if self._own is not None:
            self.states.forget_answers(done.cells[0].name)

    def forget(self, state: str) -> None:
        """See `Sink`; whoever writes the parts down forgets the state afterwards."""
        self._send(Forgotten(state))
        if self._own is not None:
            self.states.forget_state(state)


class Worker:
    """One model, and the items that are done on it; every error becomes a message.

    Args:
        build: makes the setup.
        place: which process this is.
        sight: of the study's folder; not written to but for states under way.
        send: takes the messages.
    """

    def __init__(self, build: Build, place: Place, sight: Sight, send: Send) -> None:
        self._build, self._place, self._sight, self._send = build, place, sight, send
        self._bench: Bench | None = None

    def begin(self) -> None:
        """Build the model and say what the study is of."""
        self._attempt(self._begin)

    def carry_out(self, item: Item) -> None:
        """Do an item, and say so."""
        assert self._bench is not None
        bench = self._bench
        self._attempt(lambda: bench.carry_out(item))

    def finish(self) -> None:
        """See that the model is as it was, and say so."""
        self._attempt(self._verify)

    def _begin(self) -> None:
        import torch

        from editguard.methods.registry import create
        from editguard.study.running import Bench, header

        threads = self._place.use_threads()
        try:
            setup = self._build(self._place)
        except (torch.OutOfMemoryError, MemoryError) as short:
            raise ConfigurationError(
                f"there is no memory for the model of worker {self._place.number + 1}: give fewer --workers, each of "
                "which holds a model of its own."
            ) from short
        plan, model = setup.plan, setup.model
        created = {name: create(name, plan.settings.get(name, {}), model) for name in plan.methods}
        sink = _Outlet(self._send, self._sight, self._place, threads)
        self._bench = Bench(plan, model, setup.cases, created, setup.materials, sink, self._tell)
        self._send(Ready(header(plan, model, setup.cases, setup.materials, created)))

    def _tell(self, line: str) -> None:
        self._send(Told(line))

    def _verify(self) -> None:
        if self._bench is not None:
            self._bench.verify()

    def _attempt(self, act: Callable[[], None]) -> None:
        try:
            act()
        except EditguardError as error:
            self._send(Failed(error, traceback.format_exc()))
        except Exception:
            self._send(Failed(None, traceback.format_exc()))
        else:
            self._send(Finished())
