"""The counterfactual model of SERAC: a small model that reads an edit and a prompt, and answers as the edit wants.

It is never the model under edit. It has that model's tokens, so that its answers and scores are in the same units.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel

from editguard.errors import MethodRefused
from editguard.methods.scope_classifier import random_model
from editguard.models.answer_passes import whole_answer_passes
from editguard.models.answer_rows import TextPair
from editguard.models.families import FAMILIES
from editguard.models.language_model import LanguageModel
from editguard.models.loading import load_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DEPTHS: Final = (
    "num_hidden_layers",
    "n_layer",
    "num_layers",
    "num_decoder_layers",
    "encoder_layers",
    "decoder_layers",
)
_WIDTHS: Final = ("hidden_size", "n_embd", "d_model", "word_embed_proj_dim")
_INNER: Final = (
    *("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff"),
    *("encoder_ffn_dim", "decoder_ffn_dim"),
)
_HEADS: Final = (
    *("num_attention_heads", "n_head", "num_heads", "encoder_attention_heads", "decoder_attention_heads"),
    *("num_key_value_heads", "num_kv_heads"),
)
"""The names that configurations of Hugging Face have for the same few things."""


def question(row: str, prompt: str) -> str:
    """What the counterfactual model reads: the text of an edit, prompt and target, and a prompt behind it."""
    return f"{row} {prompt}"


# ---- where it comes from


def smaller(config: PreTrainedConfig, layers: int | None, width: int | None) -> PreTrainedConfig:
    """Return the configuration of a smaller model of the same family, for the same tokens.

    Args:
        layers: blocks of each stack; None = a quarter of the model's own, at least 2, as T5-small has of T5-large's.
        width: of the residual stream, in whole attention heads; None = half of the model's own.

    Raises: MethodRefused: the width is not made of whole heads of this model.
    """
    made: Any = copy.deepcopy(config.get_text_config())
    own = {name: getattr(made, name) for name in (*_DEPTHS, *_WIDTHS, *_INNER, *_HEADS) if name in made.to_dict()}
    heads, wide = int(made.num_attention_heads), int(made.hidden_size)
    head = wide // heads
    kept = max(1, heads // 2) if width is None else width // head
    if width is not None and (width % head or not kept):
        raise MethodRefused(
            f"serac: counterfactual_width = {width} is no multiple of the width of this model's attention heads, "
            f"which is {head}."
        )
    depth = {name: own[name] for name in _DEPTHS if isinstance(own.get(name), int)}
    for name, value in own.items():
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        if name in _DEPTHS:
            setattr(made, name, _depth(value, layers))
        elif name in _WIDTHS:
            setattr(made, name, value * kept // heads)
        elif name in _INNER:
            setattr(made, name, max(1, value * kept // heads))
        else:
            setattr(made, name, _divisor(value, kept, heads))
    for name, value in made.to_dict().items():
        if isinstance(value, list) and len(value) in depth.values():  # what every layer has one of
            setattr(made, name, value[: _depth(len(value), layers)])
    return made  # type: ignore[no-any-return]


def _depth(own: int, layers: int | None) -> int:
    return min(own, max(2, own // 4)) if layers is None else layers


def _divisor(value: int, kept: int, heads: int) -> int:
    """As many heads as are kept, or of key and value heads the largest number in proportion that divides them."""
    wanted = max(1, value * kept // heads)
    return next(number for number in range(wanted, 0, -1) if kept % number == 0)


def untrained(model: LanguageModel, layers: int | None, width: int | None, seed: int) -> PreTrainedModel:
    """Return a smaller model of the model's own family with random weights.

    Raises: MethodRefused: the family has no model of that shape.
    """
    config = smaller(model.config, layers, width)
    kind = AutoModelForSeq2SeqLM if FAMILIES[config.model_type].encoder else AutoModelForCausalLM
    try:
        made = random_model(kind, config, seed)
    except (ValueError, RuntimeError, TypeError, AttributeError) as failure:
        raise MethodRefused(
            f"serac cannot make a smaller model of the family of {model.name}: {failure} Name one that was trained "
            "with the same tokens: counterfactual_model."
        ) from failure
    if (settings := getattr(model.module, "generation_config", None)) is not None:
        made.generation_config = copy.deepcopy(settings)
    return made


def started_from(name: str, model: LanguageModel) -> PreTrainedModel:
    """Return the model of that name or folder, in float32.

    Raises: ModelNotLoaded, UnsupportedModel: see `load_model`. MethodRefused: its tokens are others.
    """
    found = load_model(name, device="cpu", dtype="float32", chat="off", offline=model.offline)
    ours, theirs = model.tokenizer.get_vocab(), found.tokenizer.get_vocab()
    if ours != theirs:
        differing = sum(theirs.get(token) != number for token, number in ours.items())
        raise MethodRefused(
            f"serac: the counterfactual model {name} has {len(theirs)} tokens, and {differing} of the {len(ours)} of "
            f"{model.name} are others there or missing: it has to share the tokenizer, so that both give scores of the "
            "same tokens. Leave counterfactual_model out to have a small one of the model's own family."
        )
    return found.module


def as_language_model(
    module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, batch_size: int
) -> LanguageModel:
    """Return the counterfactual model as what answers and scores."""
    return LanguageModel(module, tokenizer, name=f"{name}, counterfactual model", batch_size=batch_size)


# ---- what it learns


def answer_losses(model: LanguageModel, pairs: Sequence[TextPair]) -> tuple[Tensor, Tensor]:
    """Return the mean loss of each pair's answer, (pairs,), nats per token, and whether all its tokens are the
    likeliest, (pairs,), bool. Gradients flow into every weight.

    An answer ends with the token that ends a text, where the model has one: whoever answers has to learn to stop.
    """
    ends = () if model.anatomy.encoder_layers else tuple(sorted(model.end_ids))[:1]
    encoded = [(before, (*after, *ends)) for before, after in (model.encode_answer(*pair) for pair in pairs)]
    logits = whole_answer_passes(model, encoded).logits()
    labels = torch.tensor([token for _, after in encoded for token in after], device=logits.device)
    lengths = [len(after) for _, after in encoded]
    losses = torch.split(nn.functional.cross_entropy(logits, labels, reduction="none"), lengths)
    right = torch.split(logits.detach().argmax(-1) == labels, lengths)
    return torch.stack([each.mean() for each in losses]), torch.stack([each.all() for each in right])
