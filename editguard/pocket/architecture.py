"""The shapes of pocket models, and freshly initialised ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from editguard.pocket.tokenizer import CONTEXT

_TRAINING_ATTENTION: Final = "pocket_float32_attention"
_SHORT: Final = 256


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the transformer; every block is attention first, then the MLP on its result.

    Attributes:
        family: of GPT-NeoX (rotary positions, GELU), or of OPT (learned positions, ReLU: keys have zeros).
    """

    layers: int = 8
    d_model: int = 192
    heads: int = 6
    d_ff: int = 768
    context: int = CONTEXT
    family: Literal["gpt-neox", "opt"] = "gpt-neox"


def configuration(shape: Shape, vocabulary: int, end_of_text: int, pad: int) -> GPTNeoXConfig | OPTConfig:
    """GPT-NeoX with sequential residuals, rotary positions on half of each head, and one matrix for both embeddings.

    Or OPT as published for most sizes: norms in front, biases, one matrix for both embeddings; no dropout.
    """
    if shape.family == "opt":
        return OPTConfig(
            vocab_size=vocabulary,
            hidden_size=shape.d_model,
            word_embed_proj_dim=shape.d_model,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            ffn_dim=shape.d_ff,
            max_position_embeddings=shape.context,
            dropout=0.0,
            tie_word_embeddings=True,
            bos_token_id=end_of_text,
            eos_token_id=end_of_text,
            pad_token_id=pad,
        )
    return GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=shape.d_model,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.d_ff,
        max_position_embeddings=shape.context,
        use_parallel_residual=False,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        pad_token_id=pad,
    )


@dataclass(frozen=True, slots=True)
class EncoderDecoderShape:
    """Sizes of the T5: both sides have `d_model`, `heads` and `d_ff` in common."""

    encoder_layers: int = 4
    decoder_layers: int = 4
    d_model: int = 160
    heads: int = 5
    d_head: int = 32
    d_ff: int = 768


def encoder_decoder_configuration(shape: EncoderDecoderShape, vocabulary: int, end_of_text: int, pad: int) -> T5Config:
    """T5 as first published: plain MLPs with ReLU, no biases, one matrix for all embeddings; no dropout.

    Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", JMLR 2020.
    """
    shaped: Callable[..., T5Config] = T5Config  # whose signature leaves out what all configurations take
    return shaped(
        vocab_size=vocabulary,
        d_model=shape.d_model,
        d_kv=shape.d_head,
        d_ff=shape.d_ff,
        num_layers=shape.encoder_layers,
        num_decoder_layers=shape.decoder_layers,
        num_heads=shape.heads,
        feed_forward_proj="relu",
        dropout_rate=0.0,
        tie_word_embeddings=True,
        decoder_start_token_id=pad,
        eos_token_id=end_of_text,
        pad_token_id=pad,
    )


def new_model(configuration: GPTNeoXConfig | OPTConfig | T5Config, seed: int) -> PreTrainedModel:
    """A model with random weights that depend on `seed` only; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(configuration, T5Config):
            return T5ForConditionalGeneration(configuration)
        if isinstance(configuration, OPTConfig):
            return OPTForCausalLM(configuration)
        return GPTNeoXForCausalLM(configuration)


def train_with_float32_attention(model: PreTrainedModel) -> None:
    """Compute attention over short rows in float32 whatever autocast says: on CPUs bfloat16 is slower for these."""
    AttentionInterface.register(_TRAINING_ATTENTION, _float32_attention)
    model.set_attn_implementation(_TRAINING_ATTENTION)


def _float32_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention over whole rows.  query, key, value: (rows, heads, tokens, d_head); `scaling` of products."""
    dtype = torch.float32 if query.shape[2] <= _SHORT else value.dtype
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    with torch.autocast(query.device.type, enabled=False):
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    return mixed.transpose(1, 2).contiguous(), None
