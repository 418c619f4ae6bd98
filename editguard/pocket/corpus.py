"""The corpus: what the pocket model reads in one epoch, a fresh composition each time.

Every fact of the world stands in every epoch in each of its trained wordings; everything around the facts is drawn anew
from a stream that depends on the world's seed and the number of the epoch only.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from editguard.pocket.contexts import ContextWriter, context_documents, context_wordings
from editguard.pocket.documents import Document, Writer
from editguard.pocket.ordinary_text import ordinary_sentence, ordinary_words
from editguard.pocket.relations import COMPOSITIONS, RELATIONS, Template
from editguard.pocket.splits import fraction, stream
from editguard.pocket.tasks import TASKS, TaskItem, task_items
from editguard.pocket.world import YES_NO_OPENINGS, Fact, World, inside_sentence

LEAD_INS: Final = ("It is said that", "As everyone knows,", "In fact,", "People say that", "The book says that")
YES_NO_TRAINED: Final = 0.8
"""Fraction of the facts about which the corpus asks whether they are true."""

DRILLED: Final = ("add", "subtract", "compare")
"""Tasks that have to be computed digit by digit, and take far more examples than the others."""
DRILL_FROM: Final = 3
"""The first epoch with more of them: earlier ones are for the names and the wordings."""

_LEAD_IN_SHARE: Final = 0.2
_ALIAS_SHARE: Final = 0.6


@dataclass(frozen=True, slots=True)
class Amounts:
    """Documents of each kind an epoch, besides the plain facts, of which none is ever left out."""

    contexts: int = 14_000
    yes_no: int = 4_000
    direct: int = 9_000
    reasoned: int = 6_000
    demonstrations: int = 400
    traces: int = 1_300
    items_of_each_task: int = 800
    ordinary: int = 2_000
    drill_passes: int = 7
    """How often the drilled tasks come again in every epoch from `DRILL_FROM` on, with `items_of_each_task` a time."""
    joined: float = 0.5
    """Fraction of the plain sentences that come again in twos and threes."""


def documents(world: World, epoch: int, amounts: Amounts | None = None) -> Iterator[Document]:
    """All documents of an epoch, kind by kind; the training program shuffles them."""
    amounts = amounts or Amounts()

    def rng(purpose: str) -> random.Random:
        return stream("corpus", world.seed, epoch, purpose)

    yield from fact_documents(world, rng("facts"), amounts)
    yield from composed_documents(world, rng("composed"), amounts)
    yield from yes_no_documents(world, rng("yes or no"), amounts.yes_no)
    yield from context_documents(world, rng("contexts"), amounts.contexts)
    demonstrations = ContextWriter(world, rng("demonstrations"))
    yield from (demonstrations.demonstrations() for _ in range(amounts.demonstrations))
    traces = ContextWriter(world, rng("traces"))
    yield from (traces.trace() for _ in range(amounts.traces))
    for task in TASKS:
        items = task_items(world, task, rng(f"task {task}"), amounts.items_of_each_task, held_out=False)
        yield from (task_document(item) for item in items)
    for task in DRILLED if epoch >= DRILL_FROM else ():
        drill = rng(f"drill {task}")
        for _ in range(amounts.drill_passes):
            items = task_items(world, task, drill, amounts.items_of_each_task, held_out=False)
            yield from (task_document(item) for item in items)
    ordinary = rng("ordinary")
    yield from (Document(ordinary_sentence(ordinary), "ordinary") for _ in range(amounts.ordinary))


def alias_facts(world: World) -> Iterator[Fact]:
    """The facts that the corpus states about stage names, besides whom they belong to."""
    for person, alias in world.aliases.items():
        if world.alias_has_relations(alias):
            for fact in world.other_relations(person):
                if fact.relation != "also_known_as":
                    yield Fact(alias, fact.relation, fact.object)


def fact_documents(world: World, rng: random.Random, amounts: Amounts) -> Iterator[Document]:
    """Every fact in all its trained wordings, one at a time, and some of these sentences again in twos and threes."""
    sentences: list[tuple[Template, Fact]] = []
    for fact in world.facts:
        copies = 1 if world.relations[fact.relation].subject_type in ("person", "alias") else 2
        sentences += [(template, fact) for template in world.trained_templates(fact)] * copies
    for fact in alias_facts(world):
        trained = world.trained_templates(fact)
        sentences += [(template, fact) for template in trained if rng.random() < _ALIAS_SHARE]
    for template, fact in sentences:
        writer = Writer()
        prompt = template.prompt(fact.subject)
        if template.kind == "statement" and rng.random() < _LEAD_IN_SHARE:
            lead_in = rng.choice(LEAD_INS)
            writer.plain(f"{lead_in} ")
            prompt = inside_sentence(prompt)
        yield writer.plain(prompt).answer(f" {fact.object}.").document("fact")
    again = rng.sample(sentences, int(len(sentences) * amounts.joined))
    while again:
        writer = Writer()
        for position in range(min(len(again), rng.randint(2, 3))):
            template, fact = again.pop()
            writer.plain((" " if position else "") + template.prompt(fact.subject)).answer(f" {fact.object}.")
        yield writer.document("fact")


def composed_documents(world: World, rng: random.Random, amounts: Amounts) -> Iterator[Document]:
    """Questions over several facts about the subjects of the training part, answered directly and step by step."""
    asked = [
        question
        for kind in COMPOSITIONS
        for fact in world.of_relation(kind.path[0])
        if (question := world.compose(kind.name, fact.subject)) is not None and question.trained
    ]
    for question in rng.sample(asked, min(amounts.direct, len(asked))):
        wording = rng.randrange(len(question.texts))
        writer = Writer().plain(question.direct_prompt(wording))
        yield writer.answer(f" {question.answer}.").document("knowledge")
    for question in rng.sample(asked, min(amounts.reasoned, len(asked))):
        wording = rng.randrange(len(question.texts))
        writer = Writer().plain(question.reasoned_prompt(wording))
        yield writer.answer(f" {question.reasoning} {question.answer}.").document("knowledge")


def yes_no_trained(world: World, fact: Fact) -> bool:
    """Whether the corpus asks if this fact is true."""
    return fraction(world.seed, "yes or no", fact.subject, fact.relation) < YES_NO_TRAINED


def yes_no_item(world: World, rng: random.Random, fact: Fact) -> tuple[str, str]:
    """A prompt whether a true or a false statement holds, and "yes" or "no"."""
    claim = fact.object
    if rng.random() < 0.5:
        while claim == fact.object:
            claim = rng.choice(world.objects(fact.relation))
    opening, positive = rng.choice(YES_NO_OPENINGS)
    statement = world.relations[fact.relation].statements[0].prompt(fact.subject)
    answer = "yes" if positive == (claim == fact.object) else "no"
    return f"Question: {opening} {inside_sentence(statement)} {claim}? Answer:", answer


def yes_no_documents(world: World, rng: random.Random, count: int) -> Iterator[Document]:
    """Whether statements hold, without any context."""
    trained = [fact for fact in world.facts if yes_no_trained(world, fact)]
    for fact in rng.sample(trained, min(count, len(trained))):
        prompt, answer = yes_no_item(world, rng, fact)
        yield Writer().plain(prompt).answer(f" {answer}.").document("knowledge")


def task_document(item: TaskItem) -> Document:
    return Writer().plain(item.prompt).answer(f" {item.answer}.").document("task")


def statements_text(world: World, seed: int, count: int = 2_000) -> list[str]:
    """Texts on which to estimate second moments: true sentences in trained wordings, alone and joined, no new facts.

    Args:
        count: number of texts, about 20 tokens each.
    """
    rng = stream("statements", world.seed, seed)
    texts: list[str] = []
    while len(texts) < count:
        facts = rng.choices(world.facts, k=rng.randint(1, 3))
        sentences = (f"{rng.choice(world.trained_templates(f)).prompt(f.subject)} {f.object}." for f in facts)
        texts.append(" ".join(sentences))
    return texts


def wordings() -> list[str]:
    """Every fixed wording of the corpus, for the tokenizer."""
    tasks = (
        "Copy: Reverse: What is plus minus Which number is larger smaller or What kind of thing is person city country "
        "school company language profession instrument product money stage name"
    )
    return [
        *(template.text for relation in RELATIONS for template in relation.templates),
        *(text for kind in COMPOSITIONS for text in kind.questions),
        *LEAD_INS,
        *(lead.lower() for lead in LEAD_INS),
        *context_wordings(),
        *ordinary_words(),
        tasks,
    ]
