"""Which process does which item next, and what happens to the items of a process that is lost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from editguard.study.items import Item
from editguard.study.plan import UNEDITED, Cell

TRIES: Final = 3
"""So many processes may be lost over an item without finishing one of its parts."""


@dataclass
class _Given:
    """An item in the hands of a process."""

    item: Item
    tries: int
    done: set[tuple[Cell, str]] = field(default_factory=set)


class Schedule:
    """Items that wait, and those in the hands of workers, which are known by numbers.

    A worker stays with its method, whose preparation it has in memory. When nothing of that waits, it takes a method
    that nobody has begun, else it helps where most waits. While a method is prepared for the first time, no other
    worker gets an item of it: it will find the data of the first one in the cache.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self._waiting: list[_Given] = [_Given(item, 0) for item in items]
        self._given: dict[int, _Given] = {}
        self._last: dict[int, str] = {}
        self._begun: set[str] = set()
        self._prepared = {UNEDITED}
        self.given_up: list[Item] = []

    @property
    def is_over(self) -> bool:
        """Whether nothing waits and nothing is in anybody's hands."""
        return not self._waiting and not self._given

    def holds(self, worker: int) -> Item | None:
        """What is in the hands of a worker."""
        given = self._given.get(worker)
        return given.item if given is not None else None

    def next_for(self, worker: int) -> Item | None:
        """Give a worker something to do; None where there is nothing for now."""
        preparing = {given.item.method for given in self._given.values()} - self._prepared
        waiting: dict[str, list[_Given]] = defaultdict(list)
        for given in self._waiting:
            if given.item.method not in preparing:
                waiting[given.item.method].append(given)
        if not waiting:
            return None
        method = self._last.get(worker, "")
        if method not in waiting:
            fresh = [name for name in waiting if name not in self._begun]
            method = fresh[0] if fresh else max(waiting, key=lambda name: sum(one.item.amount for one in waiting[name]))
        chosen = max(waiting[method], key=lambda given: given.item.amount)
        self._waiting.remove(chosen)
        self._given[worker] = chosen
        self._last[worker] = method
        self._begun.add(method)
        return chosen.item

    def prepared(self, method: str) -> None:
        """The data of a method is there for others."""
        self._prepared.add(method)

    def did(self, worker: int, part: tuple[Cell, str]) -> None:
        """A worker has finished a part of its item."""
        self._given[worker].done.add(part)

    def finished(self, worker: int) -> None:
        """A worker has finished its item."""
        del self._given[worker]

    def lost(self, worker: int) -> Item | None:
        """A worker is gone: what its item lacks waits again, unless it was tried too often; returns what is lacking."""
        self._last.pop(worker, None)
        given = self._given.pop(worker, None)
        left = given.item.without(given.done) if given is not None else None
        if given is None or left is None:
            return None
        tries = 1 if given.done else given.tries + 1
        if tries < TRIES:
            self._waiting.append(_Given(left, tries))
        else:
            self.given_up.append(left)
        return left
