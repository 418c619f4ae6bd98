"""Perplexity of fixed texts: the cheapest sign that a sequence of edits has broken a model.

Source: Yang et al., "The Butterfly Effect of Model Editing" (ACL Findings 2024): perplexity on a set of short sentences
tracks what is left of other tasks, and one edit can raise it by orders of magnitude.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import isfinite
from typing import Final, Literal

from editguard.edits import EditCase, content_id, superseded
from editguard.errors import ConfigurationError
from editguard.measurements.answering import Answering
from editguard.measurements.record import CaseValue, Measurement

PROTOCOL: Final = "log_perplexity"
UNIT: Final = "nats per token"
Of = Literal["level", "rise"]
_BEGINNING: Final = re.compile(r"\s*\S+")


def log_perplexity(model: Answering, texts: Sequence[str]) -> list[float | None]:
    """Return -log p(text's tokens behind its first word) / their number, in nats, for each text; exp of it is the
    perplexity. None where a probability has no finite logarithm, or a text has one word alone.
    """
    parts = [parted(text) for text in texts]
    pairs = [part for part in parts if part is not None]
    scores = iter(model.score(pairs) if pairs else [])
    found: list[float | None] = []
    for part in parts:
        loss = None
        if part is not None:
            score = next(scores)
            loss = -score.log_prob / len(score.answer_ids)
        found.append(loss if loss is not None and isfinite(loss) else None)
    return found


def perplexity(
    edited: Answering,
    original: Answering,
    cases: Sequence[EditCase],
    texts: Sequence[str],
    *,
    of: Of = "level",
) -> Measurement:
    """Measure the logarithm of the perplexity of each text, in nats per token; a text that occurs twice counts once.

    Args:
        edited: the model with all of `cases` in force.
        original: the model without any edit.
        cases: the edits applied, in order.
        texts: sentences that no edit is about.
        of: "level" is that of the edited model; "rise" is by how much it is above the unedited model's: 0 without an
            edit, log 2 where the perplexity has doubled.

    Raises: ConfigurationError: no text has more than one word.
    """
    asked = [text for text in dict.fromkeys(texts) if parted(text) is not None]
    if not asked:
        raise ConfigurationError("perplexity needs texts of two words or more: the first one is given to the model.")
    before = log_perplexity(original, asked) if of == "rise" else [0.0] * len(asked)
    after = log_perplexity(edited, asked)
    requests = [case.request for case in cases]
    return Measurement(
        name="perplexity" if of == "level" else "perplexity rise",
        protocol=PROTOCOL,
        values=tuple(_value(*each) for each in zip(asked, before, after, strict=True)),
        edit_ids=tuple(request.id for request in requests),
        superseded_edits=tuple(requests[place].id for place in sorted(superseded(requests))),
        unit=UNIT,
        lower_is_better=True,
    )


def parted(text: str) -> tuple[str, str] | None:
    """First word and rest; None for a text without a rest."""
    beginning = _BEGINNING.match(text)
    rest = text[beginning.end() :].strip() if beginning else ""
    return (beginning.group().strip(), rest) if beginning and rest else None


def _value(text: str, before: float | None, after: float | None) -> CaseValue:
    value = None if before is None or after is None else after - before
    return CaseValue(
        probe=content_id("perplexity", text),
        edit="",
        kind="text",
        prompt=text,
        expected=(),
        answer="",
        outcome="invalid" if value is None else "other",
        value=value,
    )
