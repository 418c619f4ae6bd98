"""The model families that editguard knows: one row of names each, no behaviour.

A row says where a family keeps the parts that editing methods speak of. Paths are dotted attribute
names; those said to be "in a block" start there, all others at the Hugging Face model. Rows are found
by the `model_type` of the model's configuration; `Anatomy` reads them, and nothing else names an
architecture.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

Flag = bool | Callable[[Any], bool]
"""A property of a family; where its members differ, a function of the model's configuration."""

Part = str | Callable[[Any], str | None]
"""The name of a part; where a family's members differ, a function of the model's configuration."""


@dataclass(frozen=True, kw_only=True)
class FamilyRow:
    """Where one family keeps its parts.

    A family with an encoder has two stacks of blocks: the row is the decoder's, and holds the encoder's in `encoder`.

    Attributes:
        backbone: the model without its head; its output has passed the final norm. With an encoder, the decoder alone.
        blocks: the list of blocks.
        embedding: the token embedding.
        final_norm: the norm after the last block; None where there is none.
        output_projection: a matrix between final norm and head, where some members have one.
        head: the matrix from the residual stream to the logits.
        down: in a block, the matrix from the MLP's inner width to the residual stream.
        up: in a block, the matrix that makes the MLP's inner activations.
        gate: in a block, the matrix whose activation multiplies these, in gated MLPs.
        attention_output: in a block, the matrix from the attention heads to the residual stream.
        cross_attention_output: the same of the attention to the encoder, where a block has one.
        queries_and_values: in a block, the matrices from the residual stream to the queries and values of its
            attention to itself: one where queries, keys and values are the parts of one matrix's output.
        mlp: in a block, the module whose output is what the MLP adds (the down projection itself
            where the MLP has no module of its own, or where that module already returns the sum
            with the residual stream).
        parallel: attention and MLP both read the block's input.
        post_attention_norm, post_mlp_norm: in a block, norms between a module's output and the
            residual stream.
        normalises_stream: the residual stream itself passes the two norms (post-LN): norm(x +
            module's output).
        state_scale: what the state is multiplied by before it meets the head; None where by nothing.
        logits_bias: what is added to the logits, where it is no part of the head.
        encoder: the row of the encoder, of which only the parts of a stack and of a block are read.
        unsupported: gives the reason why a configuration of this family cannot be edited, or None.
    """

    backbone: str
    blocks: str
    embedding: str
    final_norm: str | None
    head: str = "lm_head"
    output_projection: str | None = None
    down: str
    up: Part
    gate: Part | None = None
    attention_output: str
    cross_attention_output: str | None = None
    queries_and_values: tuple[str, ...] = ()
    mlp: str = "mlp"
    parallel: Flag = False
    post_attention_norm: str | None = None
    post_mlp_norm: str | None = None
    normalises_stream: Flag = False
    state_scale: Callable[[Any], float | None] | None = None
    logits_bias: str | None = None
    encoder: "FamilyRow | None" = None
    unsupported: Callable[[Any], str | None] | None = None


def _bloom_variant(config: Any) -> str | None:
    if config.apply_residual_connection_post_layernorm:
        return "its residual stream starts from a norm's output (apply_residual_connection_post_layernorm)"
    if config.pretraining_tp > 1 and config.slow_but_exact:
        return "it computes the down projection in slices (pretraining_tp with slow_but_exact)"
    return None


def _t5_scale(config: Any) -> float | None:
    """Version 1.0 ties its head to the embedding and scales the state; 1.1 does neither."""
    scales = getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)
    return float(config.d_model**-0.5) if scales else None


def _t5_stack(stack: str, mlp: str) -> FamilyRow:
    return FamilyRow(
        backbone=stack,
        blocks=f"{stack}.block",
        embedding="shared",
        final_norm=f"{stack}.final_layer_norm",
        down=f"{mlp}.wo",
        up=lambda config: f"{mlp}.wi_1" if config.is_gated_act else f"{mlp}.wi",
        gate=lambda config: f"{mlp}.wi_0" if config.is_gated_act else None,
        attention_output="layer.0.SelfAttention.o",
        queries_and_values=("layer.0.SelfAttention.q", "layer.0.SelfAttention.v"),
        mlp=mlp,
    )


def _bart_stack(stack: str) -> FamilyRow:
    return FamilyRow(
        backbone=f"model.{stack}",
        blocks=f"model.{stack}.layers",
        embedding="model.shared",
        final_norm=None,
        down="fc2",
        up="fc1",
        attention_output="self_attn.out_proj",
        queries_and_values=("self_attn.q_proj", "self_attn.v_proj"),
        mlp="fc2",
        normalises_stream=True,
    )


_GPT2 = FamilyRow(
    backbone="transformer",
    blocks="transformer.h",
    embedding="transformer.wte",
    final_norm="transformer.ln_f",
    down="mlp.c_proj",
    up="mlp.c_fc",
    attention_output="attn.c_proj",
    queries_and_values=("attn.c_attn",),
)
_LLAMA = FamilyRow(
    backbone="model",
    blocks="model.layers",
    embedding="model.embed_tokens",
    final_norm="model.norm",
    down="mlp.down_proj",
    up="mlp.up_proj",
    gate="mlp.gate_proj",
    attention_output="self_attn.o_proj",
    queries_and_values=("self_attn.q_proj", "self_attn.v_proj"),
)
_GEMMA = replace(
    _LLAMA,
    post_attention_norm="post_attention_layernorm",
    post_mlp_norm="post_feedforward_layernorm",
)
_NEOX = FamilyRow(
    backbone="gpt_neox",
    blocks="gpt_neox.layers",
    embedding="gpt_neox.embed_in",
    final_norm="gpt_neox.final_layer_norm",
    down="mlp.dense_4h_to_h",
    up="mlp.dense_h_to_4h",
    attention_output="attention.dense",
    queries_and_values=("attention.query_key_value",),
    parallel=lambda config: bool(config.use_parallel_residual),
)
_FALCON = FamilyRow(
    backbone="transformer",
    blocks="transformer.h",
    embedding="transformer.word_embeddings",
    final_norm="transformer.ln_f",
    down="mlp.dense_4h_to_h",
    up="mlp.dense_h_to_4h",
    attention_output="self_attention.dense",
    queries_and_values=("self_attention.query_key_value",),
    parallel=lambda config: bool(config.new_decoder_architecture or config.parallel_attn),
)
_MT5 = replace(
    _t5_stack("decoder", "layer.2.DenseReluDense"),
    cross_attention_output="layer.1.EncDecAttention.o",
    encoder=_t5_stack("encoder", "layer.1.DenseReluDense"),
)

FAMILIES: Final[Mapping[str, FamilyRow]] = {
    "gpt2": _GPT2,
    "gptj": replace(
        _GPT2,
        down="mlp.fc_out",
        up="mlp.fc_in",
        attention_output="attn.out_proj",
        queries_and_values=("attn.q_proj", "attn.v_proj"),
        parallel=True,
    ),
    "gpt_neox": _NEOX,
    "opt": FamilyRow(
        backbone="model",
        blocks="model.decoder.layers",
        embedding="model.decoder.embed_tokens",
        final_norm="model.decoder.final_layer_norm",
        output_projection="model.decoder.project_out",
        down="fc2",
        up="fc1",
        attention_output="self_attn.out_proj",
        queries_and_values=("self_attn.q_proj", "self_attn.v_proj"),
        mlp="fc2",
        normalises_stream=lambda config: not config.do_layer_norm_before,
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gemma3": replace(
        _GEMMA,
        backbone="model.language_model",
        blocks="model.language_model.layers",
        embedding="model.language_model.embed_tokens",
        final_norm="model.language_model.norm",
    ),
    "phi": replace(
        _LLAMA,
        final_norm="model.final_layernorm",
        down="mlp.fc2",
        up="mlp.fc1",
        gate=None,
        attention_output="self_attn.dense",
        parallel=True,
    ),
    "falcon": _FALCON,
    "bloom": replace(
        _FALCON,
        mlp="mlp.dense_4h_to_h",
        parallel=False,
        unsupported=_bloom_variant,
    ),
    "t5": replace(_MT5, state_scale=_t5_scale),
    "mt5": _MT5,
    "bart": replace(
        _bart_stack("decoder"),
        cross_attention_output="encoder_attn.out_proj",
        logits_bias="final_logits_bias",
        encoder=_bart_stack("encoder"),
    ),
}
"""Every known family by the `model_type` of its Hugging Face configuration."""
