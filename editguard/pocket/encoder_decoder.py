"""How the encoder-decoder of the pocket model is trained: it reads a prompt and writes the answer."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, T5Config

from editguard.pocket.architecture import EncoderDecoderShape, encoder_decoder_configuration
from editguard.pocket.sequence_pairs import NOT_A_TARGET, PairBatch, PairGroup, epoch_pair_batches
from editguard.pocket.settings import Settings
from editguard.pocket.tokenizer import special_ids, wrapped_for_pairs
from editguard.pocket.world import World


class EncoderDecoderTraining:
    """Write the answer of every pair, token by token, with end-of-text behind it.

    In float32 throughout: for matrices this small, bfloat16 took twice as long on the CPU it was measured on.
    """

    def configuration(self, tokenizer: Tokenizer, settings: Settings) -> T5Config:
        assert isinstance(settings.shape, EncoderDecoderShape)
        return encoder_decoder_configuration(settings.shape, tokenizer.get_vocab_size(), *special_ids(tokenizer))

    def prepare(self, model: PreTrainedModel) -> None:
        model.train()

    def is_block_matrix(self, name: str) -> bool:
        return ".block." in name and "relative_attention_bias" not in name

    def epoch_batches(self, world: World, tokenizer: Tokenizer, epoch: int, settings: Settings) -> list[PairBatch]:
        return epoch_pair_batches(world, tokenizer, epoch, settings.amounts)

    def backward(self, model: PreTrainedModel, batch: PairBatch, _settings: Settings, _step: int) -> float:
        """Gradient of the mean over all targets of the batch, one group at a time."""
        targets = sum(group.targets for group in batch.groups)
        total = 0.0
        for group in batch.groups:
            loss = summed_loss(answer_logits(model, group), group) / targets
            torch.autograd.backward(loss)
            total += loss.item()
        return total

    def wrapped(self, tokenizer: Tokenizer) -> PreTrainedTokenizerBase:
        return wrapped_for_pairs(tokenizer)


def answer_logits(model: PreTrainedModel, group: PairGroup) -> Tensor:
    """Logits of each answer token, given the prompt and the answer before it: (pairs, answer tokens, vocabulary)."""
    start: int = model.config.decoder_start_token_id
    before = torch.full_like(group.labels, start)
    before[:, 1:] = group.labels[:, :-1].masked_fill(group.labels[:, :-1] == NOT_A_TARGET, start)
    logits: Tensor = model(
        input_ids=group.prompts, attention_mask=group.mask, decoder_input_ids=before, use_cache=False
    ).logits
    return logits


def summed_loss(logits: Tensor, group: PairGroup) -> Tensor:
    """Sum of the cross-entropies of all targets in nats.  logits: (pairs, answer tokens, vocabulary)."""
    return nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), group.labels.flatten(), ignore_index=NOT_A_TARGET, reduction="sum"
    )
