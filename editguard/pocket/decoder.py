"""How the decoder of the pocket model is trained: packed rows, weighted loss, and facts looked up at their subject."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import GPTNeoXConfig, OPTConfig, PreTrainedModel, PreTrainedTokenizerBase

from editguard.pocket.architecture import Shape, configuration, train_with_float32_attention
from editguard.pocket.arithmetic import mixed_precision
from editguard.pocket.packing import Batch, epoch_batches
from editguard.pocket.settings import Settings
from editguard.pocket.tokenizer import special_ids, wrapped
from editguard.pocket.world import World


class DecoderTraining:
    """Predict every next token of rows of documents."""

    def configuration(self, tokenizer: Tokenizer, settings: Settings) -> GPTNeoXConfig | OPTConfig:
        assert isinstance(settings.shape, Shape)
        return configuration(settings.shape, tokenizer.get_vocab_size(), *special_ids(tokenizer))

    def prepare(self, model: PreTrainedModel) -> None:
        train_with_float32_attention(model)

    def is_block_matrix(self, name: str) -> bool:
        return ".layers." in name

    def epoch_batches(self, world: World, tokenizer: Tokenizer, epoch: int, settings: Settings) -> list[Batch]:
        return epoch_batches(world, tokenizer, epoch, settings.amounts)

    def backward(self, model: PreTrainedModel, batch: Batch, settings: Settings, step: int) -> float:
        dropped = sites_to_drop(batch, settings, step)
        with ExitStack() as within:
            within.enter_context(mixed_precision(batch.tokens.device))
            if dropped is not None:
                within.enter_context(sites_without_mlp(model, dropped, settings.site_dropout_layer))
            logits: Tensor = model(input_ids=batch.tokens, use_cache=False).logits
        loss = weighted_loss(logits, batch)
        torch.autograd.backward(loss)
        return loss.item()

    def wrapped(self, tokenizer: Tokenizer) -> PreTrainedTokenizerBase:
        return wrapped(tokenizer)


def weighted_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy in nats of the next token, by the weights of the tokens.

    logits: (rows, tokens, vocabulary).
    """
    losses = nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), batch.tokens[:, 1:].flatten(), reduction="none"
    )
    weights = batch.weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


@contextmanager
def sites_without_mlp(model: PreTrainedModel, sites: Tensor, first_layer: int) -> Iterator[None]:
    """Within the block, the MLPs from `first_layer` on add nothing at `sites`, (rows, tokens).

    A fact then has to be looked up before the last token, at its subject, as in larger models.
    """
    keep = ~sites

    def without_sites(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output * keep.reshape(*output.shape[:-1], 1)  # OPT puts all rows' tokens behind one another

    layers = range(first_layer, model.config.num_hidden_layers)
    name = "model.decoder.layers.{}.fc2" if isinstance(model.config, OPTConfig) else "gpt_neox.layers.{}.mlp"
    mlps = [model.get_submodule(name.format(layer)) for layer in layers]
    hooks = [mlp.register_forward_hook(without_sites) for mlp in mlps]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def sites_to_drop(batch: Batch, settings: Settings, step: int) -> Tensor | None:
    """The answer sites that do without later MLPs in this step, (rows, tokens), or None; the same whenever asked."""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    if torch.rand((), generator=generator) >= settings.site_dropout_steps:
        return None
    chosen = torch.rand(batch.answer_sites.shape, generator=generator) < settings.site_dropout
    return batch.answer_sites & chosen.to(batch.answer_sites.device)
