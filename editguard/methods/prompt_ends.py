"""What enters or leaves a module at the last token of prompts, whichever stack of a model reads them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from editguard.methods.keys import SubjectRow, vectors
from editguard.models.hooks import Place, capture, stop_after

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel


def at_prompt_ends(
    model: LanguageModel, prompts: Sequence[Sequence[int]], places: Sequence[tuple[nn.Module, Place]]
) -> list[Tensor]:
    """Return what enters or leaves modules there: (prompts, width) for each place, at least float32.

    With an encoder the modules are the encoder's; the pass ends at the last of the places.
    """
    if not model.anatomy.encoder_layers:
        return vectors(model, [SubjectRow(tuple(prompt), len(prompt) - 1) for prompt in prompts], places)

    def run(batch: list[int]) -> list[list[Tensor]]:
        chosen = [prompts[index] for index in batch]
        with ExitStack() as hooks:
            captured = [hooks.enter_context(capture(module, at)) for module, at in places]
            hooks.enter_context(stop_after(*places[-1]))
            model.encoded(chosen)
        ends = [len(prompt) - 1 for prompt in chosen]
        grids = [each.value.reshape(len(batch), max(ends) + 1, -1) for each in captured]
        found = [grid[range(len(batch)), ends] for grid in grids]
        return [
            [part.to(torch.promote_types(part.dtype, torch.float32)) for part in row]
            for row in zip(*found, strict=True)
        ]

    by_prompt = model.in_batches([len(prompt) for prompt in prompts], run)
    return [torch.stack(list(of_place)) for of_place in zip(*by_prompt, strict=True)]
