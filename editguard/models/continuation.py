"""Running again only what a change can reach: blocks from a layer on, positions from the change on.

Optimising a vector at the subject's last token (position s) of block l runs the model dozens of times, and under
the causal mask nothing below l or left of s ever changes. A `Continuation` computes that part once: attention keys
and values of all positions before s, and the input of block l from s on. Each further pass replays the blocks from
l on, at positions s and later, and applies the head only where logits are asked for. `FullForward` answers the same
questions with whole passes; it is the oracle, and the way out where a family's blocks cannot be replayed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from editguard.models.block_calls import BlockCall, recorded_calls
from editguard.models.hooks import first, replaced

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel


@dataclass(frozen=True)
class Row:
    """One row of a batch.

    Attributes:
        ids: its tokens.
        start: the first position at which anything will change.
        read: the positions, none before `start`, whose next-token logits are wanted.
    """

    ids: tuple[int, ...]
    start: int
    read: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.start < len(self.ids):
            raise ValueError(f"a row of {len(self.ids)} tokens cannot start at {self.start}")
        if not all(self.start <= position < len(self.ids) for position in self.read):
            raise ValueError(f"positions {self.read} to read, outside {self.start} to {len(self.ids) - 1}")


class FullForward:
    """Whole passes over right-padded rows: every block, every position, logits everywhere."""

    def __init__(self, model: LanguageModel, rows: Sequence[Row], layer: int = 0) -> None:
        del layer  # every block runs
        self._model = model
        self._ids = _right_padded([row.ids for row in rows], model.device)
        self._starts = torch.tensor([row.start for row in rows])
        self.row_of_read, self._read = _reads(rows, offset=0)

    def logits(self) -> Tensor:
        """Logits (reads, vocabulary) at the rows' `read` positions, row by row, under the hooks in force."""
        logits = _widened(self._model.logits(self._ids, torch.ones_like(self._ids)))
        return logits[self.row_of_read.to(logits.device), self._read.to(logits.device)]

    def at_reads(self, captured: Tensor) -> Tensor:
        """Of a module's captured tensor, the vectors (reads, width) at the rows' `read` positions, row by row."""
        return captured.reshape(*self._ids.shape, -1)[self.row_of_read, self._read]

    def at_start(self, captured: Tensor) -> Tensor:
        """Of a module's captured tensor, the vectors (rows, width) at the rows' starts."""
        grid = captured.reshape(*self._ids.shape, -1)
        return grid[torch.arange(len(grid)), self._starts]

    @contextmanager
    def added(self, module: nn.Module, vectors: Tensor) -> Iterator[None]:
        """Add vectors (rows, width) to the module's output at the rows' starts."""
        with _added(module, self._ids.shape, self._starts, vectors):
            yield


class Continuation:
    """Passes that start at block `layer`, and at each row's `start`.

    The rows of the batch are aligned on their starts: what comes before is padded on the left, the rest on the
    right, where the causal mask hides it. Between construction and use the model must not change anywhere except in
    block `layer` and above, at positions from `start` on.
    """

    def __init__(self, model: LanguageModel, rows: Sequence[Row], layer: int) -> None:
        self._model = model
        device = model.device
        suffix = _right_padded([row.ids[row.start :] for row in rows], device)
        self._shape = suffix.shape
        self.row_of_read, self._read = _reads(rows, offset=1)
        with torch.no_grad():
            self._past, past_mask = _prefix_states(model, [row.ids[: row.start] for row in rows])
            mask = torch.cat([past_mask, torch.ones_like(suffix)], dim=1)
            self._calls = _block_calls(model, suffix, mask, self._past, layer)
        self._layer = layer

    @property
    def dtype(self) -> torch.dtype:
        """Type of the residual stream."""
        return self._calls[0].hidden.dtype

    def states(self) -> Tensor:
        """The last block's output (rows, columns, d_model), columns counted from the starts."""
        cache = _cache_of(self._past, self._layer)
        hidden = self._calls[0].hidden
        for call in self._calls:
            hidden = first(call.run(hidden, lambda argument: cache if isinstance(argument, Cache) else argument))
        return hidden

    def logits(self) -> Tensor:
        """Logits (reads, vocabulary) at the rows' `read` positions, row by row, under the hooks in force."""
        hidden = self.states()
        wanted = hidden[self.row_of_read.to(hidden.device), self._read.to(hidden.device)]
        return _widened(self._model.anatomy.logits(wanted))

    def at_reads(self, captured: Tensor) -> Tensor:
        """Of a module's captured tensor, the vectors (reads, width) at the rows' `read` positions, row by row."""
        return captured.reshape(*self._shape, -1)[self.row_of_read, self._read]

    def at_start(self, captured: Tensor) -> Tensor:
        """Of a module's captured tensor, the vectors (rows, width) at the rows' starts."""
        return captured.reshape(*self._shape, -1)[:, 0]

    @contextmanager
    def added(self, module: nn.Module, vectors: Tensor) -> Iterator[None]:
        """Add vectors (rows, width) to the module's output at the rows' starts."""
        starts = torch.zeros(self._shape[0], dtype=torch.long)
        with _added(module, self._shape, starts, vectors):
            yield


Passes = Continuation | FullForward


def continued(model: LanguageModel, rows: Sequence[Row], layer: int) -> Passes:
    """Return a `Continuation`, or whole passes where the model's blocks cannot be replayed one by one.

    Whether they can is tried once per model, by comparing both on a few of these rows.
    """
    if _REPLAYABLE.get(model.module, True):
        try:
            tried = rows[:_TRIED_ROWS]
            if model.module in _REPLAYABLE or _agree(Continuation(model, tried, layer), FullForward(model, tried)):
                _REPLAYABLE[model.module] = True
                return Continuation(model, rows, layer)
        except (TypeError, ValueError, AttributeError, KeyError):  # blocks of another make
            pass
        _REPLAYABLE[model.module] = False
    return FullForward(model, rows)


_TRIED_ROWS: Final = 8
_REPLAYABLE: Final[WeakKeyDictionary[nn.Module, bool]] = WeakKeyDictionary()


def _agree(short: Continuation, full: FullForward) -> bool:
    with torch.no_grad():
        ours, theirs = short.logits(), full.logits()
    scale = theirs.abs().max().clamp_min(1e-6)
    coarsest = max(torch.finfo(short.dtype).eps, torch.finfo(torch.float32).eps)
    return bool((ours - theirs).abs().max() <= 64 * coarsest * scale)


_Past = list[tuple[Tensor, Tensor]]


def _prefix_states(model: LanguageModel, prefixes: Sequence[Sequence[int]]) -> tuple[_Past, Tensor]:
    """Attention keys and values of every layer for the tokens before the starts, aligned at their right ends.

    Returns the states of each layer, and the mask (rows, longest prefix) of the columns that hold one.

    The tokens run padded on the right, where the causal mask alone keeps padding out of sight: a row of attention
    that sees nothing is undefined in some implementations.
    """
    ids = _right_padded(prefixes, model.device)
    width = ids.shape[1]
    lengths = torch.tensor([len(prefix) for prefix in prefixes], device=ids.device)
    origin = torch.arange(width, device=ids.device) - (width - lengths[:, None])  # (rows, columns)
    mask = (origin >= 0).long()
    if not width:
        return [], mask
    cache = DynamicCache()
    model.forward(ids, torch.ones_like(ids), past=cache, use_cache=True)

    def aligned(states: Tensor) -> Tensor:
        column = origin.clamp(min=0).to(states.device)[:, None, :, None].expand_as(states)
        return states.gather(2, column).masked_fill(~mask.bool().to(states.device)[:, None, :, None], 0)

    layers = [layer for layer in cache.layers if isinstance(layer, DynamicLayer)]
    past = [
        (aligned(layer.keys), aligned(layer.values))
        for layer in layers
        if layer.keys is not None and layer.values is not None
    ]
    if len(past) != model.anatomy.layers:
        raise ValueError("the model does not keep keys and values of every layer")
    return past, mask


def _block_calls(model: LanguageModel, ids: Tensor, mask: Tensor, past: _Past, lowest: int) -> list[BlockCall]:
    """Run the tokens from the starts on, and keep what each block from `lowest` on was called with."""
    blocks = [model.anatomy.block(layer) for layer in range(lowest, model.anatomy.layers)]
    return recorded_calls(blocks, lambda: model.forward(ids, mask, past=_cache_of(past, 0), use_cache=True))


def _cache_of(past: _Past, lowest: int) -> Cache:
    """A cache that holds the constant states of the layers from `lowest` on, to be extended by one pass."""
    cache = DynamicCache()
    for number, (keys, values) in enumerate(past):
        layer = DynamicLayer()  # type: ignore[no-untyped-call]
        if number >= lowest:
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


@contextmanager
def _added(module: nn.Module, shape: torch.Size, starts: Tensor, vectors: Tensor) -> Iterator[None]:
    def change(output: Tensor) -> Tensor:
        grid = output.reshape(*shape, -1)
        places = torch.nn.functional.one_hot(starts, shape[1]).to(grid)  # (rows, columns)
        moved = grid + places[..., None] * vectors.to(grid)[:, None, :]
        return moved.reshape(output.shape)

    with replaced(module, change):
        yield


def _reads(rows: Sequence[Row], offset: int) -> tuple[Tensor, Tensor]:
    """(row, column) of every position to read; with offset 1 columns count from the row's start."""
    pairs = [(number, position - offset * row.start) for number, row in enumerate(rows) for position in row.read]
    table = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _right_padded(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    width = max(map(len, rows), default=0)
    ids = [[*row, *[0] * (width - len(row))] for row in rows]
    return torch.tensor(ids, device=device, dtype=torch.long).reshape(len(rows), width)


def _widened(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
