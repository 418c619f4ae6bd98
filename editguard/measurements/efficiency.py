"""Efficiency: seconds and memory of preparing, editing and evaluating, kept apart, and what an edit makes of a pass.

Survey, section 4: the time of applying edits after any training, on one machine; the training's time separate; the
peak of the device's memory while editing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any, Final, Literal, Protocol, Self

Phase = Literal["prepare", "edit", "evaluate"]
PASSES: Final = 3
"""Of each state that are timed, after one that is not."""


@dataclass(kw_only=True)
class PhaseCost:
    """What one phase took.

    Attributes:
        method: the editing method's name.
        phase: preparation, one application, or evaluation.
        edits: requests applied in the phase; 0 for the others.
        seconds: wall clock, with the devices' queues emptied at both ends.
        host_peak_bytes: largest resident size of the process so far.
        device_peak_bytes: most bytes allocated on accelerators during the phase; None without one.
        device_reserved_bytes: most bytes reserved there; None without one.
        kept_bytes: what the edit leaves behind, where known.
    """

    method: str
    phase: Phase
    edits: int = 0
    seconds: float = 0.0
    host_peak_bytes: int = 0
    device_peak_bytes: int | None = None
    device_reserved_bytes: int | None = None
    kept_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(**record)


@contextmanager
def phase(method: str, name: Phase, *, edits: int = 0) -> Iterator[PhaseCost]:
    """Time a block and its peak memory; the record is complete when the block ends, however it ends."""
    cost = PhaseCost(method=method, phase=name, edits=edits)
    cuda = _accelerator()
    start = _now()
    if cuda is not None:
        for device in range(cuda.device_count()):
            cuda.reset_peak_memory_stats(device)
    try:
        yield cost
    finally:
        cost.seconds = _now() - start
        if cuda is not None:
            devices = range(cuda.device_count())
            cost.device_peak_bytes = sum(cuda.max_memory_allocated(device) for device in devices)
            cost.device_reserved_bytes = sum(cuda.max_memory_reserved(device) for device in devices)
        cost.host_peak_bytes = host_peak_bytes()


class Passing(Protocol):
    """A model that can be brought into force and run over prompts."""

    def activate(self) -> None:
        """Bring the physical model to this one's edits."""

    def next_tokens(self, prompts: Sequence[str], k: int = ...) -> object:
        """Run the prompts once, and return the k most likely next tokens."""


@dataclass(frozen=True, kw_only=True)
class AnsweringCost:
    """What one pass over some prompts takes with edits in force, and without, one right after the other.

    Attributes:
        prompts: how many there are; they run in batches.
        edited_seconds, unedited_seconds: per prompt, the median of a few passes. Where the edits write the prompts
            anew, that is part of it, and so are the tokens that they add.
    """

    prompts: int
    edited_seconds: float
    unedited_seconds: float

    @property
    def spent(self) -> float:
        """About how many seconds the timing itself took, with the passes that are not counted."""
        return (1 + PASSES) * self.prompts * (self.edited_seconds + self.unedited_seconds)

    @property
    def ratio(self) -> float:
        """How many times as long the edited model takes."""
        return self.edited_seconds / self.unedited_seconds

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(**record)


def answering_cost(
    edited: Passing, unedited: Passing, prompts: Sequence[str], *, passes: int = PASSES
) -> AnsweringCost:
    """Time passes of two states of one model over the same prompts; the first pass of each is not counted.

    Afterwards the edited state is in force.

    Raises: ValueError: there is no prompt.
    """
    if not prompts:
        raise ValueError("without a prompt there is no pass to time.")
    found = []
    try:
        for model in (edited, unedited):
            model.activate()
            times = []
            for _ in range(1 + passes):
                start = _now()
                model.next_tokens(prompts, 1)
                times.append(_now() - start)
            found.append(median(times[1:]) / len(prompts))
    finally:
        edited.activate()
    return AnsweringCost(prompts=len(prompts), edited_seconds=found[0], unedited_seconds=found[1])


def host_peak_bytes() -> int:
    """The largest resident size that this process has had; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _now() -> float:
    """The time in seconds at which all that was begun is done, on the devices too."""
    cuda = _accelerator()
    if cuda is not None:
        for device in range(cuda.device_count()):
            cuda.synchronize(device)
    return time.perf_counter()


def _accelerator() -> Any:
    """`torch.cuda` when torch is loaded and has a device in use; loading it is not this module's business."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return torch.cuda


@dataclass(frozen=True, kw_only=True)
class EfficiencySummary:
    """Costs of one method over a run; seconds per edit, the first application apart because it pays caches."""

    method: str
    preparation_seconds: float
    edits: int
    first_seconds: float | None
    median_seconds: float | None
    quartiles: tuple[float, float] | None
    evaluation_seconds: float
    host_peak_bytes: int
    device_peak_bytes: int | None


def summarise(costs: Sequence[PhaseCost]) -> list[EfficiencySummary]:
    """Sum up the phases per method, in the order in which methods first appear."""
    return [
        _summary(method, [cost for cost in costs if cost.method == method])
        for method in dict.fromkeys(cost.method for cost in costs)
    ]


def _summary(method: str, costs: Sequence[PhaseCost]) -> EfficiencySummary:
    applied = [cost for cost in costs if cost.phase == "edit" and cost.edits]
    per_edit = [cost.seconds / cost.edits for cost in applied]
    later = per_edit[1:] or per_edit
    spread = quantiles(later, n=4, method="inclusive") if len(later) > 1 else None
    device = [cost.device_peak_bytes for cost in costs if cost.device_peak_bytes is not None]
    return EfficiencySummary(
        method=method,
        preparation_seconds=sum(cost.seconds for cost in costs if cost.phase == "prepare"),
        edits=sum(cost.edits for cost in applied),
        first_seconds=per_edit[0] if per_edit else None,
        median_seconds=median(later) if later else None,
        quartiles=(spread[0], spread[2]) if spread is not None else None,
        evaluation_seconds=sum(cost.seconds for cost in costs if cost.phase == "evaluate"),
        host_peak_bytes=max((cost.host_peak_bytes for cost in costs), default=0),
        device_peak_bytes=max(device) if device else None,
    )
