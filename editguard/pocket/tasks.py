"""Other tasks of the pocket model, to see whether an edit leaves them alone: lists, arithmetic, comparison, types.

Each item belongs to the training or to the held-out part by its own text, whatever was drawn before it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from editguard.pocket.splits import fraction
from editguard.pocket.world import World

HELD_OUT: Final = 0.2
_LARGEST_SUM: Final = 29
_LARGEST_MINUEND: Final = 40
_LARGEST_NUMBER: Final = 99
_TYPES: Final = {
    "person": "person",
    "city": "city",
    "country": "country",
    "university": "school",
    "company": "company",
    "language": "language",
    "occupation": "profession",
    "instrument": "instrument",
    "product": "product",
    "currency": "money",
    "alias": "stage name",
}


@dataclass(frozen=True, slots=True)
class TaskItem:
    """A prompt and its only right answer, to be written right after one space and closed by a full stop."""

    task: str
    prompt: str
    answer: str
    choices: tuple[str, ...] = ()
    """All answers to choose from, the right one included; empty for open tasks."""

    @property
    def held_out(self) -> bool:
        """Whether the corpus leaves this item out."""
        return fraction("task", self.task, self.prompt) < HELD_OUT


def _list_words(world: World) -> tuple[str, ...]:
    kinds = ("occupation", "instrument", "product", "industry")
    return tuple(entity.name for kind in kinds for entity in world.entities(kind))


def copy_item(world: World, rng: random.Random) -> TaskItem:
    words = rng.sample(_list_words(world), rng.randint(3, 5))
    return TaskItem("copy", f"Copy: {', '.join(words)}. Answer:", ", ".join(words))


def reverse_item(world: World, rng: random.Random) -> TaskItem:
    words = rng.sample(_list_words(world), rng.randint(3, 5))
    return TaskItem("reverse", f"Reverse: {', '.join(words)}. Answer:", ", ".join(reversed(words)))


def add_item(_world: World, rng: random.Random) -> TaskItem:
    one, other = rng.randint(0, _LARGEST_SUM), rng.randint(0, _LARGEST_SUM)
    return TaskItem("add", f"Question: What is {one} plus {other}? Answer:", str(one + other))


def subtract_item(_world: World, rng: random.Random) -> TaskItem:
    whole = rng.randint(0, _LARGEST_MINUEND)
    part = rng.randint(0, whole)
    return TaskItem("subtract", f"Question: What is {whole} minus {part}? Answer:", str(whole - part))


def compare_item(_world: World, rng: random.Random) -> TaskItem:
    one, other = rng.sample(range(_LARGEST_NUMBER + 1), 2)
    word, answer = rng.choice((("larger", max(one, other)), ("smaller", min(one, other))))
    return TaskItem(
        "compare", f"Question: Which number is {word}, {one} or {other}? Answer:", str(answer), (str(one), str(other))
    )


def type_item(world: World, rng: random.Random) -> TaskItem:
    kind = rng.choice(tuple(_TYPES))
    name = rng.choice(world.entities(kind)).name
    return TaskItem("type", f"Question: What kind of thing is {name}? Answer:", _TYPES[kind], tuple(_TYPES.values()))


TASKS: Final[Mapping[str, Callable[[World, random.Random], TaskItem]]] = {
    "copy": copy_item,
    "reverse": reverse_item,
    "add": add_item,
    "subtract": subtract_item,
    "compare": compare_item,
    "type": type_item,
}


def task_items(world: World, task: str, rng: random.Random, count: int, *, held_out: bool) -> Iterator[TaskItem]:
    """Draw `count` different items of a task from one side of the split.

    Raises: KeyError: no such task. A task with fewer items than `count` stops at all that a long search finds.
    """
    seen: set[str] = set()
    for _ in range(100 * count):
        item = TASKS[task](world, rng)
        if item.held_out == held_out and item.prompt not in seen:
            seen.add(item.prompt)
            yield item
            if len(seen) == count:
                return
