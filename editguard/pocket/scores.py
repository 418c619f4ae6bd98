"""What the pocket models are measured by: each score draws probes that the corpus leaves out, and knows its target.

A probe is a document whose answers the model has to produce; everything else in it is given.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from editguard.pocket.contexts import DEMONSTRATION_KINDS, ContextWriter
from editguard.pocket.corpus import alias_facts, yes_no_item, yes_no_trained
from editguard.pocket.documents import Document, Writer
from editguard.pocket.relations import Template
from editguard.pocket.tasks import TASKS, task_items
from editguard.pocket.world import ComposedQuestion, Fact, World

Draw = Callable[[World, random.Random, int], Iterator[Document]]


@dataclass(frozen=True, slots=True)
class Score:
    """A fraction of probes answered exactly, full stop or line break included."""

    name: str
    draw: Draw
    target: float | None = None
    """The least fraction that the shipped weights should reach; None where it is only reported."""
    decoder_only: bool = False
    """Whether the T5 is not asked: the text has several answers, or is longer than any that the T5 has read."""


def probe(prompt: str, answer: str) -> Document:
    """A prompt that the answer and a full stop complete."""
    return Writer().plain(prompt).answer(f" {answer}.").document("knowledge")


def last_answer_only(document: Document) -> Document:
    """The same document, of whose answers only the last is asked."""
    return replace(document, answers=document.answers[-1:])


# Facts


def _some_facts(world: World, rng: random.Random, count: int) -> Sequence[Fact]:
    return rng.sample(world.facts, min(count, len(world.facts)))


def _wordings(pick: Callable[[World, Fact], Sequence[Template]]) -> Draw:
    def draw(world: World, rng: random.Random, count: int) -> Iterator[Document]:
        for fact in _some_facts(world, rng, count):
            yield probe(rng.choice(pick(world, fact)).prompt(fact.subject), fact.object)

    return draw


def _after_another_fact(world: World, rng: random.Random, count: int) -> Iterator[Document]:
    for fact, other in zip(_some_facts(world, rng, count), _some_facts(world, rng, count), strict=True):
        before = f"{rng.choice(world.trained_templates(other)).prompt(other.subject)} {other.object}. "
        yield probe(before + rng.choice(world.trained_templates(fact)).prompt(fact.subject), fact.object)


def _reversed(world: World, rng: random.Random, count: int) -> Iterator[Document]:
    facts = [
        f
        for f in world.facts
        if world.relations[f.relation].inverse is not None and f.relation not in ("also_known_as", "real_name")
    ]
    for fact in rng.sample(facts, min(count, len(facts))):
        yield probe(rng.choice(world.held_out_templates(fact)).prompt(fact.subject), fact.object)


def _alias_pairs(world: World, rng: random.Random, count: int) -> Iterator[Document]:
    facts = [*world.of_relation("also_known_as"), *world.of_relation("real_name")]
    for fact in rng.sample(facts, min(count, len(facts))):
        yield probe(rng.choice(world.held_out_templates(fact)).prompt(fact.subject), fact.object)


def _alias_relations(*, trained: bool) -> Draw:
    def draw(world: World, rng: random.Random, count: int) -> Iterator[Document]:
        if trained:
            facts = list(alias_facts(world))
        else:
            facts = [
                Fact(alias, fact.relation, fact.object)
                for person, alias in world.aliases.items()
                if not world.alias_has_relations(alias)
                for fact in world.other_relations(person)
                if fact.relation != "also_known_as"
            ]
        for fact in rng.sample(facts, min(count, len(facts))):
            yield probe(rng.choice(world.held_out_templates(fact)).prompt(fact.subject), fact.object)

    return draw


# Questions over several facts


def _composed(world: World, rng: random.Random, *, trained: bool, hops: int) -> list[ComposedQuestion]:
    found = [
        question
        for kind in world.composition_kinds.values()
        if len(kind.path) == hops
        for fact in world.of_relation(kind.path[0])
        if (question := world.compose(kind.name, fact.subject)) is not None and question.trained == trained
    ]
    rng.shuffle(found)
    return found


def _direct(*, trained: bool, hops: int) -> Draw:
    def draw(world: World, rng: random.Random, count: int) -> Iterator[Document]:
        for question in _composed(world, rng, trained=trained, hops=hops)[:count]:
            yield probe(question.direct_prompt(rng.randrange(len(question.texts))), question.answer)

    return draw


def _reasoned(*, hops: int) -> Draw:
    def draw(world: World, rng: random.Random, count: int) -> Iterator[Document]:
        for question in _composed(world, rng, trained=False, hops=hops)[:count]:
            prompt = question.reasoned_prompt(rng.randrange(len(question.texts)))
            yield probe(prompt, f"{question.reasoning} {question.answer}")

    return draw


def _yes_no(world: World, rng: random.Random, count: int) -> Iterator[Document]:
    facts = [fact for fact in world.facts if not yes_no_trained(world, fact)]
    for fact in rng.sample(facts, min(count, len(facts))):
        yield probe(*yes_no_item(world, rng, fact))


# With something in front


def _context(form: Callable[[ContextWriter], Document], *, people_only: bool = False) -> Draw:
    """Documents of one form about subjects that no such document of the corpus is about."""

    def draw(world: World, rng: random.Random, count: int) -> Iterator[Document]:
        write = ContextWriter(world, rng, held_out=True, people_only=people_only)
        for _ in range(count):
            yield last_answer_only(form(write))

    return draw


def _demonstrations(length: int, kind: str) -> Draw:
    def draw(world: World, rng: random.Random, count: int) -> Iterator[Document]:
        write = ContextWriter(world, rng, held_out=True, people_only=True)
        for _ in range(max(1, count // max(1, length // 4))):
            yield last_answer_only(write.demonstrations(length, last_kind=kind))

    return draw


def _traces(hops: int) -> Draw:
    def draw(world: World, rng: random.Random, count: int) -> Iterator[Document]:
        write = ContextWriter(world, rng, held_out=True)
        every = (write.trace() for _ in range(100 * count))
        yield from islice((trace for trace in every if trace.text.count("Subquestion:") == hops), count // 3)

    return draw


def _task(task: str) -> Draw:
    def draw(world: World, rng: random.Random, count: int) -> Iterator[Document]:
        for item in task_items(world, task, rng, min(count, 400), held_out=True):
            yield probe(item.prompt, item.answer)

    return draw


SCORES: Final[tuple[Score, ...]] = (
    Score("recall, trained wording", _wordings(lambda w, f: w.trained_templates(f)), 0.99),
    Score("recall after another fact", _after_another_fact),
    Score("held-out wording", _wordings(lambda w, f: w.held_out_templates(f)), 0.96),
    Score("wording unseen for everybody", _wordings(lambda w, f: (w.unseen_template(f.relation),))),
    Score("reversed relation, held-out wording", _reversed, 0.99),
    Score("alias and real name, held-out wording", _alias_pairs),
    Score("relation of an alias, held-out wording", _alias_relations(trained=True), 0.95),
    Score("relation of an alias never stated", _alias_relations(trained=False)),
    Score("two hops with Think:, held-out subject", _reasoned(hops=2), 0.98),
    Score("three hops with Think:, held-out subject", _reasoned(hops=3), 0.98),
    Score("two hops directly, trained subject", _direct(trained=True, hops=2)),
    Score("two hops directly, held-out subject", _direct(trained=False, hops=2)),
    Score("three hops directly, held-out subject", _direct(trained=False, hops=3)),
    Score("yes or no, held-out fact", _yes_no),
    Score("new fact in context: its question", _context(lambda w: w.override(), people_only=True), 0.90),
    Score("new fact in context: any type of subject", _context(lambda w: w.override())),
    Score("new fact in context: another subject", _context(lambda w: w.other_subject()), 0.80),
    Score("new fact in context: another relation", _context(lambda w: w.other_relation()), 0.80),
    Score("new fact in context: reversed", _context(lambda w: w.reversed())),
    Score("new fact in context: by alias", _context(lambda w: w.renamed())),
    Score("new fact in context: hops with Think:", _context(lambda w: w.composed(direct=0.0))),
    Score("new fact in context: hops directly", _context(lambda w: w.composed(direct=1.0))),
    Score("new fact in context: yes or no", _context(lambda w: w.yes_or_no())),
    Score("two to eight new facts, one relevant", _context(lambda w: w.several(relevant=True))),
    Score("two to eight new facts, none relevant", _context(lambda w: w.several(relevant=False))),
    Score("relevant feedback", _context(lambda w: w.feedback(relevant=True))),
    Score("irrelevant feedback", _context(lambda w: w.feedback(relevant=False))),
    *(
        Score(f"{length} demonstrations, {kind}", _demonstrations(length, kind), decoder_only=length > 4)
        for length in (0, 4, 16, 32)
        for kind in DEMONSTRATION_KINDS
    ),
    Score("sub-questions over two hops", _traces(2), decoder_only=True),
    Score("sub-questions over three hops", _traces(3), decoder_only=True),
    *(Score(f"task: {task}", _task(task), 0.95) for task in TASKS),
)

T5_SCORES: Final = tuple(score for score in SCORES if not score.decoder_only)
