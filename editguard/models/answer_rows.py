"""Rows of a prompt and its answer: where a model is asked for which token, and how likely it finds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from editguard.errors import PromptTooLong
from editguard.models.answer_passes import AnswerPasses, answer_passes
from editguard.models.continuation import Row, continued

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel
    from editguard.models.streams import ForcedRow

TextPair = tuple[str, str]
"""A prompt, and the answer that should follow."""


@dataclass(frozen=True, eq=False)
class AnswerRows:
    """A batch of rows that can be run again and again from one layer on.

    Attributes:
        passes: run the rows; their logits are those of the positions that are read, row by row.
        labels: (reads,), the token behind each position.
        reads: how many positions of each row are read.
        of_answer: (reads,), bool, whether the label belongs to the answer, what closes it included.
        counted: (reads,), bool, the same without what closes it, as in scoring.
        in_stream, in_encoder: (rows, columns), bool, the real tokens among the columns that the modules of a decoder,
            or of an encoder, see.
        encoder_layers: how many of the layers are an encoder's.
    """

    passes: AnswerPasses
    labels: Tensor
    reads: list[int]
    of_answer: Tensor
    counted: Tensor
    in_stream: Tensor
    in_encoder: Tensor
    encoder_layers: int

    def tokens(self, layer: int) -> Tensor:
        """Return the real tokens, (rows, columns), bool, among those that a layer's modules see."""
        return self.in_encoder if layer < self.encoder_layers else self.in_stream

    def per_row(self, values: Tensor, kept: Tensor | None = None) -> Tensor:
        """Return the mean over each row's reads, (rows,), of values (reads,); of those that `kept`, (reads,), keeps."""
        parts = torch.split(values, self.reads)
        if kept is None:
            return torch.stack([part.mean() for part in parts])
        own = torch.split(kept.to(values.device), self.reads)
        return torch.stack([part[chosen].mean() for part, chosen in zip(parts, own, strict=True)])

    def losses(self, logits: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Return each row's mean cross entropy over its answer's tokens, (rows,), in nats; logits (reads, vocabulary).

        smoothing: share of every label that is spread over the whole vocabulary.
        """
        labels = self.labels.to(logits.device)
        losses = nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        return self.per_row(losses, self.of_answer)

    def right(self, logits: Tensor) -> Tensor:
        """Return for each row, (rows,), whether every counted token is the likeliest; logits (reads, vocabulary)."""
        hits = (logits.argmax(-1) == self.labels.to(logits.device)).float()
        return self.per_row(hits, self.counted) == 1


def answer_rows(model: LanguageModel, pairs: Sequence[TextPair], layer: int, *, whole: bool = False) -> AnswerRows:
    """Return rows for the pairs, to be run from block `layer` on.

    Args:
        whole: whether all tokens of a decoder's stream are asked for, from its second one on: of a decoder alone those
            of the prompt too.

    Raises: PromptTooLong: a pair does not fit the model's context.
    """
    encoded = [model.encode_answer(prompt, answer) for prompt, answer in pairs]
    rows = [model.forced_row(before, after[:-1]) for before, after in encoded]
    for (prompt, _), row in zip(pairs, rows, strict=True):
        refuse_too_long(model, prompt, row)
    whole = whole and not model.anatomy.encoder_layers
    passes: AnswerPasses
    if whole:
        passes = continued(model, [Row(row.stream, 0, tuple(range(len(row.stream)))) for row in rows], layer)
    else:
        passes = answer_passes(model, encoded, layer)
    labels: list[int] = []
    of_answer: list[bool] = []
    counted: list[bool] = []
    reads = []
    for row, (_, after) in zip(rows, encoded, strict=True):
        first = 0 if whole else row.first
        prompt_reads, own = row.first - first, len(model.unclosed(after))
        labels += [*row.stream, after[-1]][first + 1 :]
        of_answer += [False] * prompt_reads + [True] * len(after)
        counted += [False] * prompt_reads + [True] * own + [False] * (len(after) - own)
        reads.append(prompt_reads + len(after))
    return AnswerRows(
        passes,
        torch.tensor(labels),
        reads,
        torch.tensor(of_answer),
        torch.tensor(counted),
        _lengths_to_mask([len(row.stream) for row in rows]),
        _lengths_to_mask([len(row.source) for row in rows]),
        model.anatomy.encoder_layers,
    )


def refuse_too_long(model: LanguageModel, prompt: str, row: ForcedRow) -> None:
    """Raise PromptTooLong when the model cannot read a prompt's row, or the row has no tokens of a prompt at all."""
    longest, limit = max(len(row.source), len(row.stream)), model.context_length
    read = len(row.source) if model.anatomy.encoder_layers else row.first + 1
    if not read or (limit is not None and longest > limit):
        raise PromptTooLong(prompt, longest if read else 0, limit)


def _lengths_to_mask(lengths: Sequence[int]) -> Tensor:
    return torch.arange(max(lengths, default=0)) < torch.tensor(lengths)[:, None]
