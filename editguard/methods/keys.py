"""Keys and outputs at the subject's last token: the memory that editing methods speak of."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from editguard.edits import EditRequest
from editguard.models.hooks import Place, capture, stop_after

if TYPE_CHECKING:
    from editguard.models.anatomy import Matrix
    from editguard.models.language_model import LanguageModel


@dataclass(frozen=True)
class SubjectRow:
    """A prompt in tokens, and the position s of the subject's last one.

    Behind an encoder the tokens are a decoder's, and `source` the prompt that the encoder reads.
    """

    ids: tuple[int, ...]
    end: int
    source: tuple[int, ...] = ()


def subject_row(model: LanguageModel, request: EditRequest, context: str = "") -> SubjectRow:
    """Return the request's prompt behind a prefix context, in tokens.

    Raises: AmbiguousTokens: the tokenizer gives the subject no end of its own.
    """
    before = context + request.prompt.partition("{}")[0]
    text = context + request.text
    end = model.subject_end(text, request.subject, start=len(before))
    return SubjectRow(tuple(model.encode(text)), end)


def keys_and_outputs(model: LanguageModel, matrix: Matrix, rows: Sequence[SubjectRow]) -> tuple[Tensor, Tensor]:
    """Return the inputs (rows, d_in) and outputs (rows, d_out) of a matrix at the rows' subject ends; see `vectors`."""
    keys, outputs = vectors(model, rows, [(matrix.module, "input"), (matrix.module, "output")])
    return keys, outputs


def averaged_keys(model: LanguageModel, matrix: Matrix, prompts: Sequence[Sequence[SubjectRow]]) -> Tensor:
    """Return one key (edits, d_in) for each edit, averaged over its prompts, of which the first is the bare one."""
    [keys] = vectors(model, [row for edit in prompts for row in edit], [(matrix.module, "input")])
    return torch.stack([average_over_contexts(part) for part in torch.split(keys, [len(edit) for edit in prompts])])


def average_over_contexts(keys: Tensor) -> Tensor:
    """Return the mean key (d_in,) of (prompts, d_in): the bare prompt, the first, weighs one half, the rest share one.

    Source: the released code of MEMIT (Meng et al. 2023), which averages within and then between the groups of
    contexts; the bare prompt is a group of its own.
    """
    return keys[0] if len(keys) == 1 else (keys[0] + keys[1:].mean(0)) / 2


def vectors(
    model: LanguageModel, rows: Sequence[SubjectRow], places: Sequence[tuple[nn.Module, Place]]
) -> list[Tensor]:
    """Return what enters or leaves modules at the rows' subject ends: (rows, width) for each place, at least float32.

    Of a row only the tokens up to the subject's end run, and the pass ends at the last of the places. Behind an encoder
    the places are the decoder's.
    """

    def run(batch: list[int]) -> list[list[Tensor]]:
        ends = [rows[index].end for index in batch]
        width = max(ends) + 1
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        for number, index in enumerate(batch):
            ids[number, : ends[number] + 1] = torch.tensor(rows[index].ids[: ends[number] + 1])
        with ExitStack() as hooks:
            captured = [hooks.enter_context(capture(module, at)) for module, at in places]
            sources = [rows[index].source for index in batch]
            source = model.encoded(sources) if model.anatomy.encoder_layers else None
            hooks.enter_context(stop_after(*places[-1]))
            # Padding on the right is hidden by causality.
            model.forward(ids, torch.ones_like(ids), source=source)
        grids = [each.value.reshape(len(batch), width, -1) for each in captured]
        found = [_widened(grid[range(len(batch)), ends]) for grid in grids]
        return [list(of_row) for of_row in zip(*found, strict=True)]

    by_row = model.in_batches([len(row.source) + row.end + 1 for row in rows], run)
    return [torch.stack(list(of_place)) for of_place in zip(*by_row, strict=True)]


def _widened(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
