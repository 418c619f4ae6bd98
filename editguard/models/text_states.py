"""What the MLP of a block reads on running text: the states of the unedited model, collected once and kept on disk.

They stand for all that a change of this MLP should leave alone.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from editguard.edits.request import content_id
from editguard.errors import ModelChanged
from editguard.models.answer_passes import Pair, whole_answer_passes
from editguard.models.hooks import capture, stop_after
from editguard.models.language_model import LanguageModel
from editguard.models.running_text import LONGEST_TEXT, corpus_digest, text_pairs
from editguard.models.second_moment import Progress
from editguard.models.tensor_cache import TensorCache

CODE_VERSION: Final = 1
"""Part of every key: raised when the same input would give another result."""


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

    Every token at which the next one is predicted, see `text_pairs`; padding never enters. The pass over the texts ends
    at the MLP.

    Args:
        model: without any edit in force.
        layer: the block, counted from 0; where there is an encoder too, the decoder's.
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
    corpus = list(texts)

    def computed() -> Tensor:
        pairs = text_pairs(model, corpus, tokens, seed, purpose="the memory of an MLP's inputs")
        return _collected(model, module, pairs, on_progress)

    if cache_dir is None:
        return computed()
    cache = TensorCache(Path(cache_dir) / "mlp-inputs", "memory of MLP inputs")
    parts = (
        model.fingerprint(),
        str(model.dtype),
        layer,
        corpus_digest(corpus),
        tokens,
        seed,
        LONGEST_TEXT,
        CODE_VERSION,
    )
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


def _collected(model: LanguageModel, module: nn.Module, pairs: Sequence[Pair], on_progress: Progress | None) -> Tensor:
    def states(batch: list[int]) -> Tensor:
        passes = whole_answer_passes(model, [pairs[index] for index in batch])
        with capture(module, "input") as captured, stop_after(module, "input"):
            passes.logits()
        return passes.at_reads(captured.value).cpu()

    found, done = list[Tensor](), 0
    total = sum(len(after) for _, after in pairs)
    for _, entering in model.batches([len(before) + len(after) for before, after in pairs], states):
        found.append(entering)
        done += len(entering)
        if on_progress is not None:
            on_progress(done, total)
    return torch.cat(found)
