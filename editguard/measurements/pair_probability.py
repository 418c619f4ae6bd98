"""Which of two given answers is likelier: the scores of ROME and MEMIT on COUNTERFACT, beside real decoding.

The protocol `pair_probability` asks whether the new target beats the old one (on requests and rephrases), and whether
the answer that should stay beats the new target (on neighbours). Both may be improbable, and decoding may say a third
thing, so that such a score stands above what a user sees.

Source: Meng et al., "Locating and Editing Factual Associations in GPT" (NeurIPS 2022), section 3.3; ES, PS, NS are the
means of `preference`, EM, PM, NM those of `margin`, and S is `harmonic_mean` of the first three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, isfinite
from typing import Final, Literal

from editguard.edits import EditCase, Probe, Property
from editguard.errors import ConfigurationError
from editguard.measurements.answering import Answering, Scored
from editguard.measurements.decoding import decode, is_reasoned
from editguard.measurements.record import CaseValue, Measurement
from editguard.measurements.scores import spelled
from editguard.measurements.selection import Asked, only_known, select

PROTOCOL: Final = "pair_probability"
ALIAS: Final = "subject_replace"
"""The kind of portability whose answer is the target."""
Compared = Literal["preference", "margin"]


@dataclass(frozen=True)
class Pair:
    """One question with the answer that should win and the one that should lose.

    Attributes:
        asked: the probe, and the edit that it speaks of.
        wanted, other: the two answers.
    """

    asked: Asked
    wanted: str
    other: str


def token_probability(log_prob: float, tokens: int) -> float:
    """Return P(y|x) = exp(log p(y|x) / |y|): the geometric mean over the answer's tokens, in [0, 1].

    Args:
        log_prob: of the whole answer, in nats.
        tokens: of the answer, at least one.
    """
    return exp(min(log_prob, 0.0) / tokens)


def harmonic_mean(scores: Sequence[float]) -> float:
    """Return the harmonic mean of scores in [0, 1], S of ROME; 0 where one of them is 0.

    Raises: ValueError: there is no score, or one is negative.
    """
    if not scores or min(scores) < 0:
        raise ValueError(f"scores are at least one number, none negative; got {list(scores)}.")
    return 0.0 if min(scores) == 0 else len(scores) / sum(1 / score for score in scores)


def compare(
    property: Property,
    edited: Answering,
    original: Answering,
    cases: Sequence[EditCase],
    *,
    of: Compared = "preference",
    kind: str | None = None,
    limit: int | None = None,
) -> Measurement:
    """Compare two given answers to each probe of a property.

    For reliability, generalization and the portability to another name of the subject the target is wanted and the
    previous answer is the other one; edits without a previous answer are left out and counted as excluded. For locality
    the probe's own answer is wanted, or, where it declares none, the unedited model's, and the target is the other one;
    probes for which both are the same text are left out.

    Args:
        property: "reliability", "generalization", "portability" (its subject replacements) or "locality".
        of: "preference" is 1 where the wanted answer is likelier, else 0 (a tie is 0); "margin" is P(wanted) less
            P(other), in [-1, 1], with P as in `token_probability`.
        edited, original, cases, kind, limit: as for `measure`.

    Raises: ConfigurationError: there is nothing to compare, or the property or kind has no such pair of answers.
    """
    if property == "other_tasks":
        raise ConfigurationError("other tasks have no pair of old and new answers: ask edited.other_tasks().")
    if property == "portability":
        if kind not in (None, ALIAS):
            raise ConfigurationError(
                f"of portability only the kind {ALIAS!r} has the target for its answer, to compare with the previous "
                f"one; {kind!r} has not."
            )
        kind = ALIAS
    selection = only_known(select(property, cases, kind=kind, limit=limit), original)
    pairs, left_out = _pairs(property, selection.asked, original)
    if selection.asked and not pairs:
        raise ConfigurationError(
            f"no {property} probe has two answers to compare: give the edit requests a previous answer."
            if property != "locality"
            else "the answer of every locality probe is the target itself, so there is nothing to compare."
        )
    questions = [(pair.asked.probe.prompt, answer) for pair in pairs for answer in (pair.wanted, pair.other)]
    scores = iter(edited.score(questions) if questions else [])
    return Measurement(
        name=f"{property} {of}",
        kind=kind,
        protocol=PROTOCOL,
        values=tuple(_value(pair, next(scores), next(scores), of) for pair in pairs),
        edit_ids=tuple(case.id for case in cases),
        excluded_probes=(*selection.excluded, *left_out),
        superseded_edits=selection.superseded,
        unit="fraction" if of == "preference" else "probability",
    )


def _pairs(property: Property, asked: Sequence[Asked], original: Answering) -> tuple[list[Pair], list[str]]:
    """The questions with their two answers, and the ids of the probes that have none."""
    stays = dict(zip(asked, _staying(asked, original), strict=True)) if property == "locality" else {}
    pairs, left_out = [], []
    for one in asked:
        request = one.request
        assert request is not None  # only tasks belong to no edit
        target = request.target.strip()
        wanted, other = (stays[one], target) if property == "locality" else (target, (request.previous or "").strip())
        if not wanted or not other or wanted == other or is_reasoned(one.probe.prompt):
            left_out.append(one.probe.id)
        else:
            pairs.append(Pair(one, wanted, other))
    return pairs, left_out


def _staying(asked: Sequence[Asked], original: Answering) -> list[str]:
    """The answer that should stay: the probe's own, else what the unedited model says."""
    silent = [one.probe for one in asked if not one.probe.answers]
    answers = iter(decode(original, [probe.prompt for probe in silent]))
    return [_own(one.probe) or next(answers).text.strip() for one in asked]


def _own(probe: Probe) -> str:
    return probe.answers[0].strip() if probe.answers else ""


def _value(pair: Pair, wanted: Scored, other: Scored, of: Compared) -> CaseValue:
    probe, request = pair.asked.probe, pair.asked.request
    first, second = (
        token_probability(score.log_prob, len(score.answer_ids)) if isfinite(score.log_prob) else None
        for score in (wanted, other)
    )
    if first is None or second is None:
        outcome, value = "invalid", None
    else:
        outcome = "exact" if first > second else "contradiction" if first < second else "other"
        value = float(first > second) if of == "preference" else first - second
    return CaseValue(
        probe=probe.id,
        edit=request.id if request is not None else "",
        kind=probe.kind,
        prompt=probe.prompt,
        expected=(pair.wanted,),
        answer={"exact": pair.wanted, "contradiction": pair.other}.get(outcome, ""),
        outcome=outcome,
        value=value,
        token_accuracy=wanted.token_accuracy,
        tokens=spelled(wanted),
    )
