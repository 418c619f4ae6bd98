"""What a pass reads: a stream of tokens in the decoder and, where the model has an encoder, prompts in that."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ForcedRow:
    """One row of teacher forcing: a prompt, and the tokens of an answer that are fed behind it.

    Attributes:
        source: what the encoder reads; empty for a decoder alone.
        stream: what the decoder reads. A decoder alone reads the prompt there, one with an encoder the tokens that open
            its text; behind them the answer's.
        first: the place in the stream whose next token is the answer's first.
    """

    source: tuple[int, ...]
    stream: tuple[int, ...]
    first: int

    @property
    def read(self) -> tuple[int, ...]:
        """The places whose next tokens are the answer's: one more than there are tokens fed."""
        return tuple(range(self.first, len(self.stream)))


@dataclass(eq=False)
class Source:
    """What the encoder has made of the prompts of the rows of a pass.

    Attributes:
        states: (rows, columns, d_model).
        mask: (rows, columns), 1 for the tokens of the prompts, 0 for padding.
    """

    states: Tensor
    mask: Tensor

    def select(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        rows = rows.to(self.states.device)
        self.states, self.mask = self.states[rows], self.mask[rows]

    def copies(self, times: int) -> Source:
        """Return the source of a single row as that of so many rows; they share its memory."""
        return Source(self.states.expand(times, -1, -1), self.mask.expand(times, -1))
