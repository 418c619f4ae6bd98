"""What the MLP of a block reads on running text: the states of the unedited model, collected once and kept on disk.

They stand for all that a change of this MLP should leave alone.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from editguard.edits.request import content_id
from editguard.errors import ModelChanged
from editguard.models.generation import right_padded
from editguard.models.hooks import capture, stop_after
from editguard.models.language_model import LanguageModel
from editguard.models.running_text import corpus_digest, drawn_rows, longest_text
from editguard.models.second_moment import Progress
from editguard.models.tensor_cache import TensorCache

CODE_VERSION: Final = 1
"""Part of every key: raised when the same input would give another result."""

SKIPPED: Final = 1
"""The first position of a text has seen nothing but itself, and is much the same in all texts: it is left out."""


def mlp_inputs(
    model: LanguageModel,
    layer: int,
    texts: Iterable[str],
    *,
    tokens: int,
    seed: int = 0,
    cache_dir: Path | None = None,
    on_progress: Progress | None = None,
) -> Tensor:
    """The MLP's inputs x at tokens of running text, (states, d_model), in the model's type and on the CPU.

    Every token but the first of each text; padding never enters. The pass over the texts ends at the MLP.

    Args:
        model: without any edit in force.
        layer: the block, counted from 0.
        texts: the corpus; drawn from in the order that the seed gives, until there are `tokens` states.
        tokens: how many states; all of the corpus is used where it holds fewer.
        cache_dir: where results are kept between runs; None keeps nothing.
        on_progress: called with the tokens done and the tokens in all, after every batch.

    Raises:
        ModelChanged: edits are in force.
        MethodRefused: the corpus or `tokens` is empty.
        CacheError: the folder cannot be written.
    """
    if model.installed or model.weights.depth:
        raise ModelChanged("the inputs of an MLP on text are those of the unedited model: take the edits back first.")
    module = model.anatomy.up_projections(layer)[0].module
    corpus, length = list(texts), longest_text(model)

    def computed() -> Tensor:
        rows = drawn_rows(model, corpus, tokens, seed, length, purpose="the memory of an MLP's inputs", skipped=SKIPPED)
        return _collected(model, module, rows, on_progress)

    if cache_dir is None:
        return computed()
    cache = TensorCache(Path(cache_dir) / "mlp-inputs", "memory of MLP inputs")
    parts = (model.fingerprint(), str(model.dtype), layer, corpus_digest(corpus), tokens, seed, length, CODE_VERSION)
    key = content_id("mlp inputs", *parts)
    known = cache.load(key)
    if known is None:
        with cache.lock(key):
            known = cache.load(key)
            if known is None:
                states = computed()
                cache.store(key, states, len(states))
                return states
    return known[0]


def _collected(
    model: LanguageModel, module: torch.nn.Module, rows: list[list[int]], on_progress: Progress | None
) -> Tensor:
    def states(batch: list[int]) -> Tensor:
        ids, mask = right_padded([rows[index] for index in batch])
        counted = mask.clone()
        counted[:, :SKIPPED] = 0
        wanted = counted.reshape(-1).nonzero()[:, 0]
        with (
            capture(module, "input", lambda x: x.reshape(mask.numel(), -1)[wanted.to(x.device)]) as captured,
            stop_after(module, "input"),
        ):
            model.forward(ids, mask)
        return captured.value.cpu()

    found, done = list[Tensor](), 0
    total = sum(len(row) for row in rows)
    for batch, entering in model.batches([len(row) for row in rows], states):
        found.append(entering)
        done += sum(len(rows[index]) for index in batch)
        if on_progress is not None:
            on_progress(done, total)
    return torch.cat(found)
