"""Keys and outputs of a down projection at the subject's last token: the memory that editing methods speak of."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editguard.edits import EditRequest
from editguard.models.hooks import capture, stop_after

if TYPE_CHECKING:
    from editguard.models.anatomy import Matrix
    from editguard.models.language_model import LanguageModel


@dataclass(frozen=True)
class SubjectRow:
    """A prompt in tokens, and the position s of the subject's last one."""

    ids: tuple[int, ...]
    end: int


def subject_row(model: LanguageModel, request: EditRequest, context: str = "") -> SubjectRow:
    """Return the request's prompt behind a prefix context, in tokens.

    Raises: AmbiguousTokens: the tokenizer gives the subject no end of its own.
    """
    before = context + request.prompt.partition("{}")[0]
    text = context + request.text
    end = model.subject_end(text, request.subject, start=len(before))
    return SubjectRow(tuple(model.encode(text)), end)


@torch.no_grad()
def keys_and_outputs(model: LanguageModel, matrix: Matrix, rows: Sequence[SubjectRow]) -> tuple[Tensor, Tensor]:
    """Return the inputs (rows, d_in) and outputs (rows, d_out) of a matrix at the rows' subject ends.

    Of a row only the tokens up to the subject's end run, and no module above the matrix does. At least float32.
    """
    keys: list[Tensor] = []
    outputs: list[Tensor] = []
    for first in range(0, len(rows), model.batch_size):
        batch = rows[first : first + model.batch_size]
        width = max(row.end for row in batch) + 1
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        for number, row in enumerate(batch):
            ids[number, : row.end + 1] = torch.tensor(row.ids[: row.end + 1])
        with ExitStack() as hooks:
            entering = hooks.enter_context(capture(matrix.module, at="input"))
            leaving = hooks.enter_context(capture(matrix.module, at="output"))
            hooks.enter_context(stop_after(matrix.module))
            model.forward(ids, torch.ones_like(ids))  # padding on the right is hidden by causality
        ends = [row.end for row in batch]
        for found, captured in ((keys, entering), (outputs, leaving)):
            grid = captured.value.reshape(len(batch), width, -1)
            found.append(_widened(grid[range(len(batch)), ends]))
    return torch.cat(keys), torch.cat(outputs)


def _widened(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
