"""A codebook at one matrix: where a prompt comes near a stored key, a learned vector takes the place of the output.

Source: Hartvigsen, Sankaranarayanan, Palangi, Kim, Ghassemi, "Aging with GRACE: Lifelong Model Editing with Discrete
Key-Value Adaptors", NeurIPS 2023, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

import torch
from torch import Tensor

from editguard.edited.routed import RoutedChange

if TYPE_CHECKING:
    from editguard.models.anatomy import Matrix
    from editguard.models.reading import Reading

Replacement = Literal["replace_last", "replace_prompt", "replace_all"]
"""Which outputs the value replaces: that of the prompt's last token; those of the prompt's tokens before it; all."""

ROUNDING: Final = 8.0
"""How far a product of d terms may be off, in units of sqrt(d) times the rounding of one of them."""

_MEASURED_AT_ONCE: Final = 1 << 24
"""Numbers in the differences that are formed at a time."""


def nearest(queries: Tensor, keys: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distance (rows,) from each query to its nearest key, and that key's number (rows,), the first of
    several at one distance.

    One matrix product sorts out the candidates: all keys that its rounding leaves possible, mostly one. These are
    measured again by their differences, since a difference of squares is wrong by far more than a radius where norms
    are large.

    Args:
        queries: (rows, d_in), at least float32.
        keys: (entries, d_in), of the same type; at least one.
        squares: (entries,), the keys' squared norms.
    """
    lengths = torch.linalg.vector_norm(queries, dim=1)[:, None]
    rough = squares - 2 * (keys @ queries.T).T  # the squared distance, less the query's own square
    doubt = _rounding(keys) * (squares + 2 * lengths * squares.sqrt())
    lowest = rough - doubt
    possible = lowest <= (rough + doubt).min(dim=1, keepdim=True).values
    count = max(1, int(possible.sum(dim=1).max()))
    candidates = lowest.topk(count, dim=1, largest=False).indices.sort(dim=1).values
    step = max(1, _MEASURED_AT_ONCE // max(1, queries.numel()))
    distances = torch.cat(
        [torch.linalg.vector_norm(keys[part] - queries[:, None], dim=2) for part in candidates.split(step, dim=1)],
        dim=1,
    )
    best = distances.argmin(dim=1, keepdim=True)
    return distances.gather(1, best)[:, 0], candidates.gather(1, best)[:, 0]


def _rounding(keys: Tensor) -> float:
    coarse = keys.is_cuda and keys.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    unit = 2.0**-11 if coarse else torch.finfo(keys.dtype).eps / 2
    return ROUNDING * math.sqrt(keys.shape[1]) * unit


class KeyBuffer:
    """Keys in one contiguous tensor that doubles when it is full; the versions of a codebook share it.

    Args:
        keys: (entries, d_in), at least float32; the first ones.
    """

    def __init__(self, keys: Tensor) -> None:
        self.length = len(keys)
        self._keys = keys.detach().clone()
        self._squares = self._keys.square().sum(dim=1)

    @property
    def width(self) -> int:
        """d_in."""
        return self._keys.shape[1]

    def rows(self, length: int) -> Tensor:
        """The first keys, (length, d_in), a view."""
        return self._keys[:length]

    def extended(self, length: int, key: Tensor) -> KeyBuffer:
        """Return a buffer that holds the first `length` keys and then this one (d_in,).

        It is this buffer, unless another version has already gone on from there: then a copy.
        """
        if length != self.length:
            return KeyBuffer(self._keys[:length]).extended(length, key)
        if length == len(self._keys):
            room = max(8, 2 * length)
            for name in ("_keys", "_squares"):
                full = getattr(self, name)
                wider = full.new_zeros(room, *full.shape[1:])
                wider[:length] = full
                setattr(self, name, wider)
        self._keys[length] = key.detach().to(self._keys)
        self._squares[length] = self._keys[length].square().sum()
        self.length += 1
        return self

    def nearest(self, length: int, queries: Tensor) -> tuple[list[float], list[int]]:
        """Return distance and number of each query's nearest key among the first `length`, at least one."""
        keys, squares = (part[:length].to(queries.device) for part in (self._keys, self._squares))
        distances, numbers = nearest(queries.to(keys.dtype), keys, squares)
        return distances.tolist(), numbers.tolist()


@dataclass(frozen=True)
class Member:
    """A prompt that an entry was made, or widened, to answer.

    Attributes:
        prompt: its tokens.
        distance: of its query from the entry's key.
    """

    prompt: tuple[int, ...]
    distance: float = 0.0


@dataclass(frozen=True, eq=False)
class Entry:
    """What belongs to one key.

    Attributes:
        value: (d_out,), at least float32; what the matrix puts out near the key.
        radius: how near, up to and including this distance.
        label: token ids of the answer.
        members: the prompts that the value was trained on.
    """

    value: Tensor
    radius: float
    label: tuple[int, ...]
    members: tuple[Member, ...]


class Codebook(RoutedChange):
    """One version of a codebook: the entries of the version before, and those that an edit has set anew or added.

    Versions share the keys, which never change, and the entries that they have in common.

    Args:
        keys: holds the keys of all entries, the newer ones behind.
        changed: number of an entry -> the entry, where it is another one than in `continues`.
        continues: the version before, or None.
    """

    def __init__(
        self,
        matrix: Matrix,
        replacement: Replacement,
        keys: KeyBuffer,
        changed: Mapping[int, Entry],
        continues: Codebook | None = None,
    ) -> None:
        super().__init__(matrix)
        self.replacement = replacement
        self.keys = keys
        self.changed = MappingProxyType(dict(changed))
        self.continues = continues
        self.size: int = max([continues.size if continues else 0, *(number + 1 for number in changed)])
        self._entries: list[Entry] | None = None

    @property
    def entries(self) -> Sequence[Entry]:
        """All entries, by their keys' numbers."""
        if self._entries is None:
            versions: list[Codebook] = [self]
            while versions[-1]._entries is None and versions[-1].continues is not None:
                versions.append(versions[-1].continues)
            table = dict(enumerate(versions[-1]._entries or ()))
            for version in reversed(versions):
                table.update(version.changed)
            self._entries = [table[number] for number in range(self.size)]
        return self._entries

    def stored_tensors(self) -> list[Tensor]:
        """The keys, and the values that this version has set or added."""
        return [self.keys.rows(self.size), *(entry.value for entry in self.changed.values())]

    def bytes(self) -> int:
        """What all keys, values and radii take, those of the versions before included."""
        keys = self.size * self.keys.width * self.keys.rows(0).element_size()
        return keys + sum(entry.value.numel() * entry.value.element_size() + 8 for entry in self.entries)

    def decide(self, entering: Tensor, reading: Reading) -> list[int]:
        """Return the number of the nearest entry where the prompt's last token comes within its radius, else -1."""
        ends = reading.ends
        assert ends is not None
        if not self.size:
            return [-1] * len(ends)
        queries = entering[torch.arange(len(ends)), ends.to(entering.device)]
        distances, numbers = self.keys.nearest(self.size, queries.to(torch.promote_types(queries.dtype, torch.float32)))
        radii = [self.entries[number].radius for number in numbers]
        return [
            number if distance <= radius else -1
            for number, distance, radius in zip(numbers, distances, radii, strict=True)
        ]

    def act(self, entering: Tensor, output: Tensor, decided: Tensor, reading: Reading) -> Tensor | None:
        """Put the entries' values where `replacement` says."""
        del entering
        places = replaced_places(reading, output.shape[1], self.replacement)
        if places is None:
            return None
        values = output.new_zeros(len(decided), output.shape[-1])
        for row, number in enumerate(decided.tolist()):
            if number >= 0:
                values[row] = self.entries[number].value.to(output)
        chosen = places.to(output.device) & (decided >= 0).to(output.device)[:, None]
        return torch.where(chosen[..., None], values[:, None], output)

    def _rest(self) -> None:
        super()._rest()
        self._entries = None  # the version in force alone keeps a table


def replaced_places(reading: Reading, columns: int, replacement: Replacement) -> Tensor | None:
    """Return which tokens (rows, columns) of a pass have their output replaced; None where none has."""
    if reading.prompts is None:
        return torch.ones(1, columns, dtype=torch.bool) if replacement == "replace_all" else None
    ends = reading.ends
    assert ends is not None
    place = torch.arange(columns, device=ends.device)
    if replacement == "replace_last":
        return place == ends[:, None]
    if replacement == "replace_prompt":
        return reading.prompts & (place < ends[:, None])
    return reading.prompts | (place > ends[:, None])
