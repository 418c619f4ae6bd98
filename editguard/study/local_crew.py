"""Workers as processes on this machine, each with a pipe of its own: one that is killed harms nobody else's."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from editguard.study.items import Item
from editguard.study.worker import Build, Lost, Message, Place, Sight, Worker

PATIENCE: Final = 2.0
"""Seconds that workers have to come to an end before they are killed."""


class LocalCrew:
    """See `Crew`.

    Args:
        build: makes the setup, in each process; a function that can be imported, and its arguments.
        folder: of the study.
        workers: how many share the cores.
        threads: of each; None for a share of the cores.
    """

    def __init__(self, build: Build, folder: Path, *, workers: int, threads: int | None = None) -> None:
        self._build, self._folder, self._count, self._threads = build, folder, workers, threads
        self._workers: dict[int, tuple[SpawnProcess, Connection]] = {}

    def start(self, worker: int) -> None:
        """See `Crew`."""
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        place = Place(number=worker, workers=self._count, threads=self._threads)
        process = context.Process(
            target=_serve,
            args=(there, self._build, place, Sight.of(self._folder)),
            name=f"editguard-{worker + 1}",
            daemon=True,
        )
        with _ignoring_interrupts():
            process.start()
        there.close()
        self._workers[worker] = process, here

    def give(self, worker: int, item: Item | None) -> None:
        """See `Crew`."""
        with contextlib.suppress(OSError, KeyError):  # it is lost, which `receive` says
            self._workers[worker][1].send(item)

    def receive(self, *, wait: bool = True) -> Sequence[tuple[int, Message]]:
        """See `Crew`."""
        found: list[tuple[int, Message]] = []
        ready = self._ready(None if wait else 0)
        for worker, (process, here) in list(self._workers.items()):
            if here not in ready and process.sentinel not in ready:
                continue
            ended = process.sentinel in ready
            if ended:
                process.join()  # so that all it has said is in the pipe
            try:
                while here.poll():
                    found.append((worker, here.recv()))
            except (EOFError, OSError):
                ended = True
            if ended:
                found.append((worker, self._buried(worker)))
        return found

    def stop(self) -> None:
        """See `Crew`."""
        for process, _ in self._workers.values():
            process.terminate()
        for process, here in self._workers.values():
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()
            here.close()
        self._workers.clear()

    def _ready(self, seconds: float | None) -> Sequence[object]:
        waited = [each for process, here in self._workers.values() for each in (here, process.sentinel)]
        return wait(waited, seconds)

    def _buried(self, worker: int) -> Lost:
        process, here = self._workers.pop(worker)
        here.close()
        process.join(PATIENCE)
        process.kill()
        process.join()
        code = process.exitcode or 0
        return Lost(f"killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with status {code}")


def _serve(there: Connection, build: Build, place: Place, sight: Sight) -> None:
    """The life of a worker's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        worker = Worker(build, place, sight, there.send)
        worker.begin()
        while (item := there.recv()) is not None:
            worker.carry_out(item)
        worker.finish()
    except (EOFError, OSError):
        sys.exit(1)  # nobody listens any more
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Ctrl-C is for the one who hands out the work; processes that are started meanwhile ignore it from the first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """End in order, so that files that are being written are taken away."""
    del frame
    sys.exit(128 + number)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
