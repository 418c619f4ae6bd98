"""How far the next-token distributions of two states of a model lie apart, position by position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editguard.models.answer_rows import refuse_too_long

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel


def kl_divergence(before: Tensor, after: Tensor) -> Tensor:
    """KL(before || after) in nats, (positions,), of logits (positions, vocabulary), in float32; at least 0."""
    first, second = (logits.float().log_softmax(-1) for logits in (before, after))
    return torch.nn.functional.kl_div(second, first, log_target=True, reduction="none").sum(-1).clamp(min=0.0)


def forced_logits(model: LanguageModel, pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Yield batches of places of pairs with the logits (positions, vocabulary) of each, under teacher forcing.

    Args:
        pairs: a prompt and what is given behind it; the positions are those that predict its tokens, or, where nothing
            is given, the one that predicts the next token.

    Raises: PromptTooLong: a pair does not fit the model's context.
    """
    rows = []
    for prompt, given in pairs:
        if given:
            ids, answer = model.encode_answer(prompt, given)
            row = model.forced_row(ids, model.unclosed(answer)[:-1])
        else:
            row = model.forced_row(model.encode(prompt), ())
        refuse_too_long(model, prompt, row)
        rows.append(row)
    lengths = [len(row.source) + len(row.stream) for row in rows]
    yield from model.batches(lengths, lambda batch: model.logits_at([rows[index] for index in batch]))
