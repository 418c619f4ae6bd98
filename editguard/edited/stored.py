"""How large is what edits leave behind: the memory of the numbers that their changes hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from editguard.models.language_model import Change


def stored_bytes(changes: Iterable[Change]) -> int | None:
    """Return the bytes of all numbers that the changes hold, what several of them share counted once.

    Found are the tensors in a dataclass's fields, and in mappings, lists and tuples there. A change that is no
    dataclass tells by a function `stored_tensors()`; None where there is one that does not. Text, such as that of a
    prompt memory, is not counted, nor is the model itself.
    """
    changes = list(changes)
    if not all(is_dataclass(change) or hasattr(change, "stored_tensors") for change in changes):
        return None
    spans: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for tensor in _tensors(changes):
        if tensor.numel():
            spans[tensor.untyped_storage().data_ptr()].append(_span(tensor))
    return sum(_covered(of_storage) for of_storage in spans.values())


def _tensors(things: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors that things are made of; one that several of them hold is looked into once."""
    waiting, seen = list(things), set[int]()
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, Tensor):
            yield thing
        elif id(thing) not in seen:
            seen.add(id(thing))
            waiting.extend(_parts(thing))


def _parts(thing: Any) -> Iterable[Any]:
    if hasattr(thing, "stored_tensors"):
        parts: Iterable[Any] = thing.stored_tensors()
        return parts
    if is_dataclass(thing) and not isinstance(thing, type):
        return [getattr(thing, field.name) for field in fields(thing)]
    if isinstance(thing, Mapping):
        return thing.values()
    return thing if isinstance(thing, list | tuple | set | frozenset) else ()


def _span(tensor: Tensor) -> tuple[int, int]:
    """The bytes of its storage from a tensor's first number to behind its last."""
    first = int(tensor.storage_offset())
    behind = first + 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return first * tensor.element_size(), behind * tensor.element_size()


def _covered(spans: list[tuple[int, int]]) -> int:
    """How many bytes lie in any of the spans."""
    total, reached = 0, 0
    for start, end in sorted(spans):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total
