"""Tiny random models of every family, with real fast tokenizers, made in memory.

Their widths are chosen so that no two coincide by accident: d_model 16, d_ff 40 (64 for Bloom,
whose width is fixed), 4 layers; an encoder and its decoder have 2 and 3. Weights are large enough
that different prompts get different answers.
"""

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MT5Config,
    OPTConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    T5Config,
)

from editguard.models.language_model import LanguageModel

D_MODEL, D_FF, LAYERS, CONTEXT, WINDOW = 16, 40, 4, 256, 6
ENCODER_LAYERS, DECODER_LAYERS = 2, 3
WIDE = 96
"""Width of the models that can be taught something: in 16 dimensions neither tokens nor states are far apart."""

SENTENCES = (
    "The capital of Velloria is Tamrin.",
    "The capital of Oskaria is Belmora, and its mayor is Ines Holt.",
    "Velloria's official language is Tamric. Which city is the capital of Velloria? Answer: Tamrin",
    "Ines Holt was born in Belmora; she lives in Tamrin with her brother Aldo Holt.",
    "Question: who is the mayor of Tamrin? Answer: Aldo Holt",
    "The mother of Quintessa Marlowe-Vane is Odalys Vane.",
    "Copy: red blue green. Result: red blue green",
)

_SPECIAL = {"bos": "<s>", "eos": "</s>", "pad": "<pad>"}
_BOS_ID, _EOS_ID, _PAD_ID = range(3)


def _opt(vocab: int, d_ff: int, **more: Any) -> PreTrainedConfig:
    return OPTConfig(
        vocab_size=vocab,
        hidden_size=D_MODEL,
        ffn_dim=d_ff,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        **{"word_embed_proj_dim": D_MODEL, **more},
    )


def _falcon(vocab: int, d_ff: int, **more: Any) -> PreTrainedConfig:
    return FalconConfig(
        vocab_size=vocab,
        hidden_size=D_MODEL,
        ffn_hidden_size=d_ff,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        **more,
    )


_NO_ENDS = {"bos_token_id": None, "eos_token_id": None}  # theirs lie beyond this vocabulary


def _gpt(config: type[PreTrainedConfig], vocab: int, d_ff: int, **more: Any) -> PreTrainedConfig:
    return config(
        vocab_size=vocab,
        n_embd=D_MODEL,
        n_inner=d_ff,
        n_layer=LAYERS,
        n_head=2,
        n_positions=CONTEXT,
        **_NO_ENDS,
        **more,
    )


def _modern(config: type[PreTrainedConfig], vocab: int, d_ff: int, **more: Any) -> PreTrainedConfig:
    return config(
        vocab_size=vocab,
        hidden_size=D_MODEL,
        intermediate_size=d_ff,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        **more,
    )


def _with_vision(vocab: int, d_ff: int) -> PreTrainedConfig:
    text = _modern(Gemma3TextConfig, vocab, d_ff, **_GEMMA)
    vision = {"num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 8, "patch_size": 4}
    return Gemma3Config(
        text_config=text.to_dict(),
        vision_config={"hidden_size": 8, "intermediate_size": 8, **vision},
        image_token_index=vocab - 1,
        boi_token_index=vocab - 2,
        eoi_token_index=vocab - 3,
        mm_tokens_per_image=4,
    )


def _t5(vocab: int, d_ff: int, *, kind: type[PreTrainedConfig] = T5Config, **more: Any) -> PreTrainedConfig:
    return kind(
        vocab_size=vocab,
        d_model=D_MODEL,
        d_kv=6,
        d_ff=d_ff,
        num_layers=ENCODER_LAYERS,
        num_decoder_layers=DECODER_LAYERS,
        num_heads=2,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=20,
        decoder_start_token_id=_PAD_ID,
        **more,
    )


def _bart(vocab: int, d_ff: int) -> PreTrainedConfig:
    return BartConfig(
        vocab_size=vocab,
        d_model=D_MODEL,
        encoder_ffn_dim=d_ff,
        decoder_ffn_dim=d_ff,
        encoder_layers=ENCODER_LAYERS,
        decoder_layers=DECODER_LAYERS,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        max_position_embeddings=CONTEXT,
        scale_embedding=True,
        pad_token_id=_PAD_ID,
        decoder_start_token_id=_EOS_ID,
    )


_GROUPED = {"num_key_value_heads": 1}
_WINDOWS = {
    "layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2),
    "sliding_window": WINDOW,
}
_GEMMA = {**_GROUPED, **_WINDOWS, "head_dim": 12, "query_pre_attn_scalar": 12}

_CONFIGS: dict[str, Callable[[int, int], PreTrainedConfig]] = {
    "gpt2": lambda vocab, d_ff: _gpt(GPT2Config, vocab, d_ff),
    "gptj": lambda vocab, d_ff: _gpt(GPTJConfig, vocab, d_ff, rotary_dim=4, tie_word_embeddings=False),
    "gpt_neox": lambda vocab, d_ff: _modern(GPTNeoXConfig, vocab, d_ff, use_parallel_residual=True),
    "gpt_neox_sequential": lambda vocab, d_ff: _modern(GPTNeoXConfig, vocab, d_ff, use_parallel_residual=False),
    "opt": lambda vocab, d_ff: _opt(vocab, d_ff),
    "opt_post_norm": lambda vocab, d_ff: _opt(vocab, d_ff, do_layer_norm_before=False, word_embed_proj_dim=12),
    "llama": lambda vocab, d_ff: _modern(LlamaConfig, vocab, d_ff, **_GROUPED),
    "mistral": lambda vocab, d_ff: _modern(MistralConfig, vocab, d_ff, **_GROUPED, sliding_window=WINDOW),
    "qwen2": lambda vocab, d_ff: _modern(Qwen2Config, vocab, d_ff, **_GROUPED, tie_word_embeddings=True),
    "qwen3": lambda vocab, d_ff: _modern(Qwen3Config, vocab, d_ff, **_GROUPED, head_dim=12),
    "gemma2": lambda vocab, d_ff: _modern(Gemma2Config, vocab, d_ff, **_GEMMA),
    "gemma3_text": lambda vocab, d_ff: _modern(Gemma3TextConfig, vocab, d_ff, **_GEMMA),
    "gemma3": lambda vocab, d_ff: _with_vision(vocab, d_ff),
    "phi": lambda vocab, d_ff: _modern(PhiConfig, vocab, d_ff, partial_rotary_factor=0.5),
    "falcon": lambda vocab, d_ff: _falcon(vocab, d_ff, multi_query=True, parallel_attn=True),
    "falcon_alibi": lambda vocab, d_ff: _falcon(vocab, d_ff, alibi=True, parallel_attn=False, bias=True),
    "falcon_new": lambda vocab, d_ff: _falcon(vocab, d_ff, new_decoder_architecture=True, num_kv_heads=1),
    "bloom": lambda vocab, _: BloomConfig(vocab_size=vocab, hidden_size=D_MODEL, n_layer=LAYERS, n_head=2),
}

_PAIRED_CONFIGS: dict[str, Callable[[int, int], PreTrainedConfig]] = {
    "t5": lambda vocab, d_ff: _t5(vocab, d_ff, feed_forward_proj="relu"),
    "t5_gated": lambda vocab, d_ff: _t5(vocab, d_ff, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "mt5": lambda vocab, d_ff: _t5(vocab, d_ff, kind=MT5Config),
    "bart": lambda vocab, d_ff: _bart(vocab, d_ff),
}

FAMILIES: tuple[str, ...] = tuple(_CONFIGS)
"""Every family of decoders, and the variants of a family that differ in what its row says."""

ENCODER_DECODER: tuple[str, ...] = tuple(_PAIRED_CONFIGS)
"""Every family of encoders with a decoder, and their variants; quick tests take the first."""

PAIRED = [ENCODER_DECODER[0], *(pytest.param(name, marks=pytest.mark.slow) for name in ENCODER_DECODER[1:])]
"""The same for tests, those that are not quick marked so."""

EVERY = [*FAMILIES, *PAIRED]
"""Every family of either kind, for tests."""

REPRESENTATIVE: tuple[str, ...] = ("gpt2", "gptj", "llama", "opt")
"""Conv1D with tied head; parallel blocks with a head bias; gated without biases; ReLU with BOS."""

ALL: tuple[str, ...] = (*FAMILIES, *ENCODER_DECODER)
"""Their names."""

QUICK: tuple[str, ...] = (*REPRESENTATIVE, ENCODER_DECODER[0])
"""Those that quick tests take."""

WITH_BOS = frozenset({"opt", "opt_post_norm", "llama", "mistral", "gemma2", "gemma3_text", "gemma3", "bart"})


@cache
def _trained_bpe() -> str:
    """A byte-level BPE in JSON, trained on the sentences."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=list(_SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(SENTENCES, trainer)
    return bpe.to_str()


def tokenizer(family: str = "gpt2", *, bos: bool | None = None, pad: bool = False) -> PreTrainedTokenizerFast:
    """A fast tokenizer: with a BOS in front of every text and an EOS behind it where the family has one, and no pad
    token unless asked."""
    bpe = Tokenizer.from_str(_trained_bpe())
    begins = family in WITH_BOS if bos is None else bos
    single = f"{'<s> ' * begins}$A{' </s>' * (family in ENCODER_DECODER)}"
    if single != "$A":
        bpe.post_processor = processors.TemplateProcessing(
            single=single, pair=f"{single} $B", special_tokens=[("<s>", _BOS_ID), ("</s>", _EOS_ID)]
        )
    names = {"bos_token": _SPECIAL["bos"], "eos_token": _SPECIAL["eos"]}
    if pad:
        names["pad_token"] = _SPECIAL["pad"]
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **names)


def module(family: str, *, square: bool = False, dtype: torch.dtype = torch.float32, seed: int = 0) -> PreTrainedModel:
    """A random Hugging Face model of the family; the global random state stays as it is."""
    if square and family == "bloom":
        raise ValueError("Bloom's inner width is always four times its outer one")
    words = tokenizer(family)
    paired = family in ENCODER_DECODER
    config = {**_CONFIGS, **_PAIRED_CONFIGS}[family](len(words), D_MODEL if square else D_FF)
    config.bos_token_id, config.eos_token_id = words.bos_token_id, words.eos_token_id
    config.pad_token_id = _PAD_ID if paired else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = (AutoModelForSeq2SeqLM if paired else AutoModelForCausalLM).from_config(config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if parameter.ndim == 1:
                    parameter += 0.1 * noise
                else:
                    parameter.copy_(0.3 * noise)
            if family == "bart":
                model.generation_config.forced_bos_token_id = _BOS_ID
                model.final_logits_bias.copy_(torch.randn(model.final_logits_bias.shape, generator=generator))
    assert isinstance(model, PreTrainedModel)
    return model.to(dtype)


def tiny(
    family: str,
    *,
    square: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    chat: bool = False,
    batch_size: int = 32,
) -> LanguageModel:
    """A random language model of the family; `square` makes d_ff equal to d_model."""
    return LanguageModel(
        module(family, square=square, dtype=dtype, seed=seed),
        tokenizer(family),
        name=f"tiny-{family}",
        batch_size=batch_size,
        chat=chat,
    )


def wide(family: str, *, dtype: torch.dtype = torch.float32, batch_size: int = 32) -> LanguageModel:
    """A random model with a stream of `WIDE`: two blocks of "opt" (ReLU), "gpt2" (GELU) or "llama" (gated), or "t5"."""
    words = tokenizer(family)
    shared = {"vocab_size": len(words), "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    modern = {"hidden_size": WIDE, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": CONTEXT}
    paired = {"d_model": WIDE, "d_kv": WIDE // 2, "d_ff": 2 * WIDE, "num_layers": 1, "num_decoder_layers": 2}
    config = {
        "opt": lambda: OPTConfig(**shared, **modern, ffn_dim=2 * WIDE, word_embed_proj_dim=WIDE, pad_token_id=None),
        "gpt2": lambda: GPT2Config(**shared, n_embd=WIDE, n_layer=2, n_head=2, n_positions=CONTEXT),
        "llama": lambda: LlamaConfig(**shared, **modern, intermediate_size=2 * WIDE),
        "t5": lambda: T5Config(
            **shared,
            **paired,
            num_heads=2,
            tie_word_embeddings=False,
            pad_token_id=_PAD_ID,
            decoder_start_token_id=_PAD_ID,
        ),
    }[family]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = (AutoModelForSeq2SeqLM if family in ENCODER_DECODER else AutoModelForCausalLM).from_config(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / WIDE**0.5)
    return LanguageModel(model.to(dtype), words, name=f"wide-{family}", batch_size=batch_size)


def word_texts(count: int, *, seed: int = 0) -> tuple[str, ...]:
    """Texts of twelve words of the sentences, in any order."""
    rng = random.Random(seed)
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    return tuple(" ".join(rng.choice(words) for _ in range(12)) for _ in range(count))
