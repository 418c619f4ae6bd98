"""Passes over prompts and the answers behind them, for any model, that run no more than a change can reach.

What trains a change anywhere in block `layer` or above reads the logits of the answers' tokens again and again, each
behind the tokens before it. For a decoder alone that is a `Continuation` from the rows' beginnings. With an encoder
there are two stacks, whose layers are counted through: a change in the decoder leaves all that the encoder says
constant, one in the encoder moves what every block of the decoder attends to. `WholeAnswerPasses` runs everything every
time; it is the oracle, and the way out where a model's blocks cannot be replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from editguard.models.block_calls import BlockCall, recorded_calls
from editguard.models.continuation import FullForward, Row, continued
from editguard.models.generation import right_padded
from editguard.models.hooks import first

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel
    from editguard.models.streams import ForcedRow, Source

Pair = tuple[Sequence[int], Sequence[int]]
"""A prompt and an answer in tokens, as `LanguageModel.encode_answer` gives them."""


class AnswerPasses(Protocol):
    """Passes over some pairs of prompt and answer, under the hooks and weights in force."""

    def logits(self) -> Tensor:
        """Logits (answer tokens of all pairs, vocabulary), pair by pair, at least float32."""

    def at_reads(self, captured: Tensor) -> Tensor:
        """Of what a module of the decoder was captured with during `logits`, the vectors (answer tokens, width)."""


def answer_passes(model: LanguageModel, pairs: Sequence[Pair], layer: int) -> AnswerPasses:
    """Return passes that start at block `layer`, of the encoder or of the decoder.

    Every answer's token is predicted behind the ones before it; all but the last of an answer are fed. Between the call
    and the use of the passes the model must not change below the layer.
    """
    rows = _forced(model, pairs)
    if not model.anatomy.encoder_layers:
        return continued(model, [Row(row.stream, 0, row.read) for row in rows], layer)
    if _REPLAYABLE.get(model.module) is None:
        _REPLAYABLE[model.module] = _can_be_replayed(model, rows[:_TRIED_ROWS])
    return ReplayedAnswerPasses(model, rows, layer) if _REPLAYABLE[model.module] else WholeAnswerPasses(model, rows)


def whole_answer_passes(model: LanguageModel, pairs: Sequence[Pair]) -> AnswerPasses:
    """Return passes that run every block every time; the model may change anywhere."""
    rows = _forced(model, pairs)
    if not model.anatomy.encoder_layers:
        return FullForward(model, [Row(row.stream, 0, row.read) for row in rows])
    return WholeAnswerPasses(model, rows)


def _forced(model: LanguageModel, pairs: Sequence[Pair]) -> list[ForcedRow]:
    return [model.forced_row(prompt, answer[:-1]) for prompt, answer in pairs]


class WholeAnswerPasses:
    """Whole passes of encoder and decoder over rows padded on the right."""

    def __init__(self, model: LanguageModel, rows: Sequence[ForcedRow]) -> None:
        self._model = model
        self._sources = [row.source for row in rows]
        self._ids, self._mask = right_padded([row.stream for row in rows])
        self._row_of_read, self._read = _reads(rows)

    def states(self, source: Source | None = None) -> Tensor:
        """The decoder's last hidden state, behind its last norm: (rows, columns, d_model)."""
        source = source or self._model.encoded(self._sources)
        states: Tensor = self._model.forward(self._ids, self._mask, source=source).last_hidden_state
        return states

    def logits(self) -> Tensor:
        """See `AnswerPasses`."""
        return _widened(self._model.anatomy.unembed(self.at_reads(self.states())))

    def at_reads(self, captured: Tensor) -> Tensor:
        """See `AnswerPasses`."""
        return captured.reshape(*self._ids.shape, -1)[self._row_of_read, self._read]


class ReplayedAnswerPasses:
    """Passes that run the blocks from `layer` on alone.

    The decoder's embedding is constant whatever happens in the encoder, and so is all of the encoder where the layer
    lies in the decoder.
    """

    def __init__(self, model: LanguageModel, rows: Sequence[ForcedRow], layer: int) -> None:
        anatomy = model.anatomy
        self._anatomy = anatomy
        self._whole = WholeAnswerPasses(model, rows)
        encoder_blocks = [anatomy.block(number) for number in range(layer, anatomy.encoder_layers)]
        decoder_blocks = [anatomy.block(number) for number in range(max(layer, anatomy.encoder_layers), anatomy.layers)]
        sources: list[Source] = []
        with torch.no_grad():
            self._in_encoder = recorded_calls(
                encoder_blocks, lambda: sources.append(model.encoded([row.source for row in rows]))
            )
            [source] = sources
            self._in_decoder = recorded_calls(decoder_blocks, lambda: self._whole.states(source))
        self._source = source.states
        if not all(_is_given(call, self._source) for call in self._in_decoder):
            raise ValueError("a block of the decoder is not given the states of the encoder")

    @property
    def dtype(self) -> torch.dtype:
        """Type of the residual stream."""
        return self._in_decoder[0].hidden.dtype

    def logits(self) -> Tensor:
        """See `AnswerPasses`."""
        attended = self._source
        if self._in_encoder:
            attended = self._anatomy.encoder_norm(_replayed(self._in_encoder, attended, attended))
        hidden = _replayed(self._in_decoder, self._source, attended)
        return _widened(self._anatomy.logits(self.at_reads(hidden)))

    def at_reads(self, captured: Tensor) -> Tensor:
        """See `AnswerPasses`."""
        return self._whole.at_reads(captured)


def _is_given(call: BlockCall, states: Tensor) -> bool:
    return any(argument is states for argument in (*call.args, *call.kwargs.values()))


def _replayed(calls: Sequence[BlockCall], recorded: Tensor, attended: Tensor) -> Tensor:
    """The last block's output, with `attended` where the blocks were given the recorded states of the encoder."""

    def exchanged(argument: Any) -> Any:
        return attended if argument is recorded else argument

    hidden = calls[0].hidden
    for call in calls:
        hidden = first(call.run(hidden, exchanged))
    return hidden


_TRIED_ROWS: Final = 8
_REPLAYABLE: Final[WeakKeyDictionary[nn.Module, bool]] = WeakKeyDictionary()


@torch.no_grad()
def _can_be_replayed(model: LanguageModel, rows: Sequence[ForcedRow]) -> bool:
    """Whether both stacks' blocks, replayed one by one, say what whole passes say; tried once per model."""
    try:
        short = ReplayedAnswerPasses(model, rows, 0)
        ours, theirs = short.logits(), WholeAnswerPasses(model, rows).logits()
    except (TypeError, ValueError, AttributeError, KeyError, IndexError):  # blocks of another make
        return False
    scale = theirs.abs().max().clamp_min(1e-6)
    coarsest = max(torch.finfo(short.dtype).eps, torch.finfo(torch.float32).eps)
    return bool((ours - theirs).abs().max() <= 64 * coarsest * scale)


def _reads(rows: Sequence[ForcedRow]) -> tuple[Tensor, Tensor]:
    """(row, column) of every place where an answer's token is predicted."""
    table = torch.tensor([(number, place) for number, row in enumerate(rows) for place in row.read])
    return table[:, 0], table[:, 1]


def _widened(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
