"""Cached decoding of several prompts at a time, whatever the model reads them with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from editguard.models.generation import left_padded
from editguard.models.reading import Reading
from editguard.models.streams import ForcedRow, Source

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel


def copied_past(model: LanguageModel, row: ForcedRow, copies: int) -> tuple[Any, Source | None]:
    """Read a row but for the last token of its stream, without gradients, once for as many rows as there are copies.

    Returns: the attention cache (None where nothing stands before that token), and what the encoder has made of the
        prompt, for passes that go on from there.
    """
    before = torch.tensor([row.stream[:-1]], dtype=torch.long)
    with torch.no_grad():
        source = model.encoded([row.source]) if row.source else None
        if before.shape[1]:
            past = model.forward(before, torch.ones_like(before), use_cache=True, source=source).past_key_values
        elif source is None:
            return None, None
        else:  # the decoder attends to the prompt all the same
            last = torch.tensor([row.stream[-1:]])
            made = model.forward(last, torch.ones_like(last), use_cache=True, source=source).past_key_values
            past = EncoderDecoderCache(DynamicCache(), made.cross_attention_cache)
    past.batch_repeat_interleave(copies)
    return past, None if source is None else source.copies(copies)


class Decoding:
    """The steps of one decoding, a `Forward` for `continue_greedily`; an encoder runs once, at the beginning.

    Attributes:
        rows: what the decoder is fed first, left-padded: the prompts, or the tokens that open its text.
    """

    def __init__(self, model: LanguageModel, prompts: Sequence[Sequence[int]], *, cached: int = 0) -> None:
        """`cached` tokens of each prompt are in the cache that the first step is given."""
        self._model = model
        self._source: Source | None = None
        self.rows: list[list[int]] = [list(prompt[cached:]) for prompt in prompts]
        if model.anatomy.encoder_layers:
            self._reading = Reading(None, in_encoder=True)
            self._source = model.encoded(prompts, self._reading)
            self.rows = [list(model.opening)] * len(prompts)
        else:
            self._reading = Reading(left_padded(self.rows)[1].bool())

    def __call__(self, ids: Tensor, mask: Tensor, past: Any) -> tuple[Tensor, Any]:
        """Return the logits (rows, vocabulary) of the last position, and the cache for the next step."""
        output = self._model.forward(ids, mask, past=past, use_cache=True, reading=self._reading, source=self._source)
        self._reading.behind()
        return self._model.anatomy.unembed(output.last_hidden_state[:, -1]), output.past_key_values

    def select(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        self._reading.select(rows)
        if self._source is not None:
            self._source.select(rows)
