"""What an edited model answers to its own edits: asked when it is released, and again when it is verified."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from editguard.edits import EditCase
from editguard.measurements.decoding import decode
from editguard.probes import probes_of

if TYPE_CHECKING:
    from editguard.edited import EditedModel

TOLERANCES: Final[Mapping[str, float]] = {"float64": 1e-6, "float32": 1e-3, "bfloat16": 0.25, "float16": 0.05}
"""By how much a score may differ, in nats per token of the answer, by the type of the weights.

Texts are compared exactly, whatever the type. Sums in another order (batch size, threads, device) move a score a
little; `docs/release-gate.md` has the figures.
"""
TOLERANCE_OTHERWISE: Final = 0.25
"""For weights of any other type."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One prompt that belongs to an edit.

    Attributes:
        request: content id of the edit request.
        kind: of the probe: "request" for the request's own prompt, else such as "rephrase".
        prompt: as it is asked.
        expected: the answer that is scored.
    """

    request: str
    kind: str
    prompt: str
    expected: str


@dataclass(frozen=True, kw_only=True)
class ReleasedAnswer(Question):
    """What the model said to it.

    Attributes:
        answer: the decoded text.
        log_prob: of the expected answer by teacher forcing, unit: nats; None where it is not a finite number.
        tokens: of the expected answer.
    """

    answer: str
    log_prob: float | None
    tokens: int

    @property
    def given(self) -> bool:
        """Whether the expected answer is what the model says."""
        return self.answer == self.expected

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote. Raises: TypeError: it is something else."""
        return cls(**record)


def questions(cases: Iterable[EditCase]) -> tuple[Question, ...]:
    """Of each case the request's own prompt, then the probes of generalization that it declares."""
    return tuple(
        Question(
            request=case.id,
            kind="request" if about == "reliability" else probe.kind,
            prompt=probe.prompt,
            expected=probe.answers[0],
        )
        for case in cases
        for about in ("reliability", "generalization")
        for probe in probes_of(case, about)
    )


def ask(edited: EditedModel, asked: Sequence[Question]) -> tuple[ReleasedAnswer, ...]:
    """Ask the model, in batches; the answers stand in the order of the questions."""
    found = decode(edited, [each.prompt for each in asked])
    scores = edited.score([(each.prompt, each.expected) for each in asked])
    return tuple(
        ReleasedAnswer(
            request=each.request,
            kind=each.kind,
            prompt=each.prompt,
            expected=each.expected,
            answer=decoded.text,
            log_prob=score.log_prob if math.isfinite(score.log_prob) else None,
            tokens=len(score.answer_ids),
        )
        for each, decoded, score in zip(asked, found, scores, strict=True)
    )


def tolerance(dtype: str) -> float:
    """By how much scores of weights of that type may differ, in nats per token."""
    return TOLERANCES.get(dtype, TOLERANCE_OTHERWISE)


def differences(recorded: Sequence[ReleasedAnswer], found: Sequence[ReleasedAnswer], *, within: float) -> list[str]:
    """One line for each answer that is another text, or whose score is another.

    Args:
        recorded, found: of the same questions, in the same order.
        within: allowed difference of a score, in nats per token of the expected answer.
    """
    lines = []
    for before, now in zip(recorded, found, strict=True):
        if now.answer != before.answer:
            lines.append(f"{before.prompt!r}: the answer was {before.answer!r} and is {now.answer!r}")
        elif not _near(before.log_prob, now.log_prob, within * max(before.tokens, 1)):
            lines.append(
                f"{before.prompt!r}: the log-probability of {before.expected!r} was {_shown(before.log_prob)} and is "
                f"{_shown(now.log_prob)} nats, further away than {within * max(before.tokens, 1):g}"
            )
    return lines


def _near(before: float | None, now: float | None, allowed: float) -> bool:
    if before is None or now is None:
        return before is now
    return abs(before - now) <= allowed


def _shown(log_prob: float | None) -> str:
    return "undefined" if log_prob is None else f"{log_prob:.6f}"
