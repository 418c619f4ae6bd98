"""The search: bisection over prefixes for the edit at which a check begins to fail, then delta debugging.

It knows no model. Edits are places in a list, and `fails(subset)` says whether the check fails with those edits alone
in force. Two edits may be harmless alone and harmful together, so a set is looked for, not an edit.

Source: Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE Transactions on Software
Engineering 28 (2002), the algorithm ddmin.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

Subset = tuple[int, ...]
"""Places of edits, ascending."""
Fails = Callable[[Subset], bool]


class OutOfTime(Exception):
    """The time for the search is over."""


@dataclass(frozen=True)
class Suspects:
    """What a search has found.

    Attributes:
        first: place of the edit at which the check begins to fail: with those before it, it holds, and with it, it
            fails. None where the time did not suffice to say.
        edits: edits with which the check fails.
        minimal: whether without any one of them it is known to hold.
    """

    first: int | None
    edits: Subset
    minimal: bool


class Search:
    """Asks `fails` at most once for each subset, and no more when the time is over."""

    def __init__(
        self, fails: Fails, *, seconds: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare a search.

        Args:
            fails: whether the check fails with a subset in force.
            seconds: after which no further subset is tried; None for no limit.
            clock: seconds since any moment.
        """
        self._fails = fails
        self._clock = clock
        self._end = None if seconds is None else clock() + seconds
        self._known: dict[Subset, bool] = {}

    @property
    def tried(self) -> int:
        """How many subsets were tried."""
        return len(self._known)

    def fails(self, subset: Sequence[int]) -> bool:
        """Whether the check fails with a subset.

        Raises: OutOfTime: it is not known, and the time is over.
        """
        key = tuple(sorted(subset))
        if key not in self._known:
            self.check_time()
            self._known[key] = self._fails(key)
        return self._known[key]

    def check_time(self) -> None:
        """Raise OutOfTime when the time is over; for what takes long within `fails`, too."""
        if self._end is not None and self._clock() >= self._end:
            raise OutOfTime

    def run(self, count: int) -> Suspects:
        """Find a minimal set among `count` edits, with all of which the check fails and without any of which it holds.

        When the time is over, the smallest set found so far is returned.
        """
        low, smallest, first = 0, tuple(range(count)), None
        try:
            while len(smallest) - low > 1:
                middle = (low + len(smallest)) // 2
                if self.fails(range(middle)):
                    smallest = tuple(range(middle))
                else:
                    low = middle
            first = smallest[-1]
            smallest = self._with(first, smallest[:-1], best=smallest)
            rest = tuple(place for place in smallest if place != first)
            if rest and self.fails(rest):
                smallest = self._minimal(rest, lambda subset: subset)
        except _Stopped as stopped:
            return Suspects(first, stopped.best, False)
        except OutOfTime:
            return Suspects(first, smallest, False)
        return Suspects(first, smallest, True)

    def _with(self, first: int, others: Subset, *, best: Subset) -> Subset:
        """A minimal part of `others` that fails together with `first`, and `first`."""
        try:
            alone = self.fails((first,))
        except OutOfTime:
            raise _Stopped(best) from None
        return (first,) if alone else self._minimal(others, lambda subset: tuple(sorted((*subset, first))))

    def _minimal(self, present: Subset, whole: Callable[[Subset], Subset]) -> Subset:
        """ddmin: a part of `present`, not empty, of which no element can be left out; `whole(part)` is what is tried.

        Raises: _Stopped: with the smallest failing set.
        """
        parts = 2
        try:
            while len(present) > 1:
                chunks = _split(present, parts)
                rests = [tuple(place for place in present if place not in set(chunk)) for chunk in chunks]
                chunk = next((chunk for chunk in chunks if self.fails(whole(chunk))), None)
                if chunk is not None:
                    present, parts = chunk, 2
                    continue
                rest = next((rest for rest in rests if self.fails(whole(rest))), None) if parts > 2 else None
                if rest is not None:
                    present, parts = rest, max(parts - 1, 2)
                elif parts < len(present):
                    parts = min(2 * parts, len(present))
                else:
                    break
        except OutOfTime:
            raise _Stopped(whole(present)) from None
        return whole(present)


class _Stopped(Exception):
    def __init__(self, best: Subset) -> None:
        super().__init__()
        self.best = best


def _split(places: Subset, parts: int) -> list[Subset]:
    """Neighbouring parts of about the same length, none empty."""
    edges = [round(number * len(places) / parts) for number in range(parts + 1)]
    return [places[start:end] for start, end in pairwise(edges)]
