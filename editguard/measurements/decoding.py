"""From prompts to answers by real decoding, among them answers that are reasoned step by step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from editguard.edits.asked import ANSWER_MARK, REASONED_ENDING
from editguard.measurements.answering import ANSWER_TOKENS, Answering, Generated
from editguard.measurements.record import Lookup

MOST_SENTENCES: Final = 5


@dataclass(frozen=True)
class Decoded:
    """An answer as it was decoded; `stopped` is False where a limit ended it. `lookup` is that of a memory of edits."""

    text: str
    stopped: bool
    lookup: Lookup | None = None


def is_reasoned(prompt: str) -> bool:
    """Whether the model is asked to think in sentences before it answers."""
    return prompt.rstrip().endswith(REASONED_ENDING)


def answer_limit(gold_tokens: int) -> int:
    """Limit of new tokens for a probe whose longest expected answer has so many tokens."""
    return max(ANSWER_TOKENS, 2 * gold_tokens + 8)


def decode(model: Answering, prompts: Sequence[str], *, limits: Sequence[int] | None = None) -> list[Decoded]:
    """Return one answer per prompt, in their order.

    Args:
        model: who answers.
        prompts: any mixture of plain and reasoned prompts.
        limits: most new tokens per prompt (for reasoned ones, per sentence); ANSWER_TOKENS by default.
    """
    limits = limits if limits is not None else [ANSWER_TOKENS] * len(prompts)
    groups: dict[tuple[bool, int], list[int]] = defaultdict(list)
    for position, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
        groups[is_reasoned(prompt), limit].append(position)
    answers: dict[int, Decoded] = {}
    for (reasoned, limit), positions in groups.items():
        asked = [prompts[position] for position in positions]
        found = _reasoned(model, asked, limit) if reasoned else _plain(model, asked, limit)
        answers.update(zip(positions, found, strict=True))
    return [answers[position] for position in range(len(prompts))]


def _plain(model: Answering, prompts: Sequence[str], limit: int) -> list[Decoded]:
    found = model.generate(prompts, max_new_tokens=limit)
    return [Decoded(generated.text, generated.stopped, lookup_of(generated)) for generated in found]


def lookup_of(generated: Generated) -> Lookup | None:
    """What an edited model says of the memory that an answer came through; None where there was none.

    An answer that was kept says it in an attribute `lookup`.
    """
    if hasattr(generated, "lookup"):
        kept: Lookup | None = generated.lookup
        return kept
    consulted = getattr(generated, "consulted", None)
    if consulted is None or consulted.route == "plain":
        return None
    return Lookup(
        route=consulted.route,
        retrieved=tuple((found.row, found.similarity) for found in consulted.retrieved),
        tokens=generated.tokens,  # type: ignore[attr-defined]  # comes with `consulted`
        calls=consulted.calls + 1,
        outcome=consulted.outcome,
        sent=generated.prompt,
    )


def _reasoned(model: Answering, prompts: Sequence[str], limit: int) -> list[Decoded]:
    """Sentence by sentence: each is one generation, put behind the prompt for the next.

    Where a memory of edits has sent a prompt that no longer asks to think, the thinking is done: what is said answers.
    """
    texts = list(prompts)
    answers: dict[int, Decoded] = {}
    lookups: dict[int, Lookup] = {}
    for _ in range(MOST_SENTENCES):
        open_ = [position for position in range(len(texts)) if position not in answers]
        if not open_:
            break
        sentences = _plain(model, [texts[position] for position in open_], limit)
        for position, sentence in zip(open_, sentences, strict=True):
            before, mark, answer = sentence.text.partition(ANSWER_MARK)
            if (looked := sentence.lookup) is not None:
                lookups[position] = looked.after(lookups[position]) if position in lookups else looked
            if mark:
                answers[position] = Decoded(answer.strip(), sentence.stopped)
            elif not before.strip() or not sentence.stopped or (looked and REASONED_ENDING not in looked.sent):
                answers[position] = sentence
            texts[position] = f"{texts[position].rstrip()} {before.strip()}."
    found = [answers.get(position, Decoded("", stopped=False)) for position in range(len(texts))]
    return [replace(answer, lookup=lookups.get(position)) for position, answer in enumerate(found)]
