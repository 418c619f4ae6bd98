"""What a scope classifier learns from: for every edit a prompt in its scope, and prompts out of it.

Out of scope are prompts whose answers should stay, and prompts of other edits; of these the near ones, which are hard
to tell from the edit, are drawn more often. The nearest of all are left out, because they may be in scope.

Source: the hard negatives are those of the released code of Mitchell, Lin, Bosselut, Manning, Finn, ICML 2022.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from editguard.edited.searching import Encoder, Numbers, Places
from editguard.methods.editor_examples import Draws, EditorExample
from editguard.models.answer_rows import TextPair

NEAREST: Final = 100
"""Of the other prompts, how many are near."""
SKIPPED: Final = 25
"""Of the nearest, how many may really be in scope."""
TEMPERATURE: Final = 0.1
POOL: Final = 20_000
"""Prompts that are drawn from, at most."""
_QUERIES_AT_ONCE: Final = 128


def hard_negatives(similarities: Numbers) -> tuple[Places, Numbers]:
    """Return which texts are hard negatives, by falling similarity, and the probability of each.

    similarities: (texts,), of an edit with all texts that are out of its scope. Ranks 25 to 99 are hard negatives,
    drawn in proportion to exp(similarity / 0.1); none where there are no more than 25 texts.
    """
    places = np.argsort(-similarities, kind="stable")[SKIPPED:NEAREST]
    if not len(places):
        return places, similarities[:0]
    weights = np.exp((similarities[places] - similarities[places].max()) / TEMPERATURE)
    return places, weights / weights.sum()


class NegativePool:
    """Prompts of edits and prompts that should stay, each out of scope of every edit but those that it speaks of."""

    def __init__(self, examples: Sequence[EditorExample], nearness: Encoder, *, hard: bool, seed: int) -> None:
        in_scope: dict[tuple[str, ...], set[str]] = {}
        for each in examples:
            in_scope.setdefault(each.request.fact_key, set()).update(_in_scope(each))
        texts = list(dict.fromkeys(prompt for each in examples for prompt, _ in _prompts(each)))
        if len(texts) > POOL:
            texts = sorted(random.Random(f"negative pool|{seed}").sample(texts, POOL))
        self._texts, self._in_scope = texts, in_scope
        self._near: Mapping[str, tuple[list[str], list[float]]] = self._nearest(examples, nearness) if hard else {}

    def draw(self, example: EditorExample, rng: random.Random, *, hard: bool) -> str | None:
        """Return a prompt that is out of the edit's scope; None where there is none."""
        if hard and (near := self._near.get(example.request.id)):
            return rng.choices(near[0], near[1])[0]
        taboo = self._in_scope[example.request.fact_key]
        for _ in range(100):
            if self._texts and (text := rng.choice(self._texts)) not in taboo:
                return text
        return None

    def _nearest(
        self, examples: Sequence[EditorExample], nearness: Encoder
    ) -> dict[str, tuple[list[str], list[float]]]:
        index = nearness.index(self._texts)
        place = {text: number for number, text in enumerate(self._texts)}
        found = {}
        for start in range(0, len(examples), _QUERIES_AT_ONCE):
            asked = examples[start : start + _QUERIES_AT_ONCE]
            for each, row in zip(asked, index.similarities([e.request.text for e in asked]), strict=True):
                own = [place[text] for text in self._in_scope[each.request.fact_key] if text in place]
                others = np.delete(np.arange(len(self._texts)), own)
                places, chances = hard_negatives(row[others])
                if len(places):
                    found[each.request.id] = ([self._texts[n] for n in others[places]], chances.tolist())
        return found


def _in_scope(example: EditorExample) -> set[str]:
    return {example.pair[0], *(prompt for prompt, _ in example.rephrases)}


def _prompts(example: EditorExample) -> tuple[TextPair, ...]:
    return (example.pair, *example.rephrases, *example.locality)


@dataclass(frozen=True)
class ScopeBatch:
    """Some edits, and what is asked about each.

    Attributes:
        rows: the text of every edit: its prompt and its target.
        in_scope: a prompt with its answer for every edit.
        out_of_scope: prompts, and `out_of` the edit that each is out of scope of.
    """

    rows: tuple[str, ...]
    in_scope: tuple[TextPair, ...]
    out_of_scope: tuple[str, ...]
    out_of: tuple[int, ...]


class ScopeDraws:
    """Batches of edits that depend on the seed and their number alone.

    Args:
        draws: edits in a shuffled order, with a rephrase each, and with prompts that should stay.
        hard: share of the prompts from the pool that are hard negatives.
    """

    def __init__(self, draws: Draws, nearness: Encoder, *, hard: float, seed: int) -> None:
        self._draws, self._hard, self._seed = draws, hard, seed
        self._pool = NegativePool(draws.examples, nearness, hard=hard > 0, seed=seed)

    def __len__(self) -> int:
        return len(self._draws.examples)

    def take(self, start: int, count: int) -> ScopeBatch:
        """Return the draws number `start` to `start + count - 1`: the request itself or a rephrase, one as likely as
        the other, the prompts that should stay, and one prompt of another edit."""
        drawn = self._draws.take(start, count)
        asked: list[TextPair] = []
        out = list(zip(drawn.locality, drawn.locality_of, strict=True))
        left = [(prompt, of) for (prompt, _), of in out]
        for position, (example, rephrase) in enumerate(zip(drawn.examples, drawn.rephrases, strict=True)):
            rng = random.Random(f"scope|{self._seed}|{start + position}")
            asked.append(example.pair if rng.random() < 0.5 else rephrase)
            other = self._pool.draw(example, rng, hard=rng.random() < self._hard)
            if other is not None:
                left.append((other, position))
        rows = tuple(example.request.statement for example in drawn.examples)
        return ScopeBatch(rows, tuple(asked), tuple(prompt for prompt, _ in left), tuple(of for _, of in left))
