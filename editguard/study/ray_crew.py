"""Workers as actors on a Ray cluster, each with its GPU or a part of one; what they say comes as a stream.

Needs the extra `ray`. Ray is told to repeat nothing by itself: who hands out the work knows which parts are complete.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from editguard.errors import ConfigurationError
from editguard.study.items import Item
from editguard.study.worker import Build, Failed, Lost, Message, Place, Sight, Worker

MOST_SINGLE_STEP: Final = 64
"""Messages that are taken from one worker before the others are looked at."""


def require_ray() -> ModuleType:
    """Ray itself.

    Raises: ConfigurationError: it is not installed.
    """
    try:
        import ray
    except ImportError:
        raise ConfigurationError("--engine ray needs Ray: pip install 'editguard[ray]'") from None
    found: ModuleType = ray
    return found


class RayCrew:
    """See `Crew`; `connect` first.

    Args:
        build: makes the setup, in each process; a function that can be imported on every machine, and its arguments.
        folder: of the study; another machine that does not see it keeps states under way for itself.
        threads: of the processor, for each worker, which Ray sets aside.
        gpus: for each worker; a fraction lets several share one. None is one where the cluster has any.
    """

    def __init__(self, build: Build, folder: Path, *, threads: int = 1, gpus: float | None = None) -> None:
        self._ray: Any = require_ray()
        self._build, self._folder, self._threads, self._gpus = build, folder, threads, gpus
        self._actors: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}
        self._own = False

    def connect(self, address: str | None) -> int:
        """Join a cluster; without an address the one of `RAY_ADDRESS`, or one on this machine.

        Returns how many workers it has room for.

        Raises: ConfigurationError: there is none at the address, or it has no room for a worker.
        """
        ray = self._ray
        if address is not None and address.startswith("ray://"):
            raise ConfigurationError(
                f"--ray-address {address} is that of a Ray client, which cannot stream: give the command on a machine "
                "of the cluster, with --ray-address auto."
            )
        try:
            if not ray.is_initialized():
                ray.init(address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=None)
                self._own = True
            resources = ray.cluster_resources()
        except Exception as problem:  # Ray raises plain ones too, such as when a machine is too slow to begin
            said = (str(problem).strip().splitlines() or ["no answer"])[0]
            raise ConfigurationError(f"no Ray cluster answers at {address or 'the default address'}: {said}") from None
        room = int(resources.get("CPU", 0.0) // self._threads)
        if self._gpus is None:
            self._gpus = 1.0 if resources.get("GPU", 0.0) >= 1 else 0.0
        if self._gpus:
            room = min(room, int(resources.get("GPU", 0.0) / self._gpus + 1e-9))
        if room < 1:
            raise ConfigurationError(
                f"the Ray cluster has no room for a worker with {self._threads} CPUs and {self._gpus:g} GPUs: it has "
                f"{resources.get('CPU', 0.0):g} CPUs and {resources.get('GPU', 0.0):g} GPUs."
            )
        return room

    def start(self, worker: int) -> None:
        """See `Crew`."""
        place = Place(number=worker, threads=self._threads)
        actor = self._ray.remote(_Actor).options(
            num_cpus=self._threads,
            num_gpus=self._gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        self._actors[worker] = actor.remote(self._build, place, Sight.of(self._folder))
        self._stream(worker, self._actors[worker].begin)

    def give(self, worker: int, item: Item | None) -> None:
        """See `Crew`."""
        actor = self._actors[worker]
        if item is None:
            self._stream(worker, actor.finish)
        else:
            self._stream(worker, actor.carry_out, item)

    def receive(self, *, wait: bool = True) -> Sequence[tuple[int, Message]]:
        """See `Crew`."""
        found: list[tuple[int, Message]] = []
        while not found and self._streams:
            streams = list(self._streams.values())
            ready, _ = self._ray.wait(streams, num_returns=1 if wait else len(streams), timeout=None if wait else 0)
            if not ready and not wait:
                break
            for worker in [number for number, stream in self._streams.items() if stream in ready]:
                found += [(worker, message) for message in self._taken(worker)]
        return found

    def stop(self) -> None:
        """See `Crew`."""
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()
        self._streams.clear()

    def close(self) -> None:
        """Leave the cluster; one that `connect` has started ends."""
        if self._own:
            self._ray.shutdown()

    def _stream(self, worker: int, method: Any, *arguments: object) -> None:
        self._streams[worker] = method.options(num_returns="streaming").remote(*arguments)

    def _taken(self, worker: int) -> Iterator[Message]:
        """What a stream holds by now; the stream goes when it ends."""
        stream = self._streams[worker]
        for _ in range(MOST_SINGLE_STEP):
            try:
                yield self._ray.get(next(stream))
            except StopIteration:
                del self._streams[worker]
                return
            except self._ray.exceptions.RayTaskError as problem:
                del self._streams[worker]
                yield Failed(None, str(problem))
                return
            except self._ray.exceptions.RayError as problem:
                del self._streams[worker], self._actors[worker]
                yield Lost(_why(str(problem)))
                return
            if not self._ray.wait([stream], timeout=0)[0]:
                return


class _Actor:
    """A `Worker` whose messages are a stream."""

    def __init__(self, build: Build, place: Place, sight: Sight) -> None:
        self._said: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._worker = Worker(build, place, sight, self._said.put)

    def begin(self) -> Iterator[Message]:
        """See `Worker`, as the other two."""
        yield from self._streamed(self._worker.begin)

    def carry_out(self, item: Item) -> Iterator[Message]:
        yield from self._streamed(lambda: self._worker.carry_out(item))

    def finish(self) -> Iterator[Message]:
        yield from self._streamed(self._worker.finish)

    def _streamed(self, act: Any) -> Iterator[Message]:
        """What the worker says while it acts."""

        def acting() -> None:
            try:
                act()
            finally:
                self._said.put(None)

        thread = threading.Thread(target=acting, daemon=True)
        thread.start()
        while (message := self._said.get()) is not None:
            yield message
        thread.join()


def _why(said: str) -> str:
    """The line of what Ray says of a lost actor that tells why: the error that kept it from beginning, or the first."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["lost"]
    return lines[-1] if "creation task" in lines[0] else lines[0]
