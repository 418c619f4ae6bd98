"""The refusal of the methods that need one causal stream, where the answer follows the prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from editguard.errors import MethodRefused

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel


def needs_causal_stream(model: LanguageModel, method: str) -> None:
    """Refuse a model with an encoder.

    Methods that insert an association at the subject's last token rely on what a causal stream gives: the state there
    has read the subject and nothing behind it, and the answer's tokens read it through attention in the same blocks.

    Raises: MethodRefused: the model has an encoder.
    """
    if model.anatomy.encoder_layers:
        raise MethodRefused(
            f"{method} cannot edit {model.name}, an encoder-decoder model: it writes a fact at the subject's last "
            "token of a causal stream, and here an encoder reads a prompt in both directions and the answer is another "
            "stream. `editguard methods` says which methods edit such models."
        )
