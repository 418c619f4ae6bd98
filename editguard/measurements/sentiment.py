"""An edit of an opinion: does the model now find replies of the wanted sentiment likelier than the others?

Source: Mitchell et al., "Memory-Based Model Editing at Scale" (ICML 2022), ConvSent, whose measure KnowEdit (Zhang et
al., 2024) takes over. Nothing is decoded: the replies are given, and their tokens are scored by teacher forcing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, fsum, isfinite
from typing import Final

from editguard.edits import EditCase, content_id
from editguard.errors import ConfigurationError
from editguard.measurements.answering import Answering, Scored
from editguard.measurements.record import CaseValue, Measurement
from editguard.measurements.selection import standing_cases

PROTOCOL: Final = "reply_likelihood"


@dataclass(frozen=True, kw_only=True)
class Replies:
    """What may be said about a topic.

    Attributes:
        prompt: what the replies answer.
        wanted: replies of the sentiment that the edit asks for.
        other: replies of the opposite one.
    """

    prompt: str
    wanted: tuple[str, ...]
    other: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("wanted", "other"):
            replies = getattr(self, name)
            if isinstance(replies, str) or not replies or not all(text.strip() for text in replies):
                raise ConfigurationError(
                    f"the {name} replies to {self.prompt!r} are {replies!r}; give a list of texts, none of them empty."
                )
            object.__setattr__(self, name, tuple(replies))


def sentiment_score(wanted: float, other: float, wanted_before: float) -> float:
    """Return sigmoid(wanted - other) * min(1, exp(wanted - wanted_before)), in [0, 1].

    The first factor asks whether the wanted sentiment is likelier than the other one, the second takes off for a model
    that has become worse at such replies altogether.

    Args:
        wanted, other: mean log-probability per token of the replies after the edit, in nats.
        wanted_before: the same of the wanted replies before the edit.
    """
    likelier = 1 / (1 + exp(min(other - wanted, 700.0)))
    return likelier * exp(min(0.0, wanted - wanted_before))


def sentiment(
    edited: Answering,
    original: Answering,
    cases: Sequence[EditCase],
    replies: Mapping[str, Replies],
) -> Measurement:
    """Measure `sentiment_score`, a value per edit. Without an edit it is sigmoid(wanted - other): the bar to pass.

    Args:
        replies: per subject. Edits of other subjects are left out, and counted.
        edited, original, cases: as for `measure`.

    Raises: ConfigurationError: there are no replies about the subject of any edit in force.
    """
    standing, gone = standing_cases(cases)
    known = [case for case in standing if case.request.subject in replies]
    if not known:
        raise ConfigurationError("there are no replies about the subject of any edit in force.")
    values = []
    for case in known:
        own = replies[case.request.subject]
        wanted, other, before = (
            _per_token(state.score([(own.prompt, reply) for reply in texts]))
            for state, texts in ((edited, own.wanted), (edited, own.other), (original, own.wanted))
        )
        value = sentiment_score(wanted, other, before) if isfinite(wanted + other + before) else None
        values.append(
            CaseValue(
                probe=content_id("sentiment", own.prompt, own.wanted, own.other),
                edit=case.request.id,
                kind="replies",
                prompt=own.prompt,
                expected=own.wanted,
                answer="",
                outcome="invalid" if value is None else "other",
                value=value,
            )
        )
    return Measurement(
        name="sentiment",
        protocol=PROTOCOL,
        values=tuple(values),
        edit_ids=tuple(case.id for case in cases),
        excluded_probes=tuple(content_id("sentiment", case.id) for case in standing if case not in known),
        superseded_edits=gone,
        unit="score",
    )


def _per_token(scores: Sequence[Scored]) -> float:
    """The mean log-probability over all tokens of all replies, in nats."""
    return fsum(score.log_prob for score in scores) / sum(len(score.answer_ids) for score in scores)
