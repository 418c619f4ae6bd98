"""Which tokens end a text, and which open the one that a decoder behind an encoder writes."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editguard.errors import UnsupportedModel
from editguard.models.tokens import TextEncoder


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every token that ends a text by the model's generation settings, its configuration or its
    tokenizer."""
    found: set[int] = set()
    settings = (getattr(model, "generation_config", None), model.config, tokenizer)
    for holder in settings:
        ids = getattr(holder, "eos_token_id", None)
        found.update(ids if isinstance(ids, list | tuple) else [] if ids is None else [ids])
    return frozenset(found)


def opening(model: PreTrainedModel, encoder: TextEncoder) -> tuple[int, ...]:
    """What the decoder reads before an answer: its start token, and then what comes first in every text.

    That is the token that the generation settings force, or what the tokenizer puts before a text, as the targets of
    such a model's training have it.
    """
    settings = [holder for holder in (getattr(model, "generation_config", None), model.config) if holder is not None]

    def stated(name: str) -> int | None:
        return next((value for holder in settings if (value := getattr(holder, name, None)) is not None), None)

    start, forced = stated("decoder_start_token_id"), stated("forced_bos_token_id")
    if start is None:
        raise UnsupportedModel(
            f"nothing says with which token the decoder of this {model.config.model_type} model starts: "
            "set decoder_start_token_id in its config.json."
        )
    return (start, *(encoder.prefix if forced is None else (forced,)))
