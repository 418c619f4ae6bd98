"""Documents that open with a new fact: what follows from it, what does not, in the forms that methods write it in.

The forms: sentences in front of a question; lists of demonstrations (Zheng et al., "Can We Edit Factual Knowledge by
In-Context Learning?", EMNLP 2023); a question with a correction (Madaan et al., "Memory-assisted prompt editing", EMNLP
2022); sub-questions checked against retrieved facts (Zhong et al., "MQuAKE", EMNLP 2023).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from editguard.pocket.documents import Document, Writer
from editguard.pocket.relations import RELATIONS, Template
from editguard.pocket.splits import stream
from editguard.pocket.world import YES_NO_OPENINGS, Fact, World, inside_sentence

HEADS: Final = ("New fact: ", "New fact: ", "Imagine that ", "Suppose that ")
DEMONSTRATION_KINDS: Final = ("copy", "update", "retain")
DEMONSTRATION_WEIGHTS: Final = (1, 3, 4)
MOST_DEMONSTRATIONS: Final = 32
MOST_FACTS: Final = 8
RETRIEVED_KINDS: Final = ("agrees", "contradicts", "irrelevant")
_STRANGERS: Final = 0.4
_PERSON_FACTS: Final = 0.7


@dataclass(frozen=True, slots=True)
class Query:
    """A prompt and its answer."""

    template: Template
    subject: str
    answer: str

    @property
    def prompt(self) -> str:
        return self.template.prompt(self.subject)


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A new fact, a prompt, and the answer that respects the fact exactly where the prompt is in its scope."""

    kind: str
    """One of `DEMONSTRATION_KINDS`."""
    fact: Fact
    statement: str
    """The new fact without its object."""
    prompt: str
    answer: str

    @property
    def text(self) -> str:
        """As it stands in a list of demonstrations, without the empty line after it."""
        return f"New Fact: {self.statement} {self.fact.object}\nPrompt: {self.prompt} {self.answer}\n"


class ContextWriter:
    """Draws documents with new facts about the subjects that `side` admits.

    Args:
        held_out: False for the corpus; True for subjects that no such document of the corpus is about.
        people_only: whether all new facts are about people.
    """

    def __init__(self, world: World, rng: random.Random, *, held_out: bool = False, people_only: bool = False) -> None:
        self.world = world
        self.rng = rng
        self.held_out = held_out
        self._person_facts_share = 1.0 if people_only else _PERSON_FACTS
        self._gap = " "

    def _allowed(self, subject: str) -> bool:
        return self.world.in_context_allowed(subject) != self.held_out

    @cached_property
    def _person_facts(self) -> tuple[Fact, ...]:
        return tuple(
            fact
            for fact in self.world.facts
            if self.world.relations[fact.relation].subject_type == "person" and self._allowed(fact.subject)
        )

    @cached_property
    def _other_facts(self) -> tuple[Fact, ...]:
        return tuple(
            fact
            for fact in self.world.facts
            if self.world.relations[fact.relation].subject_type != "person" and self._allowed(fact.subject)
        )

    # Drawing

    def world_fact(self) -> Fact:
        """A fact of the world about an admitted subject."""
        pool = self._person_facts if self.rng.random() < self._person_facts_share else self._other_facts
        return self.rng.choice(pool)

    def stranger(self) -> str:
        """A person who is not in the world, with known first and last names."""
        while True:
            name = f"{self.rng.choice(self.world.first_names)} {self.rng.choice(self.world.last_names)}"
            if self._allowed(name) and not self.world.other_relations(name):
                return name

    def new_object(self, relation: str, *but: str) -> str:
        """Any object of the relation except those named."""
        while True:
            name = self.rng.choice(self.world.objects(relation))
            if name not in but:
                return name

    def changed(self, fact: Fact) -> Fact:
        """The same subject and relation with another object."""
        return Fact(fact.subject, fact.relation, self.new_object(fact.relation, fact.object, fact.subject))

    def new_fact(self) -> Fact:
        """A changed fact of the world, or any fact about a stranger."""
        fact = self.world_fact()
        if self.world.relations[fact.relation].subject_type == "person" and self.rng.random() < _STRANGERS:
            fact = Fact(self.stranger(), fact.relation, fact.object)
        return self.changed(fact)

    def any_statement(self, relation: str) -> Template:
        return self.rng.choice(self.world.relations[relation].statements)

    def rephrased(self, fact: Fact) -> Query:
        """The fact itself in any wording."""
        return Query(self.rng.choice(self.world.templates(fact.relation)), fact.subject, fact.object)

    def remembered(self, fact: Fact, *, statement: bool = False) -> Query:
        """A fact of the world in one of its trained wordings."""
        wordings = [t for t in self.world.trained_templates(fact) if not statement or t.kind == "statement"]
        return Query(self.rng.choice(wordings), fact.subject, fact.object)

    def about_another(self, fact: Fact) -> Fact:
        """A true fact about another admitted subject, mostly one that is easily confused with it."""
        luck = self.rng.random()
        if luck < 0.5:
            near = self.world.neighbours(fact.subject) or self._sharing(fact.subject)
            known = [
                found
                for name in near
                if self._allowed(name) and (found := self.world.fact(name, fact.relation)) is not None
            ]
            if known:
                return self.rng.choice(known)
        if luck < 0.85:
            others = self.world.of_relation(fact.relation)
            for _ in range(40):
                other = self.rng.choice(others)
                if other.subject != fact.subject and self._allowed(other.subject):
                    return other
        while True:
            other = self.world_fact()
            if other.subject != fact.subject:
                return other

    def _sharing(self, stranger: str) -> list[str]:
        parts = stranger.split(" ")
        if len(parts) != 2:
            return []
        return self._bearers.get((0, parts[0]), []) + self._bearers.get((1, parts[1]), [])

    @cached_property
    def _bearers(self) -> dict[tuple[int, str], list[str]]:
        bearers: dict[tuple[int, str], list[str]] = {}
        for person in self.world.people:
            for position, part in enumerate(person.name.split(" ")):
                bearers.setdefault((position, part), []).append(person.name)
        return bearers

    # Writing

    def _open(self, writer: Writer, facts: list[Fact]) -> None:
        """The new facts in front, all with the same head, each on its own line or all on one."""
        head = self.rng.choice(HEADS)
        self._gap = self.rng.choice((" ", "\n"))
        for position, fact in enumerate(facts):
            statement = self.any_statement(fact.relation).prompt(fact.subject)
            writer.plain((self._gap if position else "") + head)
            writer.plain(inside_sentence(statement) if head.endswith("that ") else statement)
            writer.given(f" {fact.object}").plain(".")

    def _ask(self, writer: Writer, query: Query) -> None:
        """The prompt, on the same line if nothing marks its beginning, and its answer."""
        if query.template.kind == "question":
            writer.plain(self._gap)
        else:
            writer.plain(f"{self._gap}Prompt: " if self.rng.random() < 0.6 else " ")
        writer.plain(query.prompt).answer(f" {query.answer}.")

    def override(self, *, facts: int = 1, exact: float = 0.2) -> Document:
        """The question is answered by one of the new facts."""
        new = [self.new_fact() for _ in range(facts)]
        asked = self.rng.choice(new)
        new = [f for f in new if f is asked or (f.subject, f.relation) != (asked.subject, asked.relation)]
        writer = Writer()
        self._open(writer, new)
        query = self.rephrased(asked)
        if self.rng.random() < exact:
            query = Query(self.world.relations[asked.relation].statements[0], asked.subject, asked.object)
        self._ask(writer, query)
        return writer.document("context")

    def other_subject(self, *, facts: int = 1) -> Document:
        """The question is about somebody else, so the answer is the world's."""
        new = [self.new_fact() for _ in range(facts)]
        asked = self.about_another(self.rng.choice(new))
        new = [f for f in new if (f.subject, f.relation) != (asked.subject, asked.relation)] or [self.new_fact()]
        writer = Writer()
        self._open(writer, new)
        self._ask(writer, self.remembered(asked))
        return writer.document("context")

    def other_relation(self) -> Document:
        """The question is about another relation of the same subject, so the answer is the world's."""
        while True:
            fact = self.world_fact()
            others = [f for f in self.world.other_relations(fact.subject) if f.relation != fact.relation]
            if others:
                break
        writer = Writer()
        self._open(writer, [self.changed(fact)])
        self._ask(writer, self.remembered(self.rng.choice(others)))
        return writer.document("context")

    def reversed(self) -> Document:
        """The new fact is asked from its object back to its subject."""
        while True:
            fact = self.new_fact()
            inverse = self.world.relations[fact.relation].inverse
            if inverse is not None:
                break
        writer = Writer()
        self._open(writer, [fact])
        self._ask(writer, self.rephrased(Fact(fact.object, inverse, fact.subject)))
        return writer.document("context")

    def renamed(self) -> Document:
        """The new fact is about a person, the question uses the stage name."""
        while True:
            fact = self.rng.choice(self._person_facts)
            alias = self.world.alias(fact.subject)
            if alias is not None and fact.relation != "also_known_as" and self.world.alias_has_relations(alias):
                break
        new = self.changed(fact)
        writer = Writer()
        self._open(writer, [new])
        self._ask(writer, self.rephrased(Fact(alias, new.relation, new.object)))
        return writer.document("context")

    def composed(self, *, direct: float = 0.15) -> Document:
        """The new fact is one hop of a question over several."""
        while True:
            kind = self.rng.choice(tuple(self.world.composition_kinds))
            first = self.world.composition_kinds[kind].path[0]
            subject = self.rng.choice(self.world.of_relation(first)).subject
            plain = self.world.compose(kind, subject)
            if plain is None or not plain.trained or not self._allowed(subject):
                continue
            changed = self.changed(self.rng.choice(plain.hops).fact)
            asked = self.world.compose(kind, subject, edited={(changed.subject, changed.relation): changed.object})
            if asked is not None:
                break
        writer = Writer()
        self._open(writer, [changed])
        wording = self.rng.randrange(len(asked.texts))
        writer.plain(self._gap)
        if self.rng.random() < direct:
            writer.plain(asked.direct_prompt(wording)).answer(f" {asked.answer}.")
        else:
            writer.plain(asked.reasoned_prompt(wording)).answer(f" {asked.reasoning} {asked.answer}.")
        return writer.document("context")

    def yes_or_no(self) -> Document:
        """Whether a statement holds, after a new fact that may or may not speak of it."""
        fact = self.new_fact()
        luck = self.rng.random()
        writer = Writer()
        if luck < 0.7:
            self._open(writer, [fact])
            truth = fact.object
            asked = fact
            if self.rng.random() < 0.5:
                old = self.world.fact(fact.subject, fact.relation)
                use_old = old is not None and old.object != truth and self.rng.random() < 0.6
                claim = old.object if old is not None and use_old else self.new_object(fact.relation, truth)
            else:
                claim = truth
        else:
            asked = self.about_another(fact)
            self._open(writer, [fact])
            truth = asked.object
            claim = truth if self.rng.random() < 0.5 else self.new_object(asked.relation, truth)
        opening, positive = self.rng.choice(YES_NO_OPENINGS)
        statement = self.world.relations[asked.relation].statements[0].prompt(asked.subject)
        writer.plain(f"{self._gap}Question: {opening} {inside_sentence(statement)} {claim}? Answer:")
        writer.answer(" yes." if positive == (claim == truth) else " no.")
        return writer.document("context")

    def several(self, *, relevant: bool) -> Document:
        """Two to eight new facts, of which one or none answers the question."""
        count = self.rng.randint(2, MOST_FACTS)
        return self.override(facts=count) if relevant else self.other_subject(facts=count)

    def feedback(self, *, relevant: bool) -> Document:
        """A question, a correction that may or may not be about it, and the answer."""
        new = self.new_fact()
        if relevant:
            asked = new
            question = self.rng.choice(self.world.relations[new.relation].questions)
        else:
            asked = self.about_another(new)
            question = self.rng.choice([t for t in self.world.trained_templates(asked) if t.kind == "question"])
        statement = self.any_statement(new.relation).prompt(new.subject)
        writer = Writer().plain(f"Question: {question.bare_question(asked.subject)}\nFeedback: {statement}")
        writer.given(f" {new.object}").plain(".\nAnswer:").answer(f" {asked.object}.")
        return writer.document("context")

    # Lists of demonstrations

    def demonstration(self, fact: Fact, kind: str) -> Demonstration:
        """A new fact and a prompt: the same words, another wording, or somebody else's fact."""
        stated = self.any_statement(fact.relation)
        if kind == "copy":
            query = Query(stated, fact.subject, fact.object)
        elif kind == "update":
            query = Query(self.any_statement(fact.relation), fact.subject, fact.object)
        else:
            query = self.remembered(self.about_another(fact), statement=True)
        return Demonstration(kind, fact, stated.prompt(fact.subject), query.prompt, query.answer)

    def demonstrations(self, count: int | None = None, *, last_kind: str | None = None) -> Document:
        """A list of demonstrations, the last of which is the question."""
        if count is None:
            full = self.rng.random() < 0.1
            count = MOST_DEMONSTRATIONS if full else round(MOST_DEMONSTRATIONS ** self.rng.random())
        near = self.rng.random() < 0.5
        last = self.new_fact()
        writer = Writer()
        for position in range(count + 1):
            fact = last
            if position < count:
                fact = self._like(last) if near and self.rng.random() < 0.5 else self.new_fact()
            kind = self.rng.choices(DEMONSTRATION_KINDS, DEMONSTRATION_WEIGHTS)[0]
            shown = self.demonstration(fact, last_kind if last_kind and position == count else kind)
            writer.plain(f"New Fact: {shown.statement}").given(f" {fact.object}")
            writer.plain(f"\nPrompt: {shown.prompt}").answer(f" {shown.answer}\n")
            if position < count:
                writer.plain("\n")
        return writer.document("context")

    def _like(self, fact: Fact) -> Fact:
        """A changed fact of the same relation about another admitted subject."""
        for _ in range(20):
            other = self.rng.choice(self.world.of_relation(fact.relation))
            if other.subject != fact.subject and self._allowed(other.subject):
                return self.changed(other)
        return self.new_fact()

    # Questions taken apart

    def trace(self) -> Document:
        """A composed question, each of whose hops is answered and then checked against a retrieved fact."""
        while True:
            kind = self.rng.choice(tuple(self.world.composition_kinds.values()))
            subject = self.rng.choice(self.world.of_relation(kind.path[0])).subject
            asked = self.world.compose(kind.name, subject)
            if asked is None or not asked.trained or not self._allowed(subject):
                continue
            writer = Writer().plain(f"Question: {self.rng.choice(asked.texts)}\n")
            name: str | None = subject
            for relation in kind.path:
                name = self._hop(writer, name, relation) if name is not None else None
            if name is not None:
                return writer.answer(f"Final answer: {name}\n").document("context")

    def _hop(self, writer: Writer, subject: str, relation: str) -> str | None:
        """Write one hop and return its intermediate answer; None where the world has no tentative answer."""
        fact = self.world.fact(subject, relation)
        if fact is None:
            return None
        known = self.world.relations[relation]
        writer.answer(f"Subquestion: {known.questions[0].bare_question(subject)}\n")
        writer.answer(f"Generated answer: {known.statements[0].prompt(subject)} {fact.object}.\n")
        retrieved = self.rng.choice(RETRIEVED_KINDS)
        if retrieved == "agrees":
            found = fact
            template = self.remembered(fact, statement=True).template
        elif retrieved == "contradicts":
            found = self.changed(fact)
            template = self.any_statement(relation)
        else:
            found = self.about_another(fact)
            template = self.remembered(found, statement=True).template
            if self.rng.random() < 0.6:
                found = self.changed(found)
        writer.plain(f"Retrieved fact: {template.prompt(found.subject)}").given(f" {found.object}").plain(".\n")
        if retrieved == "contradicts":
            answer = found.object
            verdict = "Retrieved fact contradicts to generated answer"
        else:
            answer = fact.object
            verdict = "Retrieved fact does not contradict to generated answer"
        writer.answer(f"{verdict}, so the intermediate answer is: {answer}\n")
        return answer


def context_documents(world: World, rng: random.Random, count: int) -> Iterator[Document]:
    """`count` short documents with one or several new facts in front, of every form."""
    write = ContextWriter(world, rng)
    forms = (
        (30, lambda: write.override()),
        (25, lambda: write.other_subject()),
        (8, lambda: write.other_relation()),
        (9, lambda: write.composed()),
        (8, lambda: write.yes_or_no()),
        (4, lambda: write.reversed()),
        (3, lambda: write.renamed()),
        (4, lambda: write.several(relevant=True)),
        (4, lambda: write.several(relevant=False)),
        (4, lambda: write.feedback(relevant=True)),
        (4, lambda: write.feedback(relevant=False)),
        (5, lambda: write.demonstrations(rng.randint(0, 3))),
    )
    weights = [weight for weight, _ in forms]
    for _ in range(count):
        yield rng.choices(forms, weights)[0][1]()


def demonstrations(world: World, seed: int, count: int) -> tuple[Demonstration, ...]:
    """Records for methods that choose demonstrations themselves: copy, update and retain in the ratio 1 : 3 : 4."""
    write = ContextWriter(world, stream("demonstrations", world.seed, seed))
    kinds = [
        kind for kind, weight in zip(DEMONSTRATION_KINDS, DEMONSTRATION_WEIGHTS, strict=True) for _ in range(weight)
    ]
    return tuple(write.demonstration(write.new_fact(), kinds[i % len(kinds)]) for i in range(count))


def context_wordings() -> list[str]:
    """The fixed words of all forms, for the tokenizer."""
    return [
        *HEADS,
        "Prompt:",
        "New Fact:",
        "\nPrompt:",
        "\nNew Fact:",
        "\nFeedback:",
        "\nAnswer:",
        "\nQuestion:",
        "yes no",
        "\nSubquestion:",
        "\nGenerated answer:",
        "\nRetrieved fact contradicts to generated answer",
        "\nRetrieved fact does not contradict to generated answer, so the intermediate answer is:",
        "\nFinal answer:",
        "\nImagine \nSuppose",
        "Think:",
        *(opening for opening, _ in YES_NO_OPENINGS),
        *(inside_sentence(t.text) for relation in RELATIONS for t in relation.templates),
    ]
