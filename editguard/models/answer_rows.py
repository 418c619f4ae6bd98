"""Rows of a prompt and its answer: where the model is asked for which token, and how likely it finds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from editguard.errors import PromptTooLong
from editguard.models.continuation import Passes, Row, continued

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel

Pair = tuple[str, str]
"""A prompt, and the answer that should follow."""


@dataclass(frozen=True, eq=False)
class AnswerRows:
    """A batch of rows that can be run again and again from one layer on.

    Attributes:
        passes: run the rows; their logits are those of the positions that are read, row by row.
        labels: (reads,), the token behind each position.
        reads: how many positions of each row are read.
        of_answer: (reads,), bool, whether the label belongs to the answer.
        tokens: (rows, columns), bool, the real tokens among the columns that modules of the blocks see.
    """

    passes: Passes
    labels: Tensor
    reads: list[int]
    of_answer: Tensor
    tokens: Tensor

    def per_row(self, values: Tensor, *, answers_only: bool = False) -> Tensor:
        """Return the mean over each row's reads, (rows,), of values (reads,); with `answers_only` over the answer's."""
        kept = self.of_answer.to(values.device)
        parts = zip(torch.split(values, self.reads), torch.split(kept, self.reads), strict=True)
        return torch.stack([(part[own] if answers_only else part).mean() for part, own in parts])

    def losses(self, logits: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Return each row's mean cross entropy over its answer's tokens, (rows,), in nats; logits (reads, vocabulary).

        smoothing: share of every label that is spread over the whole vocabulary.
        """
        labels = self.labels.to(logits.device)
        losses = nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        return self.per_row(losses, answers_only=True)

    def right(self, logits: Tensor) -> Tensor:
        """Return for each row, (rows,), whether every token of its answer is the likeliest; logits (reads, vocab)."""
        hits = (logits.argmax(-1) == self.labels.to(logits.device)).float()
        return self.per_row(hits, answers_only=True) == 1


def answer_rows(model: LanguageModel, pairs: Sequence[Pair], layer: int, *, whole: bool = False) -> AnswerRows:
    """Return rows for the pairs, to be run from block `layer` on.

    Args:
        whole: whether the tokens of the prompt, from its second one on, are asked for too.

    Raises: PromptTooLong: a pair does not fit the model's context.
    """
    encoded = [model.encode_answer(prompt, answer) for prompt, answer in pairs]
    rows, labels, of_answer = [], [], []
    for (prompt, _), (before, after) in zip(pairs, encoded, strict=True):
        ids = (*before, *after[:-1])
        if not before or (model.context_length is not None and len(ids) > model.context_length):
            raise PromptTooLong(prompt, len(ids), model.context_length)
        first = 0 if whole else len(before) - 1
        rows.append(Row(ids, 0, tuple(range(first, len(ids)))))
        labels += [*before, *after][first + 1 :]
        of_answer += [position >= len(before) - 1 for position in range(first, len(ids))]
    width = max(len(row.ids) for row in rows)
    tokens = torch.tensor([[column < len(row.ids) for column in range(width)] for row in rows])
    return AnswerRows(
        continued(model, rows, layer),
        torch.tensor(labels),
        [len(row.read) for row in rows],
        torch.tensor(of_answer),
        tokens,
    )
