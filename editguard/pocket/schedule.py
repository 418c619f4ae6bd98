"""The learning rate: a short rise, a long plateau, and a fall whose beginning alone depends on the number of steps.

Until the fall begins a run does not know how long it will be, so one long run holds every shorter one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """A trapezoid over `steps` steps, as a factor of the peak learning rate."""

    steps: int
    warm_up: int = 200
    decay: float = 0.25
    """Fraction of the steps over which the rate falls, linearly."""
    final: float = 0.02
    """What the last step gets, relative to the peak."""

    @property
    def decay_start(self) -> int:
        """The first step, from 0, whose rate depends on `steps`."""
        return self.steps - int(self.steps * self.decay)

    def factor(self, step: int) -> float:
        """The rate at a step, counted from 0, relative to the peak."""
        if step < min(self.warm_up, self.decay_start):
            return (step + 1) / self.warm_up
        if step < self.decay_start:
            return 1.0
        progress = (step + 1 - self.decay_start) / (self.steps - self.decay_start)
        start = min(1.0, self.decay_start / self.warm_up)
        return start + (self.final - start) * progress
