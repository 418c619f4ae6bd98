"""From probes to values: real decoding decides a pass, the teacher-forced score is kept beside it.

Protocols:
    decode_match: greedy text up to the stop rule equals an accepted answer after normalisation.
    decode_agreement: the same, against the unedited model's own answer (locality).
    choice_likelihood: the option with the highest log-probability (summed over its tokens) is an accepted one; a
        tie fails.

Why decoding: Yang et al., "The Mirage of Model Editing" (ACL 2025): feeding the gold answer's tokens leaks its
content and its length, and makes edits look better than they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Final

from editguard.edits import EditCase, EditRequest, Probe, Property
from editguard.measurements.answering import Answering, Scored, Spelled
from editguard.measurements.decoding import answer_limit, decode, is_reasoned
from editguard.measurements.matching import PASSING, judge_answer
from editguard.measurements.record import CaseValue, Lookup, Measurement, Tokens
from editguard.measurements.selection import Asked, only_known, select

SPELLED_TOKENS: Final = 16
"""Of a longer answer no more are told."""


def measure(
    property: Property,
    edited: Answering,
    original: Answering,
    cases: Sequence[EditCase],
    *,
    kind: str | None = None,
    tasks: Sequence[Probe] = (),
    limit: int | None = None,
) -> Measurement:
    """Measure one property of an edited model over the probes of its edits.

    Args:
        property: what to measure.
        edited: the model with all of `cases` in force.
        original: the model without any edit, however long the sequence is; pass a `Remembered` one to ask it once.
        cases: the edits applied, in order, with their probes.
        kind: limits the probes to one kind.
        tasks: probes of other tasks, asked when that is the property.
        limit: most probes to ask.
        edit_ids: ids of what is in force where that differs from `cases` (nothing, for the original model).

    Raises: ConfigurationError: there is nothing to ask.
    """
    selection = only_known(select(property, cases, kind=kind, tasks=tasks, limit=limit), original)
    chosen = [asked for asked in selection.asked if asked.probe.choices]
    free = [asked for asked in selection.asked if not asked.probe.choices]
    against_original = property == "locality"
    values = {value.probe: value for value in _choices(chosen, edited, original, agreement=against_original)}
    if against_original:
        values |= {value.probe: value for value in _agreements(free, edited, original)}
    else:
        also_original = original if property == "other_tasks" else None
        values |= {value.probe: value for value in _matches(free, edited, also_original)}
    decoding = "decode_agreement" if against_original else "decode_match"
    protocols = ([decoding] if free or not chosen else []) + (["choice_likelihood"] if chosen else [])
    return Measurement(
        name=property,
        kind=kind,
        protocol="+".join(protocols),
        values=tuple(values[asked.probe.id] for asked in selection.asked),
        edit_ids=tuple(case.id for case in cases),
        excluded_probes=selection.excluded,
        superseded_edits=selection.superseded,
    )


def _matches(asked: Sequence[Asked], edited: Answering, original: Answering | None) -> list[CaseValue]:
    """Answers against the accepted ones."""
    prompts = [one.probe.prompt for one in asked]
    forced = _forced(edited, [(one.probe.prompt, one.probe.answers[0]) for one in asked])
    limits = [answer_limit(len(score.answer_ids) if score is not None else 0) for score in forced]
    answers = decode(edited, prompts, limits=limits)
    before = decode(original, prompts, limits=limits) if original is not None else None
    values = []
    for position, (one, answer, score) in enumerate(zip(asked, answers, forced, strict=True)):
        outcome = judge_answer(
            answer.text,
            one.probe.answers,
            candidates=_candidates(one.request),
            stopped=answer.stopped,
        )
        values.append(
            _value(
                one,
                expected=one.probe.answers,
                answer=answer.text,
                outcome=outcome,
                token_accuracy=score.token_accuracy if score is not None else None,
                original=before[position].text if before is not None else None,
                lookup=answer.lookup,
                tokens=spelled(score),
            )
        )
    return values


def _agreements(asked: Sequence[Asked], edited: Answering, original: Answering) -> list[CaseValue]:
    """Answers against the unedited model's own, which is asked first so that the model is switched once."""
    prompts = [one.probe.prompt for one in asked]
    before = decode(original, prompts)
    pairs = [(prompt, answer.text) for prompt, answer in zip(prompts, before, strict=True)]
    forced_before = _forced(original, pairs)
    answers = decode(edited, prompts)
    forced_after = _forced(edited, pairs)
    values = []
    for one, answer, old, score, old_score in zip(asked, answers, before, forced_after, forced_before, strict=True):
        outcome = judge_answer(answer.text, (old.text,), candidates=_candidates(one.request), stopped=answer.stopped)
        both = (score, old_score) if score is not None and old_score is not None else None
        values.append(
            _value(
                one,
                expected=(old.text,),
                answer=answer.text,
                outcome=outcome,
                token_accuracy=_agreement(*both) if both is not None else None,
                original=old.text,
                lookup=answer.lookup,
                tokens=spelled(score),
                tokens_before=spelled(old_score),
            )
        )
    return values


def _choices(asked: Sequence[Asked], edited: Answering, original: Answering, *, agreement: bool) -> list[CaseValue]:
    """The likeliest option of each probe."""
    before = _likeliest(asked, original)
    values = []
    for one, (option, gold), (old, gold_before) in zip(asked, _likeliest(asked, edited), before, strict=True):
        expected = (old or "",) if agreement else one.probe.answers
        if option is None or (agreement and old is None):
            outcome, value = "invalid", None
        else:
            outcome = judge_answer(option, expected, candidates=one.probe.choices)
            value = 1.0 if outcome in PASSING else 0.0
        values.append(
            CaseValue(
                probe=one.probe.id,
                edit=one.request.id if one.request is not None else "",
                kind=one.probe.kind,
                prompt=one.probe.prompt,
                expected=expected,
                answer=option or "",
                outcome=outcome,
                value=value,
                token_accuracy=gold.token_accuracy if gold is not None else None,
                original=old,
                tokens=spelled(gold),
                tokens_before=spelled(gold_before),
            )
        )
    return values


def _likeliest(asked: Sequence[Asked], model: Answering) -> list[tuple[str | None, Scored | None]]:
    """For each probe its likeliest option ("" for a tie, None without finite scores), and the gold answer's score."""
    pairs = [(one.probe.prompt, choice) for one in asked for choice in one.probe.choices]
    scores = iter(model.score(pairs) if pairs else [])
    found: list[tuple[str | None, Scored | None]] = []
    for one in asked:
        options = {choice: next(scores) for choice in one.probe.choices}
        gold = next((options[answer] for answer in one.probe.answers if answer in options), None)
        if not all(isfinite(score.log_prob) for score in options.values()):
            found.append((None, gold))
            continue
        best = max(score.log_prob for score in options.values())
        winners = [choice for choice, score in options.items() if score.log_prob == best]
        found.append((winners[0] if len(winners) == 1 else "", gold))
    return found


def _forced(model: Answering, pairs: Sequence[tuple[str, str]]) -> list[Scored | None]:
    """Teacher-forced scores; None for empty answers and for prompts that are answered by reasoning."""
    usable = [position for position, (prompt, answer) in enumerate(pairs) if answer.strip() and not is_reasoned(prompt)]
    scores = model.score([pairs[position] for position in usable]) if usable else []
    found: list[Scored | None] = [None] * len(pairs)
    for position, score in zip(usable, scores, strict=True):
        found[position] = score
    return found


def _agreement(score: Scored, reference: Scored) -> float:
    """Share of the answer's positions where both models' most likely token is the same."""
    pairs = list(zip(score.argmax_ids, reference.argmax_ids, strict=True))
    return sum(one == other for one, other in pairs) / len(pairs)


def spelled(score: object) -> Tokens:
    """The first tokens of a scored answer with their probabilities, to four digits: they travel with every case."""
    if not isinstance(score, Spelled):
        return ()
    return tuple((text, float(f"{chance:.4g}")) for text, chance in score.tokens[:SPELLED_TOKENS] if isfinite(chance))


def _candidates(request: EditRequest | None) -> tuple[str, ...]:
    """Answers that contradict the accepted one: what the edit replaced, and what it put there."""
    if request is None:
        return ()
    return tuple(answer for answer in (request.previous, request.target) if answer)


def _value(
    one: Asked,
    *,
    expected: tuple[str, ...],
    answer: str,
    outcome: str,
    token_accuracy: float | None,
    original: str | None,
    lookup: Lookup | None,
    tokens: Tokens = (),
    tokens_before: Tokens = (),
) -> CaseValue:
    return CaseValue(
        probe=one.probe.id,
        edit=one.request.id if one.request is not None else "",
        kind=one.probe.kind,
        prompt=one.probe.prompt,
        expected=expected,
        answer=answer,
        outcome=outcome,
        value=1.0 if outcome in PASSING else 0.0,
        token_accuracy=token_accuracy,
        original=original,
        lookup=lookup,
        tokens=tokens,
        tokens_before=tokens_before,
    )
