"""Which probes of which edits are asked, and which are left out and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from editguard.edits import EditCase, EditRequest, Probe, Property, content_id, superseded
from editguard.errors import ConfigurationError, closest
from editguard.measurements.answering import Answering
from editguard.measurements.decoding import decode
from editguard.measurements.matching import PASSING, judge_answer
from editguard.probes import probes_of


@dataclass(frozen=True)
class Asked:
    """A probe and the edit that it speaks of; None for a task that belongs to no edit."""

    probe: Probe
    request: EditRequest | None


@dataclass(frozen=True)
class Selection:
    """The probes to ask, and what was left out.

    Attributes:
        asked: each probe once, in order.
        excluded: ids of probes left out: lack of prior knowledge, or another edit's own question.
        superseded: ids of requests that a later one on the same fact replaced.
    """

    asked: tuple[Asked, ...]
    excluded: tuple[str, ...] = ()
    superseded: tuple[str, ...] = ()


def standing_cases(cases: Sequence[EditCase]) -> tuple[list[EditCase], tuple[str, ...]]:
    """The cases that no later one supersedes, each once, in their order of application; and the ids of the others."""
    gone = superseded([case.request for case in cases])
    standing = {case.id: case for place, case in enumerate(cases) if place not in gone}
    return list(standing.values()), tuple(cases[place].id for place in sorted(gone))


def select(
    property: Property,
    cases: Sequence[EditCase],
    *,
    kind: str | None = None,
    tasks: Sequence[Probe] = (),
    limit: int | None = None,
) -> Selection:
    """Collect the probes of a property over the edits in force.

    Args:
        property: what is measured.
        cases: in the order of their application; one that a later one supersedes is left out, and counted.
        kind: keep one kind of probe.
        tasks: probes of other tasks that no edit declares.
        limit: most probes; the same ones are chosen in every run, by content.

    Raises: ConfigurationError: nothing to ask; the message lists the kinds that there are.
    """
    requests = [case.request for case in cases]
    gone = superseded(requests)
    in_force = [case for position, case in enumerate(cases) if position not in gone]
    found: dict[str, Asked] = {}
    for case in in_force:
        for probe in probes_of(case, property, kind):
            found.setdefault(probe.id, Asked(probe, case.request))
    if property == "other_tasks":
        for probe in tasks:
            if kind is None or probe.kind == kind:
                found.setdefault(probe.id, Asked(probe, None))
    if not found:
        raise ConfigurationError(_nothing(property, kind, in_force, tasks))
    excluded = _edited_elsewhere(found, in_force) if property == "locality" else frozenset()
    kept = [asked for name, asked in found.items() if name not in excluded]
    if limit is not None and len(kept) > limit:
        chosen = set(sorted((content_id("limit", asked.probe.id), asked.probe.id) for asked in kept)[:limit])
        names = {name for _, name in chosen}
        kept = [asked for asked in kept if asked.probe.id in names]
    return Selection(tuple(kept), tuple(sorted(excluded)), tuple(requests[position].id for position in sorted(gone)))


def only_known(selection: Selection, original: Answering) -> Selection:
    """Leave out the probes that build on something the unedited model does not know.

    Every `knows` question of a probe is asked of `original`, all in one batch; one wrong answer excludes the probe.
    """
    questions = list(dict.fromkeys(pair for asked in selection.asked for pair in asked.probe.knows))
    if not questions:
        return selection
    known = {question for question, (_, right) in recalled(questions, original).items() if right}
    lacking = [asked.probe.id for asked in selection.asked if not known.issuperset(asked.probe.knows)]
    kept = tuple(asked for asked in selection.asked if asked.probe.id not in set(lacking))
    return Selection(kept, (*selection.excluded, *lacking), selection.superseded)


def recalled(questions: Sequence[tuple[str, str]], original: Answering) -> dict[tuple[str, str], tuple[str, bool]]:
    """Ask (prompt, answer) pairs, in one batch: what the model says to each, and whether that is the answer."""
    asked = list(dict.fromkeys(questions))
    answers = decode(original, [prompt for prompt, _ in asked])
    return {
        pair: (said.text, judge_answer(said.text, (pair[1],), stopped=said.stopped) in PASSING)
        for pair, said in zip(asked, answers, strict=True)
    }


def _edited_elsewhere(found: dict[str, Asked], in_force: Sequence[EditCase]) -> frozenset[str]:
    """Locality probes whose prompt is what some edit in force was meant to change."""
    meant = {
        probe.prompt
        for case in in_force
        for property in ("reliability", "generalization")
        for probe in probes_of(case, property)
    }
    return frozenset(name for name, asked in found.items() if asked.probe.prompt in meant)


def _nothing(property: Property, kind: str | None, cases: Sequence[EditCase], tasks: Sequence[Probe]) -> str:
    kinds = {probe.kind for case in cases for probe in probes_of(case, property)}
    kinds |= {probe.kind for probe in tasks} if property == "other_tasks" else set()
    if kind is not None and kinds:
        known = ", ".join(sorted(kinds))
        return f"no {property} probe is of the kind {kind!r}; declared are {known}.{closest(kind, kinds)}"
    return (
        f"nothing to ask: the edits declare no {property} probes. Declare them in an EditCase, for example "
        f'EditCase(request=..., probes=(Probe(property="{property}", kind=..., prompt=..., answers=...),)).'
    )
