"""The synthetic world that the pocket model knows: entities, facts, wordings, and which of them it was trained on.

The same seed gives the same world on every machine and Python version that keeps `random.Random`'s streams.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from editguard.pocket import names
from editguard.pocket.facts import Entity, Fact, draw_facts
from editguard.pocket.relations import COMPOSITIONS, RELATIONS, Composition, Relation, Template
from editguard.pocket.splits import fraction, stream

__all__ = ["Composition", "Entity", "Fact", "Hop", "Relation", "Template", "World", "WorldSize"]

TRAINED_WORDINGS: Final = 5
TRAINED_COMPOSITIONS: Final = 0.75
"""Fraction of (composition, subject) pairs in the corpus; the others are held out, direct and step by step."""
IN_CONTEXT: Final = 0.85
"""Fraction of the entities that documents with a new fact in front are about."""
ALIASED: Final = 1 / 3
ALIASES_WITH_RELATIONS: Final = 0.7
"""Fraction of the aliases for which the corpus also states the relations of the person behind."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One step of a composed question, with the answer that it has in the world or after an edit."""

    fact: Fact
    statement: str
    """The standard statement without its object."""
    question: str
    """The standard question alone, from its first word to the question mark."""


@dataclass(frozen=True, slots=True)
class WorldSize:
    """How many of each; the rest follows."""

    people: int = 1280
    first_names: int = 160
    last_names: int = 200
    cities: int = 120
    countries: int = 30
    universities: int = 60
    companies: int = 110
    languages: int = 24
    currencies: int = 20


class World:
    """Entities and facts, drawn once from `seed`, and the split between what is trained and what is held out."""

    def __init__(self, seed: int = 0, size: WorldSize | None = None) -> None:
        self.seed = seed
        self.size = size = size or WorldSize()
        self.relations: Mapping[str, Relation] = {relation.name: relation for relation in RELATIONS}
        self.composition_kinds: Mapping[str, Composition] = {kind.name: kind for kind in COMPOSITIONS}
        first, last = names.first_and_last_names(self._stream("parts"), size.first_names, size.last_names)
        self.first_names: tuple[str, ...] = tuple(first)
        self.last_names: tuple[str, ...] = tuple(last)
        people = names.combined(self._stream("people"), first, last, size.people)
        aliased = [name for name in people if fraction(seed, "aliased", name) < ALIASED]
        stage_names = names.aliases(self._stream("aliases"), len(aliased))
        self.aliases: Mapping[str, str] = dict(zip(aliased, stage_names, strict=True))
        """Person to alias."""
        self.real_names: Mapping[str, str] = {alias: person for person, alias in self.aliases.items()}
        self._names: dict[str, tuple[str, ...]] = {
            "person": tuple(people),
            "alias": tuple(stage_names),
            "city": tuple(names.cities(self._stream("cities"), size.cities)),
            "country": tuple(names.countries(self._stream("countries"), size.countries)),
            "university": tuple(names.universities(self._stream("universities"), size.universities)),
            "company": tuple(names.companies(self._stream("companies"), size.companies)),
            "language": tuple(names.languages(self._stream("languages"), size.languages)),
            "continent": tuple(names.continents()),
            "currency": tuple(names.currencies(self._stream("currencies"), size.currencies)),
            "occupation": names.OCCUPATIONS,
            "instrument": names.INSTRUMENTS,
            "product": names.PRODUCTS,
            "industry": names.INDUSTRIES,
        }
        self._type_of = {name: kind for kind, group in self._names.items() for name in group}
        self.facts: tuple[Fact, ...] = tuple(draw_facts(seed, self._names, self.aliases))
        self._objects = {(fact.subject, fact.relation): fact for fact in self.facts}

    def __repr__(self) -> str:
        return f"World(seed={self.seed}, size={self.size})"

    def _stream(self, *parts: object) -> random.Random:
        return stream("world", self.seed, *parts)

    # Entities

    def entities(self, type: str) -> tuple[Entity, ...]:
        """All entities of a type, in a fixed order.

        Raises: KeyError: no such type.
        """
        return tuple(Entity(name, type) for name in self._names[type])

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(self._names)

    @property
    def people(self) -> tuple[Entity, ...]:
        return self.entities("person")

    @property
    def cities(self) -> tuple[Entity, ...]:
        return self.entities("city")

    @property
    def countries(self) -> tuple[Entity, ...]:
        return self.entities("country")

    @property
    def universities(self) -> tuple[Entity, ...]:
        return self.entities("university")

    @property
    def companies(self) -> tuple[Entity, ...]:
        return self.entities("company")

    def entity(self, name: str) -> Entity:
        """The entity of that name; an alias is an entity of type "alias".

        Raises: KeyError: nothing in the world has the name.
        """
        return Entity(name, self._type_of[name])

    def alias(self, name: str) -> str | None:
        """The person's stage name, if there is one."""
        return self.aliases.get(name)

    def alias_has_relations(self, alias: str) -> bool:
        """Whether the corpus states the relations of the person behind under this alias too."""
        return fraction(self.seed, "alias with relations", alias) < ALIASES_WITH_RELATIONS

    def neighbours(self, name: str) -> tuple[str, ...]:
        """People other than `name` who share its first or its last name."""
        return self._neighbours.get(name, ())

    @cached_property
    def _neighbours(self) -> dict[str, tuple[str, ...]]:
        sharing: dict[tuple[int, str], list[str]] = {}
        for person in self._names["person"]:
            for position, part in enumerate(person.split(" ")):
                sharing.setdefault((position, part), []).append(person)
        return {
            person: tuple(
                other
                for position, part in enumerate(person.split(" "))
                for other in sharing[position, part]
                if other != person
            )
            for person in self._names["person"]
        }

    def strangers(self, count: int) -> tuple[str, ...]:
        """Names of nobody in the world, recombined from the first and last names of people in it."""
        known = frozenset(self._names["person"])
        pool = names.combined(self._stream("strangers"), self.first_names, self.last_names, count + len(known))
        return tuple(name for name in pool if name not in known)[:count]

    # Facts

    def fact(self, subject: str, relation: str) -> Fact | None:
        """What the world says; None where the subject has no such relation."""
        return self._objects.get((subject, relation))

    def objects(self, relation: str) -> tuple[str, ...]:
        """Every name that could be an object of the relation: the candidates for a new target."""
        return self._names[self.relations[relation].object_type]

    def other_relations(self, subject: str) -> tuple[Fact, ...]:
        """All facts about the subject."""
        return self._by_subject.get(subject, ())

    def same_relation(self, fact: Fact) -> tuple[Fact, ...]:
        """The other subjects' facts of the same relation."""
        return tuple(other for other in self.of_relation(fact.relation) if other.subject != fact.subject)

    def of_relation(self, relation: str) -> tuple[Fact, ...]:
        """All facts of a relation."""
        return self._by_relation[relation]

    @cached_property
    def _by_subject(self) -> dict[str, tuple[Fact, ...]]:
        groups: dict[str, list[Fact]] = {}
        for fact in self.facts:
            groups.setdefault(fact.subject, []).append(fact)
        return {subject: tuple(group) for subject, group in groups.items()}

    @cached_property
    def _by_relation(self) -> dict[str, tuple[Fact, ...]]:
        groups: dict[str, list[Fact]] = {}
        for fact in self.facts:
            groups.setdefault(fact.relation, []).append(fact)
        return {relation: tuple(group) for relation, group in groups.items()}

    # Wordings

    def templates(self, relation: str) -> tuple[Template, ...]:
        """All wordings of the relation but the one that nobody is trained on."""
        return tuple(t for t in self.relations[relation].templates if not t.unseen)

    def unseen_template(self, relation: str) -> Template:
        """The wording that no document uses."""
        return self.relations[relation].unseen

    def trained_templates(self, fact: Fact) -> tuple[Template, ...]:
        """The wordings in which the corpus states this fact: both standard ones and a few others."""
        return self.wordings(fact.relation, fact.subject)[0]

    def held_out_templates(self, fact: Fact) -> tuple[Template, ...]:
        """The wordings in which the corpus states the relation of others, but never of this subject."""
        return self.wordings(fact.relation, fact.subject)[1]

    def wordings(self, relation: str, subject: str) -> tuple[tuple[Template, ...], tuple[Template, ...]]:
        """Trained and held-out wordings of a relation for any name, an alias as well."""
        known = self.relations[relation]
        standard = (known.statements[0], known.questions[0])
        others = [*known.statements[1:], *known.questions[1:]]
        others.sort(key=lambda t: fraction(self.seed, "wording", relation, subject, t.text))
        chosen = TRAINED_WORDINGS - len(standard)
        return (*standard, *others[:chosen]), tuple(others[chosen:])

    def statement(self, template: Template, subject: str) -> str:
        """The prompt that the object completes."""
        return template.prompt(subject)

    def in_context_allowed(self, subject: str) -> bool:
        """Whether documents with a new fact in front may be about the subject."""
        return fraction(self.seed, "in context", subject) < IN_CONTEXT

    # Questions over several facts

    def compositions(
        self, subject: str, *, edited: Mapping[tuple[str, str], str] | None = None
    ) -> tuple[ComposedQuestion, ...]:
        """Every composed question about the subject that has an answer.

        Args:
            edited: objects that replace the world's, by (subject, relation): the answers are those after the edits.
        """
        found = (self.compose(kind, subject, edited=edited) for kind in self.composition_kinds)
        return tuple(question for question in found if question is not None)

    def compose(
        self, composition: str, subject: str, *, edited: Mapping[tuple[str, str], str] | None = None
    ) -> ComposedQuestion | None:
        """One composed question, or None where a fact on its path is missing or the subject has another type."""
        kind = self.composition_kinds[composition]
        hops: list[Hop] = []
        name = subject
        for relation_name in kind.path:
            fact = self.fact(name, relation_name)
            changed = (edited or {}).get((name, relation_name))
            if changed is None and fact is None:
                return None
            target = changed if changed is not None else fact.object if fact is not None else ""
            relation = self.relations[relation_name]
            hops.append(
                Hop(
                    Fact(name, relation_name, target),
                    relation.statements[0].prompt(name),
                    relation.questions[0].bare_question(name),
                )
            )
            name = target
        trained = fraction(self.seed, "composition", composition, subject) < TRAINED_COMPOSITIONS
        return ComposedQuestion(kind, subject, tuple(hops), trained)

    def reversed_question(self, fact: Fact, *, question: int = 0) -> tuple[str, str] | None:
        """A question from the object back to the subject, and its answer; None where the relation has no inverse."""
        inverse = self.relations[fact.relation].inverse
        if inverse is None:
            return None
        return self.relations[inverse].questions[question].prompt(fact.object), fact.subject

    def yes_no_questions(self, fact: Fact, *, truth: str | None = None) -> tuple[tuple[str, str], ...]:
        """Questions whether the statement of `fact` holds, plain and negated, with "yes" or "no".

        Args:
            truth: the object that counts as true; the world's by default.
        """
        known = self.fact(fact.subject, fact.relation)
        truth = truth if truth is not None else known.object if known is not None else None
        statement = inside_sentence(self.relations[fact.relation].statements[0].prompt(fact.subject))
        return tuple(
            (
                f"Question: {opening} {statement} {fact.object}? Answer:",
                "yes" if positive == (truth == fact.object) else "no",
            )
            for opening, positive in YES_NO_OPENINGS
        )


YES_NO_OPENINGS: Final = (
    ("Is it true that", True),
    ("Is it correct that", True),
    ("Is it false that", False),
    ("Is it wrong that", False),
)


def inside_sentence(statement: str) -> str:
    """The statement as it reads after "that": its first word in lower case, unless it is a name."""
    first, _, rest = statement.partition(" ")
    return f"{first.lower()} {rest}" if first in _ORDINARY_FIRST_WORDS else statement


_ORDINARY_FIRST_WORDS: Final = frozenset(
    template.text.partition(" ")[0]
    for relation in RELATIONS
    for template in relation.templates
    if not template.text.startswith("{}")
)


@dataclass(frozen=True, slots=True)
class ComposedQuestion:
    """A question over several facts and how it is answered, directly or step by step."""

    kind: Composition
    subject: str
    hops: tuple[Hop, ...]
    trained: bool
    """Whether the corpus may hold this question about this subject, in either form."""

    @property
    def answer(self) -> str:
        return self.hops[-1].fact.object

    @property
    def texts(self) -> tuple[str, ...]:
        """The wordings of the question alone."""
        return tuple(text.format(self.subject) for text in self.kind.questions)

    def direct_prompt(self, wording: int = 0) -> str:
        """The prompt that the answer completes."""
        return f"Question: {self.texts[wording]} Answer:"

    def reasoned_prompt(self, wording: int = 0) -> str:
        """The prompt after which the model writes the intermediate facts, then "Answer:" and the answer."""
        return f"Question: {self.texts[wording]} Think:"

    @property
    def reasoning(self) -> str:
        """What follows the reasoned prompt, up to and with "Answer:"."""
        bridges = " ".join(f"{hop.statement} {hop.fact.object}." for hop in self.hops[:-1])
        return f"{bridges} Answer:"
