"""Fluency: how varied is a free continuation? A model that an edit has broken repeats itself.

Source: Meng et al., "Locating and Editing Factual Associations in GPT", NeurIPS 2022, section 3.3 and appendix: the
weighted entropy of bigrams and trigrams. Theirs counts the prompt, and draws from one global generator; here the prompt
is left out and every prompt has a seed of its own, so that values are somewhat lower and repeat exactly.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from math import log2
from typing import Final, Protocol

from editguard.edits import EditCase, content_id, superseded
from editguard.measurements.answering import Read
from editguard.measurements.record import CaseValue, Measurement

CONTINUATION_TOKENS: Final = 60
"""Length of a continuation, in the model's tokens."""
WEIGHTS: Final = {2: 2 / 3, 3: 4 / 3}
"""Of the entropies of n-grams, by n; their weighted sum is divided by their number."""
PROTOCOL: Final = "ngram_entropy"
_WORD: Final = re.compile(r"\w+(?:['\u2019]\w+)?|[^\w\s]")


class Continuing(Protocol):
    """A model that continues text freely."""

    def __call__(self, prompts: Sequence[str], *, tokens: int) -> Sequence[str]:
        """Return what follows each prompt, `tokens` tokens of it."""


def continuing(edited: Read, seed: int = 0) -> Continuing:
    """A model's free continuations, each with a seed of its own; whoever answers a prompt continues it."""
    from editguard.models.sampling import continued_freely

    def continued(prompts: Sequence[str], *, tokens: int) -> list[str]:
        made: dict[int, str] = {}
        for model, places, texts in edited.by_model(prompts):
            made.update(zip(places, continued_freely(model, texts, tokens=tokens, seed=seed), strict=True))
        return [made[place] for place in range(len(prompts))]

    return continued


def ngram_entropy(text: str) -> float | None:
    """Mean of w_n H_n over n = 2, 3, where H_n = - sum_g p(g) log2 p(g) over the text's n-grams of words.

    Returns: bits; 0 for one word again and again, None for fewer than three words (there is no trigram).
    """
    words = _WORD.findall(text)
    if len(words) < max(WEIGHTS):
        return None
    return sum(weight * _entropy(words, size) for size, weight in WEIGHTS.items()) / len(WEIGHTS)


def fluency(
    continued: Continuing,
    cases: Sequence[EditCase],
) -> Measurement:
    """Measure the n-gram entropy, in bits, of continuations of the edits' own prompts.

    Args:
        continued: continues prompts on the model with all of `cases` in force.
        cases: the edits applied, in order; superseded ones are left out.
    """
    gone = superseded([case.request for case in cases])
    standing = {case.id: case.request for place, case in enumerate(cases) if place not in gone}
    texts = continued([request.text for request in standing.values()], tokens=CONTINUATION_TOKENS)
    values = []
    for request, text in zip(standing.values(), texts, strict=True):
        value = ngram_entropy(text)
        values.append(
            CaseValue(
                probe=content_id("fluency", request.text, CONTINUATION_TOKENS),
                edit=request.id,
                kind="continuation",
                prompt=request.text,
                expected=(),
                answer=text,
                outcome="invalid" if value is None else "other",
                value=value,
            )
        )
    return Measurement(
        name="fluency",
        protocol=PROTOCOL,
        values=tuple(values),
        edit_ids=tuple(case.id for case in cases),
        superseded_edits=tuple(cases[place].id for place in sorted(gone)),
        unit="bits",
    )


def _entropy(words: Sequence[str], size: int) -> float:
    grams = Counter(zip(*(words[start:] for start in range(size)), strict=False))
    total = sum(grams.values())
    return -sum(count / total * log2(count / total) for count in grams.values()) + 0.0  # no minus zero
