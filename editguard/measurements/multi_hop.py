"""MQuAKE's measures: is every edit recalled, is every hop of the chain answered, and does the model put them together?

Source: Zhong et al., "MQuAKE: Assessing Knowledge Editing in Language Models via Multi-Hop Questions" (EMNLP 2023),
section 3. An instance's edits are in force together, alone or beside those of other instances.

Differences, on purpose: an answer counts where real decoding gives the answer or an alias as a whole; "any" (at least
one of the three wordings), which flatters, stands beside "all" and "mean"; an instance whose unedited hops the unedited
model does not know is left out, and counted, because its failure would say nothing of the edit. Theirs asks unedited
hops with eight examples of their relation, which a form of words (`form`) can put in front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final, Literal

from editguard.datasets.mquake import MULTI_HOP, QUESTION, chain, instances, old_answers
from editguard.edits import SLOT, EditCase, content_id
from editguard.errors import ConfigurationError
from editguard.measurements.answering import Answering
from editguard.measurements.decoding import decode
from editguard.measurements.matching import PASSING, judge_answer
from editguard.measurements.record import CaseValue, Measurement

MultiHop = Literal["edit-wise", "instance-wise", "any", "all", "mean", "any before"]
NAMES: Final[dict[MultiHop, str]] = {
    "edit-wise": "edit-wise",
    "instance-wise": "instance-wise",
    "any": "multi-hop any",
    "all": "multi-hop all",
    "mean": "multi-hop mean",
    "any before": "multi-hop any before",
}
Question = tuple[str, tuple[str, ...]]
"""A prompt and its accepted answers."""


@dataclass(frozen=True)
class Instance:
    """What is asked of one instance.

    Attributes:
        id: content id.
        edit: id of the request that its values are grouped by: its last one.
        kind: the stratum, such as "3 hops, 2 edits".
        edits: each edit's own prompt, with its target.
        hops: the chain after the edits: edited hops by the prompt of the edit, the others by their question.
        questions: wordings of the question over all hops, with the answer after the edits.
        before: the same wordings with the answer before the edits; none where the record does not tell it.
        known: the unedited hops.
    """

    id: str
    edit: str
    kind: str
    edits: tuple[Question, ...]
    hops: tuple[Question, ...]
    questions: tuple[Question, ...]
    before: tuple[Question, ...]
    known: tuple[Question, ...]


def multi_hop(
    edited: Answering,
    original: Answering,
    cases: Sequence[EditCase],
    *,
    of: MultiHop = "any",
    form: str = SLOT,
    known: bool = True,
) -> Measurement:
    """Measure MQuAKE instances, one value each (edit-wise: one per edit, grouped by instance).

    Args:
        edited: the model with all of `cases` in force.
        original: the unedited model.
        cases: imported by the form "mquake", in the order of their application.
        of: "edit-wise" is 1 for each edit whose prompt is answered by its target; "instance-wise" 1 where every hop
            is; "any", "all" and "mean" are over the wordings of the question over all hops; "any before" asks the
            unedited model for the answer before the edits, which bounds what an edit can reach.
        form: text with one `{}` in which every question, but no prompt of an edit, is put: for examples or labels.
        known: whether instances are left out, and counted, with an unedited hop that the unedited model fails. Never
            of the edit-wise measure, and not of what is asked before.

    Instances of which a later edit wants another answer to an edited fact are left out too; their replaced requests
    are the measurement's superseded ones. `of_kind("3 hops, 2 edits")` of the result is one stratum.

    Raises: ConfigurationError: no case comes from an instance of MQuAKE, or the form has no slot or several.
    """
    if of not in NAMES:
        raise ConfigurationError(f"a multi-hop measure is one of {', '.join(map(repr, NAMES))}, not {of!r}.")
    if form.count(SLOT) != 1:
        raise ConfigurationError(f"the form {form!r} of questions has {form.count(SLOT)} slots {{}}; write one.")
    wanted = {case.request.fact_key: case.request.target.strip() for case in cases}
    replaced = tuple(case.id for case in cases if wanted[case.request.fact_key] != case.request.target.strip())
    found = [(group, each) for group in instances(cases) if (each := _instance(group, form)) is not None]
    standing = [each for group, each in found if not any(case.id in replaced for case in group)]
    if not found:
        raise ConfigurationError(
            "no edit in force is of a whole instance with questions over several hops: import some by "
            "`editguard import --form mquake`, and apply the edits of an instance together."
        )
    excluded = [_id(of, each) for _, each in found if each not in standing]
    if known and of in ("instance-wise", "any", "all", "mean"):
        right = _right(original, [question for each in standing for question in each.known])
        lacking = [each for each in standing if not all(right[question] for question in each.known)]
        excluded += [_id(of, each) for each in lacking]
        standing = [each for each in standing if each not in lacking]
    if of == "any before":
        excluded += [_id(of, each) for each in standing if not each.before]
        standing = [each for each in standing if each.before]
    asked = original if of == "any before" else edited
    answers = _answers(asked, [question for each in standing for question in _asked(each, of)])
    return Measurement(
        name=NAMES[of],
        protocol="decode_match",
        values=tuple(value for each in standing for value in _values(each, of, answers)),
        edit_ids=tuple(case.id for case in cases),
        excluded_probes=tuple(excluded),
        superseded_edits=replaced,
    )


def _instance(group: Sequence[EditCase], form: str) -> Instance | None:
    """What is asked of an instance; None where the group is none, or its last case, with the questions, is missing."""
    probes = [probe for probe in group[-1].probes if probe.kind.startswith(MULTI_HOP.format(""))]
    hops = chain(group)
    if not probes or not hops:
        return None
    edits = tuple((case.request.text, (case.request.target.strip(),)) for case in group)
    by_wording = {prompt: prompt for prompt, _ in edits}
    for case in group:
        by_wording |= {probe.prompt: case.request.text for probe in case.probes if probe.kind == QUESTION}
    asked, known = [], []
    for hop in hops:
        prompt = by_wording.get(hop.cloze) or by_wording.get(hop.question)
        question = (prompt or form.replace(SLOT, hop.question), hop.answers)
        asked.append(question)
        if prompt is None:
            known.append(question)
    texts = [form.replace(SLOT, probe.prompt) for probe in probes]
    old = old_answers(group)
    count = len(group)
    return Instance(
        id=content_id("instance", form, [case.id for case in group], texts),
        edit=group[-1].id,
        kind=f"{len(hops)} hops, {count} edit{'' if count == 1 else 's'}",
        edits=edits,
        hops=tuple(asked),
        questions=tuple((text, probe.answers) for text, probe in zip(texts, probes, strict=True)),
        before=tuple((text, old) for text in texts) if old else (),
        known=tuple(known),
    )


def _asked(each: Instance, of: MultiHop) -> tuple[Question, ...]:
    match of:
        case "edit-wise":
            return each.edits
        case "instance-wise":
            return each.hops
        case "any before":
            return each.before
        case _:
            return each.questions


def _id(of: MultiHop, each: Instance) -> str:
    return content_id(NAMES[of], each.id)


def _answers(model: Answering, questions: Sequence[Question]) -> dict[Question, tuple[str, str]]:
    """Each question's decoded answer, and its outcome."""
    unique = list(dict.fromkeys(questions))
    found = decode(model, [prompt for prompt, _ in unique])
    return {
        (prompt, accepted): (answer.text, judge_answer(answer.text, accepted, stopped=answer.stopped))
        for (prompt, accepted), answer in zip(unique, found, strict=True)
    }


def _right(model: Answering, questions: Sequence[Question]) -> dict[Question, bool]:
    return {question: outcome in PASSING for question, (_, outcome) in _answers(model, questions).items()}


def _values(each: Instance, of: MultiHop, answers: dict[Question, tuple[str, str]]) -> list[CaseValue]:
    questions = _asked(each, of)
    told = [answers[question] for question in questions]
    passes = [float(outcome in PASSING) for _, outcome in told]
    if of == "edit-wise":
        return [
            _value(each, content_id(_id(of, each), place), *question, *answer, passed)
            for place, (question, answer, passed) in enumerate(zip(questions, told, passes, strict=True))
        ]
    value = fmean(passes) if of == "mean" else max(passes) if of in ("any", "any before") else min(passes)
    # shown is the answer that decided: one that passed where one suffices, otherwise one that failed
    shown = passes.index(max(passes) if of in ("any", "any before") else min(passes))
    return [_value(each, _id(of, each), *questions[shown], *told[shown], value)]


def _value(
    each: Instance, probe: str, prompt: str, accepted: tuple[str, ...], answer: str, outcome: str, value: float
) -> CaseValue:
    return CaseValue(
        probe=probe,
        edit=each.edit,
        kind=each.kind,
        prompt=prompt,
        expected=accepted,
        answer=answer,
        outcome=outcome,
        value=value,
    )
