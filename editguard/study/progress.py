"""How far a study is, and how long it will take at the pace so far."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable


class Estimate:
    """Amounts of work per method, expected and done; a method's own pace counts once it has one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._expected: dict[str, int] = defaultdict(int)
        self._done: dict[str, int] = defaultdict(int)
        self._seconds: dict[str, float] = defaultdict(float)
        self._parts = self._all_parts = 0
        self._last = clock()

    def expect(self, method: str, amount: int) -> None:
        """Note work to come: one part."""
        self._expected[method] += amount
        self._all_parts += 1

    def did(self, method: str, amount: int) -> None:
        """Note that a part is done; the time since the last one was spent on it."""
        now = self._clock()
        self._seconds[method] += now - self._last
        self._last = now
        self._done[method] += amount
        self._parts += 1

    @property
    def seconds_left(self) -> float:
        """What is left at the pace of each method, or of all of them where a method has none yet."""
        done = sum(self._done.values())
        overall = sum(self._seconds.values()) / done if done else 0.0
        return sum(
            (amount - self._done[method])
            * (self._seconds[method] / self._done[method] if self._done[method] else overall)
            for method, amount in self._expected.items()
        )

    def text(self) -> str:
        """Such as "12 of 340 parts, about 25 min left"."""
        return f"{self._parts} of {self._all_parts} parts, about {duration(self.seconds_left)} left"


def duration(seconds: float) -> str:
    """Seconds in the largest unit that gives at least two of it."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
