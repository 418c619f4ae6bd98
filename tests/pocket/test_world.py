"""What must hold in every world, and what the default one looks like."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pocket.small_world import SIZE

from editguard.pocket import default_world
from editguard.pocket.relations import COMPOSITIONS, RELATIONS
from editguard.pocket.world import Fact, World, inside_sentence

worlds = st.integers(0, 2**32).map(lambda seed: World(seed, SIZE))
several_worlds = settings(max_examples=12, deadline=None)


@pytest.fixture(scope="module")
def world() -> World:
    return default_world()


@several_worlds
@given(worlds)
def test_a_subject_has_at_most_one_object_of_the_right_type(small: World) -> None:
    assert len({(fact.subject, fact.relation) for fact in small.facts}) == len(small.facts)
    for fact in small.facts:
        relation = small.relations[fact.relation]
        assert small.entity(fact.subject).type == relation.subject_type
        assert small.entity(fact.object).type == relation.object_type
        assert fact.object in small.objects(fact.relation)


@several_worlds
@given(worlds)
def test_inverse_relations_say_the_same_from_the_other_side(small: World) -> None:
    for fact in small.facts:
        inverse = small.relations[fact.relation].inverse
        if inverse is not None:
            assert small.fact(fact.object, inverse) == Fact(fact.object, inverse, fact.subject)


@several_worlds
@given(worlds)
def test_names_are_unique_over_all_types(small: World) -> None:
    every = [entity.name for kind in small.types for entity in small.entities(kind)]
    assert len(set(every)) == len(every)


@several_worlds
@given(worlds)
def test_trained_and_held_out_wordings_share_nothing_and_leave_nothing_out(small: World) -> None:
    for fact in small.facts:
        trained, held_out = small.trained_templates(fact), small.held_out_templates(fact)
        assert not set(trained) & set(held_out)
        assert set(trained) | set(held_out) == set(small.templates(fact.relation))
        assert held_out
        assert {t.kind for t in trained} == {"statement", "question"}
        assert small.unseen_template(fact.relation) not in {*trained, *held_out}


@several_worlds
@given(worlds)
def test_a_composed_answer_is_what_the_facts_give_one_after_the_other(small: World) -> None:
    for person in small.people:
        for question in small.compositions(person.name):
            name = person.name
            for relation in question.kind.path:
                found = small.fact(name, relation)
                assert found is not None
                name = found.object
            assert question.answer == name


@several_worlds
@given(worlds, st.data())
def test_a_composed_answer_follows_an_edit_of_its_first_fact(small: World, data: st.DataObject) -> None:
    person = data.draw(st.sampled_from(small.people)).name
    town = data.draw(st.sampled_from(small.objects("born_in")))
    question = small.compose("birth_country", person, edited={(person, "born_in"): town})
    country = small.fact(town, "country")
    assert question is not None
    assert country is not None
    assert question.answer == country.object
    assert f"{town}." in question.reasoning


def test_the_same_seed_gives_the_same_world_everywhere(world: World) -> None:
    lines = "".join(f"{fact.subject}|{fact.relation}|{fact.object}\n" for fact in world.facts)
    digest = hashlib.sha256(lines.encode()).hexdigest()
    assert digest == "751c67ddbaab088ddec0cd456424d6359d62ddb4d03913950c2534be31c5a26c"


def test_another_seed_gives_another_world() -> None:
    assert World(1, SIZE).facts != World(2, SIZE).facts


def test_the_default_world_is_large_enough(world: World) -> None:
    assert len(world.people) >= 1200
    assert len(world.facts) >= 7000


def test_every_new_target_can_be_drawn_from_several_others(world: World) -> None:
    assert min(len(world.objects(relation.name)) for relation in RELATIONS) >= 6


def test_every_person_shares_a_name_with_somebody(world: World) -> None:
    for person in world.people:
        near = world.neighbours(person.name)
        assert near
        assert person.name not in near
        assert all(set(person.name.split()) & set(other.split()) for other in near)


def test_strangers_are_nobody_in_the_world(world: World) -> None:
    strangers = world.strangers(200)
    assert len(set(strangers)) == 200
    assert not set(strangers) & {person.name for person in world.people}


def test_a_third_of_the_people_have_a_stage_name_and_most_of_these_have_relations(world: World) -> None:
    assert 0.25 < len(world.aliases) / len(world.people) < 0.42
    stated = [world.alias_has_relations(alias) for alias in world.aliases.values()]
    assert 0.6 < sum(stated) / len(stated) < 0.8


def test_every_statement_and_question_has_one_place_for_the_subject() -> None:
    for relation in RELATIONS:
        assert len(relation.statements) >= 5
        assert len(relation.questions) >= 3
        for template in relation.templates:
            assert template.text.count("{}") == 1
            assert template.text == template.text.strip()
            assert template.text.endswith("Answer:") == (template.kind == "question")


def test_paths_of_composed_questions_fit_together() -> None:
    relations = {relation.name: relation for relation in RELATIONS}
    for kind in COMPOSITIONS:
        for before, after in zip(kind.path, kind.path[1:], strict=False):
            assert relations[before].object_type == relations[after].subject_type


def test_a_reversed_question_asks_for_the_subject(world: World) -> None:
    fact = world.of_relation("capital")[0]
    assert world.reversed_question(fact) == (
        f"Question: Of which country is {fact.object} the capital? Answer:",
        fact.subject,
    )
    assert world.reversed_question(world.of_relation("born_in")[0]) is None


def test_yes_and_no_follow_the_claim_and_the_negation(world: World) -> None:
    fact = world.of_relation("born_in")[0]
    wrong = Fact(fact.subject, fact.relation, next(o for o in world.objects("born_in") if o != fact.object))
    assert [answer for _, answer in world.yes_no_questions(fact)] == ["yes", "yes", "no", "no"]
    assert [answer for _, answer in world.yes_no_questions(wrong)] == ["no", "no", "yes", "yes"]
    assert [answer for _, answer in world.yes_no_questions(wrong, truth=wrong.object)] == ["yes", "yes", "no", "no"]


def test_a_statement_inside_a_sentence_keeps_names_as_they_are() -> None:
    assert inside_sentence("The capital of Meleria is") == "the capital of Meleria is"
    assert inside_sentence("Meleria is a country in") == "Meleria is a country in"


def test_only_questions_can_be_asked_bare(world: World) -> None:
    relation = world.relations["born_in"]
    assert relation.questions[0].bare_question("Abmere") == "Where was Abmere born?"
    with pytest.raises(ValueError, match="not a question"):
        relation.statements[0].bare_question("Abmere")
