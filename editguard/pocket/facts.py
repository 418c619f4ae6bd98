"""Entities and facts, and how the facts of a world are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from editguard.pocket.relations import RELATIONS, Relation
from editguard.pocket.splits import fraction, stream

Drawn = dict[tuple[str, str], str]
"""Objects by (subject, relation)."""

_LED: Final = {"mayor": "city", "ceo": "company", "rector": "university"}
"""Relations whose objects are different people, with the type of their subjects."""
_FROM_THEIR_INVERSE: Final = frozenset({"capital_of", "mayor_of", "ceo_of", "rector_of", "real_name"})


@dataclass(frozen=True, slots=True)
class Entity:
    """Something with a name that is unique in the world."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Fact:
    """The object of a relation, for one subject; all three by name."""

    subject: str
    relation: str
    object: str


def draw_facts(seed: int, names: Mapping[str, Sequence[str]], aliases: Mapping[str, str]) -> Iterator[Fact]:
    """All facts among the named entities, relation by relation.

    Args:
        names: names by type of entity.
        aliases: stage name by person.
    """
    drawn: Drawn = {}
    leaders = _leaders(seed, names)
    for relation in RELATIONS:
        subjects, targets = names[relation.subject_type], names[relation.object_type]
        if relation.name in _LED:
            drawn |= {(s, relation.name): o for s, o in zip(subjects, leaders[relation.name], strict=True)}
        elif relation.name == "spouse":
            drawn |= _couples(seed, relation, subjects)
        elif relation.name == "country":
            drawn |= _evenly(seed, relation, subjects, targets)
        elif relation.name == "also_known_as":
            drawn |= {(person, relation.name): alias for person, alias in aliases.items()}
        elif relation.name != "capital" and relation.name not in _FROM_THEIR_INVERSE:
            drawn |= _independently(seed, relation, subjects, targets)
    drawn |= _capitals(seed, names, drawn)
    for relation in RELATIONS:
        if relation.inverse in _FROM_THEIR_INVERSE:
            drawn |= {(o, relation.inverse): s for (s, name), o in list(drawn.items()) if name == relation.name}
    for relation in RELATIONS:
        for subject in names[relation.subject_type]:
            if (subject, relation.name) in drawn:
                yield Fact(subject, relation.name, drawn[subject, relation.name])


def _leaders(seed: int, names: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The people who lead something, each one thing."""
    led = {relation: len(names[kind]) for relation, kind in _LED.items()}
    people = iter(stream("world", seed, "leaders").sample(names["person"], sum(led.values())))
    return {relation: [next(people) for _ in range(count)] for relation, count in led.items()}


def _couples(seed: int, relation: Relation, people: Sequence[str]) -> Drawn:
    """Each person with at most one other, and the other way round."""
    chosen = stream("world", seed, "facts", relation.name).sample(people, int(len(people) * relation.share) // 2 * 2)
    pairs = list(zip(chosen[::2], chosen[1::2], strict=True))
    return {(s, relation.name): o for one, other in pairs for s, o in ((one, other), (other, one))}


def _evenly(seed: int, relation: Relation, subjects: Sequence[str], targets: Sequence[str]) -> Drawn:
    """Each target for about as many subjects as any other."""
    spread = [targets[position % len(targets)] for position in range(len(subjects))]
    stream("world", seed, "facts", relation.name).shuffle(spread)
    return {(s, relation.name): o for s, o in zip(subjects, spread, strict=True)}


def _independently(seed: int, relation: Relation, subjects: Sequence[str], targets: Sequence[str]) -> Drawn:
    """Any target for each of the subjects that have the relation."""
    rng = stream("world", seed, "facts", relation.name)
    having = (s for s in subjects if fraction(seed, "has", relation.name, s) < relation.share)
    return {(subject, relation.name): rng.choice(targets) for subject in having}


def _capitals(seed: int, names: Mapping[str, Sequence[str]], drawn: Drawn) -> Drawn:
    """One of each country's cities."""
    rng = stream("world", seed, "facts", "capital")
    inside = {land: [c for c in names["city"] if drawn[c, "country"] == land] for land in names["country"]}
    return {(land, "capital"): rng.choice(cities) for land, cities in inside.items()}
