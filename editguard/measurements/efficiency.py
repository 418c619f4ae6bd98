"""Efficiency: seconds, memory and energy of preparing, editing and evaluating, kept apart.

Survey, section 4: the time of applying edits after any training, on one machine; the training's time separate; the
peak of the device's memory while editing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any, Final, Literal, Self, get_args

from editguard.measurements import energy, host_memory
from editguard.measurements.devices import accelerator, now

Phase = Literal["prepare", "edit", "evaluate"]
PHASES: Final[tuple[Phase, ...]] = get_args(Phase)


@dataclass(kw_only=True)
class PhaseCost:
    """What one phase took; phases do not overlap, because each starts the peaks anew.

    Attributes:
        method: the editing method's name.
        phase: preparation, one application, or evaluation.
        edits: requests applied in the phase; 0 for the others.
        seconds: wall clock, with the devices' queues emptied at both ends.
        host_peak_bytes: largest resident size of the process so far.
        host_phase_peak_bytes: the same during the phase; None where the system cannot tell, and in records of earlier
            versions.
        device_peak_bytes: most bytes allocated on accelerators during the phase; None without one.
        device_reserved_bytes: most bytes that the allocator held there during the phase; None without one.
        joules: energy of the devices that hold memory of this process; None where one of them does not tell.
        kept_bytes: what the edit leaves behind, where known.
    """

    method: str
    phase: Phase
    edits: int = 0
    seconds: float = 0.0
    host_peak_bytes: int = 0
    host_phase_peak_bytes: int | None = None
    device_peak_bytes: int | None = None
    device_reserved_bytes: int | None = None
    joules: float | None = None
    kept_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote, in this version or an earlier one."""
        return cls(**record)


@contextmanager
def phase(method: str, name: Phase, *, edits: int = 0) -> Iterator[PhaseCost]:
    """Time a block, its peak memory and its energy; the record is complete when the block ends, however it ends."""
    cost = PhaseCost(method=method, phase=name, edits=edits)
    cuda = accelerator()
    devices = [] if cuda is None else range(cuda.device_count())
    now()  # what was begun before is no part of the phase
    for device in devices:
        cuda.reset_peak_memory_stats(device)
    from_here = host_memory.start_anew()
    joules = {} if cuda is None else energy.counters(cuda)
    start = now()
    try:
        yield cost
    finally:
        cost.seconds = now() - start
        if cuda is not None:
            held = {device: cuda.max_memory_reserved(device) for device in devices}
            cost.device_peak_bytes = sum(cuda.max_memory_allocated(device) for device in devices)
            cost.device_reserved_bytes = sum(held.values())
            used = [device for device in devices if held[device]]
            cost.joules = energy.joules_between(joules, energy.counters(cuda), used)
        cost.host_phase_peak_bytes = host_memory.peak_since() if from_here else None
        cost.host_peak_bytes = host_memory.peak_bytes()


@dataclass(frozen=True, kw_only=True)
class PhaseTotal:
    """What all phases of one kind took together.

    Attributes:
        seconds: summed.
        host_peak_bytes, device_peak_bytes, device_reserved_bytes: the largest during one of them, as far as known.
        joules: summed; None where one of them is unknown.
    """

    seconds: float
    host_peak_bytes: int | None
    device_peak_bytes: int | None
    device_reserved_bytes: int | None
    joules: float | None


@dataclass(frozen=True, kw_only=True)
class Applications:
    """Applications of one number of edits at once, without the method's first, which pays caches, if there are others.

    Attributes:
        edits: of one application.
        times: how many applications the figures are of.
        median_seconds, quartiles: seconds per edit; no quartiles of a single application.
    """

    edits: int
    times: int
    median_seconds: float
    quartiles: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class EfficiencySummary:
    """Costs of one method over a run.

    Attributes:
        method: its name.
        edits: how many were applied.
        first_seconds: per edit of the first application, apart because it pays caches.
        applications: the others, by the number of edits of one application.
        median_seconds, quartiles: per edit, over all of these.
        phases: totals of each kind of phase that there was.
        host_peak_bytes: largest resident size of the process so far.
    """

    method: str
    edits: int
    first_seconds: float | None
    applications: tuple[Applications, ...]
    median_seconds: float | None
    quartiles: tuple[float, float] | None
    phases: Mapping[Phase, PhaseTotal]
    host_peak_bytes: int

    @property
    def preparation_seconds(self) -> float:
        """Of all preparations."""
        return self._seconds("prepare")

    @property
    def evaluation_seconds(self) -> float:
        """Of all evaluations."""
        return self._seconds("evaluate")

    @property
    def device_peak_bytes(self) -> int | None:
        """Most bytes allocated on accelerators during any phase."""
        return known_max(total.device_peak_bytes for total in self.phases.values())

    def _seconds(self, name: Phase) -> float:
        return self.phases[name].seconds if name in self.phases else 0.0


def summarise(costs: Sequence[PhaseCost]) -> list[EfficiencySummary]:
    """Sum up the phases per method, in the order in which methods first appear."""
    return [
        _summary(method, [cost for cost in costs if cost.method == method])
        for method in dict.fromkeys(cost.method for cost in costs)
    ]


def _summary(method: str, costs: Sequence[PhaseCost]) -> EfficiencySummary:
    applied = [cost for cost in costs if cost.phase == "edit" and cost.edits]
    later = applied[1:] or applied
    middle, quartiles = _spread([cost.seconds / cost.edits for cost in later])
    return EfficiencySummary(
        method=method,
        edits=sum(cost.edits for cost in applied),
        first_seconds=applied[0].seconds / applied[0].edits if applied else None,
        applications=tuple(_applications(applied)),
        median_seconds=middle,
        quartiles=quartiles,
        phases={name: _total(chosen) for name in PHASES if (chosen := [cost for cost in costs if cost.phase == name])},
        host_peak_bytes=max((cost.host_peak_bytes for cost in costs), default=0),
    )


def _applications(applied: Sequence[PhaseCost]) -> Iterator[Applications]:
    for size in sorted({cost.edits for cost in applied}):
        alike = [cost for cost in applied if cost.edits == size]
        later = [cost for cost in alike if cost is not applied[0]] or alike
        middle, quartiles = _spread([cost.seconds / size for cost in later])
        assert middle is not None
        yield Applications(edits=size, times=len(later), median_seconds=middle, quartiles=quartiles)


def _spread(numbers: Sequence[float]) -> tuple[float | None, tuple[float, float] | None]:
    """Median and quartiles."""
    found = quantiles(numbers, n=4, method="inclusive") if len(numbers) > 1 else None
    return (median(numbers) if numbers else None), (None if found is None else (found[0], found[2]))


def _total(costs: Sequence[PhaseCost]) -> PhaseTotal:
    joules = [cost.joules for cost in costs if cost.joules is not None]
    return PhaseTotal(
        seconds=sum(cost.seconds for cost in costs),
        host_peak_bytes=known_max(cost.host_phase_peak_bytes for cost in costs),
        device_peak_bytes=known_max(cost.device_peak_bytes for cost in costs),
        device_reserved_bytes=known_max(cost.device_reserved_bytes for cost in costs),
        joules=sum(joules) if len(joules) == len(costs) else None,
    )


def known_max(values: Iterable[int | None]) -> int | None:
    """The largest of those that are known; None where none is."""
    return max((value for value in values if value is not None), default=None)
