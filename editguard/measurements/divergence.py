"""Divergence of the next-token distribution on text that no edit is about: what moves before any answer flips.

Source: the drawdown of De Cao et al., "Editing Factual Knowledge in Language Models" (EMNLP 2021) and Mitchell et al.,
"Fast Model Editing at Scale" (ICLR 2022), who hold it down by this divergence in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from editguard.edits import EditCase, content_id, superseded
from editguard.errors import ConfigurationError
from editguard.measurements.answering import Read
from editguard.measurements.perplexity import parted
from editguard.measurements.record import CaseValue, Measurement

if TYPE_CHECKING:
    from torch import Tensor


PROTOCOL: Final = "kl_divergence"
ROWS: Final = 16
"""So many texts' distributions of both states are in memory at a time."""
Over = Literal["texts", "next tokens"]


def divergence(
    edited: Read,
    original: Read,
    cases: Sequence[EditCase],
    texts: Sequence[str],
    *,
    over: Over = "texts",
) -> Measurement:
    """Measure KL(before || after) of next-token distributions, in nats; a value per text, the mean over its positions.

    Args:
        edited, original: the model with all of `cases` in force, and without any edit.
        texts: sentences or prompts that no edit is about; one that occurs twice counts once.
        over: "texts" feeds each text and compares at every token behind its first word; "next tokens" compares
            behind the whole text alone.
        cases: the edits applied, in order.

    Computed in float32 over the whole vocabulary, a few texts at a time. A text that another model answers in the
    edited one's place, with another vocabulary, has no value.

    Raises: ConfigurationError: there is no text, or none of two words. PromptTooLong: one does not fit the context.
    """
    unique = [text for text in dict.fromkeys(texts) if text.strip()]
    if over == "texts":
        pairs = [part for text in unique if (part := parted(text)) is not None]
        unique = [text for text in unique if parted(text) is not None]
    else:
        pairs = [(text, "") for text in unique]
    if not pairs:
        raise ConfigurationError("the divergence needs texts; over texts, of two words or more.")
    values: list[float | None] = []
    for start in range(0, len(pairs), ROWS):
        values += _divergences(edited, original, pairs[start : start + ROWS])
    requests = [case.request for case in cases]
    return Measurement(
        name="divergence" if over == "texts" else "divergence of next tokens",
        protocol=PROTOCOL,
        values=tuple(
            CaseValue(
                probe=content_id("divergence", over, text),
                edit="",
                kind="text",
                prompt=text,
                expected=(),
                answer="",
                outcome="invalid" if value is None else "other",
                value=value,
            )
            for text, value in zip(unique, values, strict=True)
        ),
        edit_ids=tuple(request.id for request in requests),
        superseded_edits=tuple(requests[place].id for place in sorted(superseded(requests))),
        unit="nats",
        lower_is_better=True,
    )


def _divergences(edited: Read, original: Read, pairs: Sequence[tuple[str, str]]) -> list[float | None]:
    from editguard.models.divergence import kl_divergence

    before, after = (_logits(state, pairs) for state in (original, edited))
    return [
        kl_divergence(first, second.to(first.device)).mean().item() if first.shape == second.shape else None
        for first, second in zip(before, after, strict=True)
    ]


def _logits(state: Read, pairs: Sequence[tuple[str, str]]) -> list[Tensor]:
    from editguard.models.divergence import forced_logits

    found: dict[int, Tensor] = {}
    for model, places, prompts in state.by_model([prompt for prompt, _ in pairs]):
        own = [(prompt, pairs[place][1]) for prompt, place in zip(prompts, places, strict=True)]
        for batch, logits in forced_logits(model, own):
            found.update(zip((places[index] for index in batch), logits, strict=True))
    return [found[place] for place in range(len(pairs))]
