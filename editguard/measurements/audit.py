"""An audit of the scoring itself: gold answers are dealt to other cases, and everything is scored again.

A score that survives says that the gold answer has leaked into the answer's making or into the comparison.

Source: the leaks named by Yang et al., "The Mirage of Model Editing" (ACL 2025).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from editguard.measurements.matching import PASSING, judge_answer, normalise
from editguard.measurements.record import Measurement

ROUNDS: Final = 20
Judge = Callable[[str, Sequence[str]], bool]
"""Whether an answer passes against accepted ones."""


@dataclass(frozen=True)
class Audit:
    """What became of the score when gold answers were dealt anew.

    Attributes:
        cases: how many have an answer and expected ones.
        score: share that pass against their own.
        permuted: share that pass against another case's, the mean over all rounds.
        shared: share of these pairs whose cases accept a common answer: the chance that permuted answers score at.
        mixed_up: share of the other pairs where the answer is, word for word, one that the other case accepts; high
            for a model that says the same everywhere.
        leak: share of the pairs that pass and are neither: 0 for a comparison of whole answers.
    """

    cases: int
    score: float
    permuted: float
    shared: float
    mixed_up: float
    leak: float


def passes(answer: str, accepted: Sequence[str]) -> bool:
    """The comparison of every measurement by real decoding."""
    return judge_answer(answer, accepted) in PASSING


def audit(measurement: Measurement, *, judge: Judge = passes, rounds: int = ROUNDS, seed: int = 0) -> Audit:
    """Score a measurement's answers against gold answers of other cases.

    Args:
        measurement: of decoded answers; cases without expected answers are left out.
        judge: the comparison under audit.
        rounds: of dealing; in each every case gets another one's expected answers.
        seed: of the dealing.

    Raises: ValueError: fewer than two cases have expected answers, or there is no round.
    """
    cases = [value for value in measurement.values if value.expected and value.valid]
    if len(cases) < 2 or rounds < 1:
        raise ValueError("an audit deals the answers of at least two cases, at least once.")
    draw = random.Random(seed)
    permuted = shared = mixed_up = leak = 0
    for _ in range(rounds):
        order = draw.sample(cases, len(cases))
        for own, other in zip(order, order[1:] + order[:1], strict=True):  # one cycle: nobody keeps its own
            passed = judge(own.answer, other.expected)
            common = not _forms(own.expected).isdisjoint(_forms(other.expected))
            said = not common and normalise(own.answer) in _forms(other.expected)
            permuted += passed
            shared += common
            mixed_up += said
            leak += passed and not common and not said
    pairs = rounds * len(cases)
    score = sum(judge(case.answer, case.expected) for case in cases) / len(cases)
    return Audit(len(cases), score, permuted / pairs, shared / pairs, mixed_up / pairs, leak / pairs)


def _forms(accepted: Sequence[str]) -> frozenset[str]:
    return frozenset(normalise(each) for each in accepted)
