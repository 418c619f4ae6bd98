"""Free continuations: text of a fixed length, drawn from the model with a seed of its own for each prompt."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

import torch

from editguard.edits.request import content_id
from editguard.models.decoding import Decoding
from editguard.models.generation import left_padded
from editguard.models.language_model import LanguageModel


def continued_freely(
    model: LanguageModel, prompts: Sequence[str], *, tokens: int, top: int = 5, seed: int = 0
) -> list[str]:
    """Draw `tokens` tokens after each prompt, each among the `top` likeliest; the prompt is not part of the result.

    Tokens that end a text are never drawn, so that all texts are equally long (the model's context permitting). A
    prompt's draws depend on the prompt and the seed alone, not on the batch.
    """
    unique = list(dict.fromkeys(prompts))
    rows = [model.encode(prompt) for prompt in unique]
    ends = sorted(model.end_ids)

    def run(batch: list[int]) -> list[list[int]]:
        drawn: list[list[int]] = [[] for _ in batch]
        draws = [random.Random(content_id("continuation", seed, unique[index])) for index in batch]
        decoding = Decoding(model, [rows[index] for index in batch])
        ids, mask = left_padded(decoding.rows)
        past = None
        room = tokens if model.context_length is None else min(tokens, model.context_length - ids.shape[1])
        for _ in range(room):
            logits, past = decoding(ids, mask, past)
            logits = logits.float()
            logits[:, ends] = float("-inf")
            likely = logits.topk(min(top, logits.shape[-1]))
            chances = likely.values.double().softmax(-1).cumsum(-1).tolist()
            candidates = likely.indices.tolist()
            for place, draw in enumerate(draws):
                point = draw.random()
                chosen = sum(point >= edge for edge in chances[place][:-1])
                drawn[place].append(candidates[place][chosen])
            ids = torch.tensor([[row[-1]] for row in drawn])
            mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=mask.dtype)], dim=1)
        return drawn

    def run_alike(batch: list[int]) -> list[list[int]]:
        """Rows of one length together: padding on the left is undefined for some models, and shortens the others."""
        alike: dict[int, list[int]] = defaultdict(list)
        for index in batch:
            alike[len(rows[index])].append(index)
        made = {index: row for group in alike.values() for index, row in zip(group, run(group), strict=True)}
        return [made[index] for index in batch]

    made = model.in_batches([len(row) for row in rows], run_alike)
    texts = {prompt: model.decode(new) for prompt, new in zip(unique, made, strict=True)}
    return [texts[prompt] for prompt in prompts]
