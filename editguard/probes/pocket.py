"""Edit cases about the embedded model's world, with every kind of probe; all texts are generated, none is listed.

Everything here is a function of its arguments and of the world: the same call gives the same cases everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import cycle
from typing import TYPE_CHECKING, Final

from editguard.edits import EditCase, EditRequest, Probe
from editguard.errors import InvalidEdit, closest
from editguard.pocket import default_world
from editguard.pocket.corpus import statements_text
from editguard.pocket.splits import stream
from editguard.pocket.tasks import TASKS, task_items
from editguard.pocket.world import Fact, World
from editguard.probes.generalization import rephrases
from editguard.probes.other_tasks import task as task_probe
from editguard.probes.portability import one_hop, reversed_relation, subject_replace

if TYPE_CHECKING:
    from editguard.methods.protocol import DemonstrationRecord

PEOPLE_RELATIONS: Final = ("born_in", "educated_at", "works_for", "occupation", "plays", "speaks")
"""Relations of people that an edit may change freely: none has an inverse."""
INVERTIBLE: Final = ("spouse", "mayor", "ceo", "rector", "capital")
"""Relations that are asked from the other side too; without them no edit has a reverse."""
EVALUATED: Final[tuple[tuple[int, int, tuple[str, ...]], ...]] = (
    (1_000, 0, (*PEOPLE_RELATIONS, *INVERTIBLE)),
    (20, 1, PEOPLE_RELATIONS),
    (59, 2, PEOPLE_RELATIONS),
)
"""(count, seed, relations) of the cases that the study and the suites of this project draw; the people whom suites edit
by name are among them."""
TRAINING_RELATIONS: Final = (*PEOPLE_RELATIONS, "spouse")
TRAINING_CASES: Final = 2_000
KEEP_APART: Final = "Draw the cases with pocket_cases(..., exclude=pocket_training_subjects())."
FORM: Final = "pocket"
"""Name of the form of cases that are drawn from the embedded models' world."""
KINDS_OF_HOPS: Final = {2: "one_hop", 3: "two_hop"}


def pocket_case(
    subject: str,
    relation: str,
    target: str | None = None,
    *,
    world: World | None = None,
    seed: int = 0,
    neighbours: int = 3,
    exclude: Collection[str] = (),
) -> EditCase:
    """An edit of one fact of the world, with probes for every property.

    Kinds of probes: generalization "rephrase" (wordings that the corpus never uses for this subject),
    "trained_rephrase" and "question"; portability "subject_replace" (its stage name), "reversed_relation", "one_hop"
    and "two_hop" asked directly, and the same with "_think" asked step by step; locality "other_relation",
    "name_neighbour" (people who share a name part), "neighbourhood", from which the distracting form is made.

    Args:
        subject: any entity that can have the relation.
        relation: its name.
        target: the new object; by default one drawn from all possible ones.
        world: the embedded model's own by default.
        seed: of what is drawn: the target, and the neighbours.
        neighbours: most probes of each kind of neighbour, and of other relations.
        exclude: subjects that no probe may rely on, because they are edited as well.

    Raises: InvalidEdit: the world has no such relation, or the subject cannot have it.
    """
    world = world or default_world()
    kind = world.relations.get(relation)
    if kind is None:
        raise InvalidEdit(
            f"the world has no relation {relation!r}; it has {', '.join(world.relations)}."
            f"{closest(relation, world.relations)}"
        )
    if all(entity.name != subject for entity in world.entities(kind.subject_type)):
        raise InvalidEdit(
            f"{subject!r} is no {kind.subject_type} of the world, and only these have the relation {relation!r}."
        )
    rng = stream("pocket case", seed, subject, relation)
    known = world.fact(subject, relation)
    previous = known.object if known is not None else None
    if target is None:
        target = _new_target(world, subject, relation, previous, rng)
    request = EditRequest(
        prompt=kind.statements[0].text, subject=subject, target=target, previous=previous, relation=relation
    )
    probes = (
        *_rephrases(world, request, relation),
        *_portability(world, request, relation, exclude),
        *_locality(world, request, relation, rng, neighbours, {subject, target, previous or "", *exclude}),
    )
    return EditCase(request=request, probes=probes, label=f"{subject}: {relation}", origin={"form": FORM})


def pocket_cases(
    count: int,
    seed: int = 0,
    *,
    relations: Sequence[str] = PEOPLE_RELATIONS,
    world: World | None = None,
    neighbours: int = 3,
    exclude: Collection[str] = (),
) -> tuple[EditCase, ...]:
    """Edits of `count` different subjects; none of them serves as a neighbour of another.

    Args:
        count: how many; subjects of the relations' type are drawn without repetition.
        seed: another seed draws other subjects, relations and targets.
        relations: their names, taken in turns.
        world, neighbours: as for `pocket_case`.
        exclude: subjects to leave alone.

    Raises: InvalidEdit: the world has not so many subjects, or a relation is unknown.
    """
    world = world or default_world()
    if unknown := [name for name in relations if name not in world.relations]:
        raise InvalidEdit(f"the world has no relation {unknown[0]!r}.{closest(unknown[0], world.relations)}")
    chosen = list(_different_subjects(world, relations, stream("pocket cases", seed), count, frozenset(exclude)))
    if len(chosen) < count:
        raise InvalidEdit(
            f"the world has only {len(chosen)} subjects for the relations {', '.join(relations)}; {count} were wanted."
        )
    edited = {fact.subject for fact in chosen} | set(exclude)
    return tuple(
        pocket_case(fact.subject, fact.relation, world=world, seed=seed, neighbours=neighbours, exclude=edited)
        for fact in chosen
    )


@cache
def pocket_training_subjects() -> frozenset[str]:
    """Return the people of the embedded model's world that trained editors may learn from.

    They are the people that neither the study nor a suite of this project edits: always the same ones, whatever is
    evaluated, because a trained editor is kept for the model. Leave them out of other evaluations:
    `pocket_cases(..., exclude=pocket_training_subjects())`. As unedited neighbours they may be asked about anywhere.
    """
    world = default_world()
    edited = {
        fact.subject
        for count, seed, relations in EVALUATED
        for fact in _different_subjects(world, relations, stream("pocket cases", seed), count, frozenset())
    }
    return frozenset(person.name for person in world.people) - edited


@lru_cache(maxsize=2)
def pocket_training_cases(
    count: int = TRAINING_CASES, seed: int = 0, *, exclude: frozenset[str] = frozenset()
) -> tuple[EditCase, ...]:
    """Edits for editors that are trained, about people that nothing else edits (`pocket_training_subjects`).

    A person may have several, each of another relation. Rephrases are in all wordings but the one that nobody is
    trained in; what should stay are other facts about the person, and facts about other training subjects alone. A new
    spouse is a training subject too.

    Args:
        count: how many; fewer where the world has no more facts of these people.
        seed: another seed draws other facts and targets.
        exclude: subjects to leave out altogether.
    """
    world = default_world()
    allowed = pocket_training_subjects() - exclude
    kept = frozenset(person.name for person in world.people) - allowed
    facts = [fact for name in TRAINING_RELATIONS for fact in world.of_relation(name) if fact.subject in allowed]
    rng = stream("pocket training cases", seed)
    rng.shuffle(facts)
    cases = []
    for fact in facts[:count]:
        among = [
            name
            for name in world.objects(fact.relation)
            if name not in (fact.subject, fact.object) and name not in kept
        ]
        request = EditRequest(
            prompt=world.relations[fact.relation].statements[0].text,
            subject=fact.subject,
            target=rng.choice(among),
            previous=fact.object,
            relation=fact.relation,
        )
        changed = kept | {fact.subject, fact.object, request.target}
        probes = (
            *_rephrases(world, request, fact.relation),
            *_locality(world, request, fact.relation, rng, 3, changed),
        )
        cases.append(
            EditCase(request=request, probes=probes, label=f"{fact.subject}: {fact.relation}", origin={"form": FORM})
        )
    return tuple(cases)


def pocket_tasks(per_task: int = 20, seed: int = 0, *, world: World | None = None) -> tuple[Probe, ...]:
    """Held-out items of every other task of the model: lists, arithmetic, comparison, types.

    Args:
        per_task: items of each task.
        seed: another seed draws other items.
        world: the embedded model's own by default.
    """
    world = world or default_world()
    return tuple(
        task_probe(item.task, item.prompt, item.answer, choices=item.choices)
        for name in TASKS
        for item in task_items(world, name, stream("pocket tasks", seed, name), per_task, held_out=True)
    )


def pocket_texts(seed: int = 0, count: int = 2_000, *, world: World | None = None) -> list[str]:
    """Running text of the world for the second moments of keys: true sentences in trained wordings."""
    return statements_text(world or default_world(), seed, count)


def pocket_demonstrations(
    count: int = 300,
    seed: int = 0,
    *,
    relations: Sequence[str] = PEOPLE_RELATIONS,
    exclude: Collection[str] = (),
    world: World | None = None,
) -> list[DemonstrationRecord]:
    """Facts to demonstrate editing with, none about an edited subject.

    Args:
        count: how many; fewer where the world has no more subjects.
        seed: another seed draws other facts.
        relations: of the demonstrated facts, in turns.
        exclude: the edited subjects; they appear neither as a subject nor among the neighbours.
        world: the embedded model's own by default.
    """
    from editguard.methods.protocol import DemonstrationRecord

    world = world or default_world()
    kept = frozenset(exclude)
    records = []
    for fact in _different_subjects(world, relations, stream("pocket demonstrations", seed), count, kept):
        rng = stream("pocket demonstration", seed, fact.subject, fact.relation)
        standard = world.relations[fact.relation].statements[0]
        same_answer = [
            other.subject
            for other in world.of_relation(fact.relation)
            if other.object == fact.object and other.subject != fact.subject and other.subject not in kept
        ]
        others = [t for t in world.templates(fact.relation) if t != standard]
        records.append(
            DemonstrationRecord(
                prompt=standard.prompt(fact.subject),
                subject=fact.subject,
                target_new=_new_target(world, fact.subject, fact.relation, fact.object, rng),
                target_true=fact.object,
                paraphrases=tuple(t.prompt(fact.subject) for t in rng.sample(others, min(3, len(others)))),
                neighbours=tuple(standard.prompt(name) for name in rng.sample(same_answer, min(3, len(same_answer)))),
            )
        )
    return records


def _different_subjects(
    world: World, relations: Sequence[str], rng: random.Random, count: int, exclude: Collection[str]
) -> Iterator[Fact]:
    """Facts of the relations in turns, each about a subject that has not come before."""
    pools = {}
    for name in dict.fromkeys(relations):
        facts = [fact for fact in world.of_relation(name) if fact.subject not in exclude]
        rng.shuffle(facts)
        pools[name] = iter(facts)
    seen: set[str] = set()
    exhausted: set[str] = set()
    for name in cycle(relations):
        if len(seen) >= count or len(exhausted) == len(pools):
            return
        fresh = next((fact for fact in pools[name] if fact.subject not in seen), None)
        if fresh is None:
            exhausted.add(name)
            continue
        seen.add(fresh.subject)
        yield fresh


def _new_target(world: World, subject: str, relation: str, previous: str | None, rng: random.Random) -> str:
    """Another possible object; where the relation has an inverse, one that is nobody's object yet if there is any."""
    candidates = [name for name in world.objects(relation) if name not in (subject, previous)]
    inverse = world.relations[relation].inverse
    if inverse is not None:
        free = [name for name in candidates if world.fact(name, inverse) is None]
        candidates = free or candidates
    return rng.choice(candidates)


def _rephrases(world: World, request: EditRequest, relation: str) -> Iterator[Probe]:
    """All wordings but the request's own."""
    trained, held_out = world.wordings(relation, request.subject)
    for wordings, kind in ((held_out, "rephrase"), (trained, "trained_rephrase")):
        for wording in wordings:
            if wording.text != request.prompt:
                prompts = [wording.prompt(request.subject)]
                yield from rephrases(request, prompts, kind="question" if wording.kind == "question" else kind)


def _portability(world: World, request: EditRequest, relation: str, edited: Collection[str]) -> Iterator[Probe]:
    """What follows from the edit alone; questions that pass through another edited subject are left out."""
    subject, target = request.subject, request.target
    alias = world.alias(subject)
    if alias is not None:
        identity = world.relations["real_name"].statements[0].prompt(alias)
        asked = world.relations[relation].questions[0].text
        yield from subject_replace(request, alias, prompts=[asked], knows=((identity, subject),))
    back = world.reversed_question(Fact(subject, relation, target))
    if back is not None:
        yield reversed_relation(request, back[0])
    for question in world.compositions(subject, edited={(subject, relation): target}):
        if question.kind.path[0] != relation or len(question.hops) not in KINDS_OF_HOPS:
            continue
        if any(hop.fact.subject in edited or hop.fact.subject == subject for hop in question.hops[1:]):
            continue
        kind = KINDS_OF_HOPS[len(question.hops)]
        knows = tuple((hop.statement, hop.fact.object) for hop in question.hops[1:])
        yield one_hop(question.direct_prompt(), [question.answer], knows=knows, kind=kind)
        yield one_hop(question.reasoned_prompt(), [question.answer], knows=knows, kind=f"{kind}_think")


def _locality(
    world: World,
    request: EditRequest,
    relation: str,
    rng: random.Random,
    most: int,
    changed: Collection[str],
) -> Iterator[Probe]:
    """Facts that the edit should leave alone; their true answers are noted, though agreement is what counts."""
    touched = {relation, world.relations[relation].inverse}
    others = [fact for fact in world.other_relations(request.subject) if fact.relation not in touched]
    yield from _asked(world, _some(rng, others, most), "other_relation")
    sharing = [world.fact(name, relation) for name in world.neighbours(request.subject) if name not in changed]
    named = [fact for fact in sharing if fact is not None]
    yield from _asked(world, _some(rng, named, most), "name_neighbour")
    shared = {fact.subject for fact in named}
    rest = [
        fact
        for fact in world.of_relation(relation)
        if fact.subject not in changed and fact.subject not in shared and fact.object != request.subject
    ]
    yield from _asked(world, _some(rng, rest, most), "neighbourhood")


def _some(rng: random.Random, facts: Sequence[Fact], most: int) -> list[Fact]:
    return rng.sample(facts, min(most, len(facts)))


def _asked(world: World, facts: Iterable[Fact], kind: str) -> Iterator[Probe]:
    for fact in facts:
        prompt = world.relations[fact.relation].statements[0].prompt(fact.subject)
        yield Probe(property="locality", kind=kind, prompt=prompt, answers=(fact.object,))
