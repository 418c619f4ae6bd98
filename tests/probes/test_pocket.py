"""Cases about the embedded model's world: right by the world, and without contact between edits."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from editguard.edits import EditCase, as_cases, refuse_conflicts
from editguard.errors import InvalidEdit
from editguard.pocket import default_world
from editguard.pocket.world import World
from editguard.probes import probes_of
from editguard.probes.pocket import (
    INVERTIBLE,
    PEOPLE_RELATIONS,
    TRAINING_RELATIONS,
    pocket_case,
    pocket_cases,
    pocket_demonstrations,
    pocket_tasks,
    pocket_texts,
    pocket_training_cases,
    pocket_training_subjects,
)


@pytest.fixture(scope="module")
def world() -> World:
    return default_world()


@pytest.fixture(scope="module")
def cases() -> tuple[EditCase, ...]:
    return pocket_cases(200, seed=3)


def kinds(case: EditCase) -> set[str]:
    return {probe.kind for probe in case.probes}


def test_the_same_call_gives_the_same_cases(cases: tuple[EditCase, ...]) -> None:
    assert pocket_cases(200, seed=3) == cases
    assert [one.label for one in pocket_cases(200, seed=4)] != [one.label for one in cases]


def test_every_subject_is_edited_once(cases: tuple[EditCase, ...]) -> None:
    assert len({case.request.subject for case in cases}) == 200
    refuse_conflicts([case.request for case in cases])
    assert {case.request.relation for case in cases} == set(PEOPLE_RELATIONS)


def test_an_edit_changes_what_the_world_says(cases: tuple[EditCase, ...], world: World) -> None:
    for case in cases:
        request = case.request
        assert request.relation is not None
        fact = world.fact(request.subject, request.relation)
        assert fact is not None
        assert request.previous == fact.object != request.target
        assert request.target in world.objects(request.relation)


def test_every_case_can_be_asked_for_generalization_and_locality(cases: tuple[EditCase, ...]) -> None:
    for case in cases:
        assert {"question", "other_relation", "neighbourhood"} <= kinds(case)
        assert all(probe.answers == (case.request.target,) for probe in probes_of(case, "generalization"))
        assert case.request.text not in [probe.prompt for probe in probes_of(case, "generalization")]
    held_out = [probe for case in cases for probe in probes_of(case, "generalization", "rephrase")]
    assert len(held_out) > 200


def test_held_out_and_trained_wordings_are_told_apart(cases: tuple[EditCase, ...], world: World) -> None:
    for case in cases[:50]:
        request = case.request
        trained = {t.prompt(request.subject) for t in world.wordings(request.relation or "", request.subject)[0]}
        for probe in probes_of(case, "generalization"):
            if probe.kind == "rephrase":
                assert probe.prompt not in trained
            if probe.kind == "trained_rephrase":
                assert probe.prompt in trained


def test_no_locality_probe_speaks_of_an_edited_subject(cases: tuple[EditCase, ...], world: World) -> None:
    """Not of one edited elsewhere, and of the case's own only in other relations."""
    edited = {case.request.subject for case in cases}
    for case in cases:
        for probe in case.probes:
            if probe.kind in ("neighbourhood", "name_neighbour"):
                assert not any(name in probe.prompt for name in edited), probe.prompt
            if probe.kind == "other_relation":
                assert case.request.subject in probe.prompt
                assert probe.prompt != case.request.text


def test_a_name_neighbour_shares_a_part_of_the_name(cases: tuple[EditCase, ...]) -> None:
    found = [(case.request, probe) for case in cases for probe in case.probes if probe.kind == "name_neighbour"]
    assert len(found) > 100
    for request, probe in found:
        assert any(re.search(rf"\b{part}\b", probe.prompt) for part in request.subject.split())


def test_an_alias_stands_in_for_its_person(cases: tuple[EditCase, ...], world: World) -> None:
    found = [(case.request, probe) for case in cases for probe in case.probes if probe.kind == "subject_replace"]
    assert found
    for request, probe in found:
        alias = world.alias(request.subject)
        assert alias is not None
        assert alias in probe.prompt
        assert request.subject not in probe.prompt
        assert probe.answers == (request.target,)
        assert probe.knows[0][1] == request.subject


def test_hops_go_on_from_the_new_object(cases: tuple[EditCase, ...], world: World) -> None:
    found = [(case.request, probe) for case in cases for probe in case.probes if probe.kind.startswith("one_hop")]
    assert {probe.kind for _, probe in found} == {"one_hop", "one_hop_think"}
    for request, probe in found:
        [(prompt, answer)] = probe.knows
        assert request.target in prompt
        assert probe.answers == (answer,)
        assert any(fact.object == answer for fact in world.other_relations(request.target))
        assert probe.prompt.endswith("Think:" if probe.kind.endswith("think") else "Answer:")


def test_a_relation_with_an_inverse_is_asked_back(world: World) -> None:
    city = world.cities[3].name
    case = pocket_case(city, "mayor", seed=1)
    [probe] = probes_of(case, "portability", "reversed_relation")
    assert case.request.target in probe.prompt
    assert probe.answers == (city,)
    person = next(fact for fact in world.of_relation("spouse"))
    married = pocket_case(person.subject, "spouse")
    assert world.fact(married.request.target, "spouse") is None
    assert probes_of(married, "portability", "reversed_relation")[0].answers == (person.subject,)


def test_neighbours_of_a_marriage_leave_all_partners_out(world: World) -> None:
    fact = world.of_relation("spouse")[0]
    case = pocket_case(fact.subject, "spouse")
    touched = (fact.subject, fact.object, case.request.target)
    for probe in case.probes:
        if probe.kind in ("neighbourhood", "name_neighbour"):
            assert not any(name in probe.prompt for name in touched)


def test_a_thousand_subjects_can_be_edited() -> None:
    many = pocket_cases(1_000)
    assert len({case.request.subject for case in many}) == 1_000
    assert all("neighbourhood" in kinds(case) for case in many)


def test_too_many_subjects_are_refused() -> None:
    with pytest.raises(InvalidEdit, match="only 30 subjects"):
        pocket_cases(40, relations=["capital"])


def test_unknown_names_are_refused(world: World) -> None:
    with pytest.raises(InvalidEdit, match="Did you mean 'born_in'"):
        pocket_case(world.people[0].name, "born_at")
    with pytest.raises(InvalidEdit, match="no relation 'x'"):
        pocket_cases(2, relations=["x"])
    with pytest.raises(InvalidEdit, match="no person of the world"):
        pocket_case("Nobody", "born_in")


def test_tasks_are_held_out_and_spread_evenly() -> None:
    found = pocket_tasks(5)
    assert {probe.kind for probe in found} == {"copy", "reverse", "add", "subtract", "compare", "type"}
    assert len(found) == len({probe.id for probe in found}) == 30
    assert found == pocket_tasks(5)
    assert all(not probe.choices or probe.answers[0] in probe.choices for probe in found)


def test_demonstrations_stay_away_from_edited_subjects(world: World) -> None:
    everyone = {record.subject for record in pocket_demonstrations(100)}
    exclude = set(sorted(everyone)[:50])
    for record in pocket_demonstrations(100, exclude=exclude):
        assert record.subject not in exclude
        assert not any(name in prompt for prompt in record.neighbours for name in exclude)
        assert record.target_new != record.target_true
        assert all(record.subject in prompt for prompt in (record.prompt, *record.paraphrases))
        assert record.prompt not in record.paraphrases
        assert record.neighbours or record.target_true


def test_neighbours_of_a_demonstration_share_its_true_answer(world: World) -> None:
    standard = {relation.name: relation.statements[0] for relation in world.relations.values()}
    facts = {standard[fact.relation].prompt(fact.subject): fact.object for fact in world.facts}
    records = pocket_demonstrations(60)
    assert sum(len(record.neighbours) for record in records) > 60
    for record in records:
        assert {facts[prompt] for prompt in record.neighbours} <= {record.target_true}


def test_texts_are_as_many_as_wanted_and_fixed_by_the_seed() -> None:
    assert len(pocket_texts(count=10)) == 10
    assert pocket_texts(seed=1, count=5) == pocket_texts(seed=1, count=5) != pocket_texts(seed=2, count=5)


# ---- what editors are trained on


@pytest.fixture(scope="module")
def training() -> tuple[EditCase, ...]:
    return pocket_training_cases()


def edited_by_suites() -> set[str]:
    """The subjects of every edit that a suite of this project declares, read from the suites themselves."""
    found: set[str] = set()
    for path in sorted((Path(__file__).parents[2] / "suites").glob("test_*.py")):
        specification = spec_from_file_location(f"suite_{path.stem}", path)
        assert specification is not None
        assert specification.loader is not None
        module = module_from_spec(specification)
        specification.loader.exec_module(module)
        marks = getattr(module, "pytestmark", [])
        marks = [*(marks if isinstance(marks, list) else [marks])]
        for thing in vars(module).values():
            marks += getattr(thing, "pytestmark", []) if callable(thing) else []
        for mark in marks:
            if mark.name in ("edit", "edit_sequence"):
                found |= {case.request.subject for case in as_cases(mark.args[0])}
    return found


def test_no_training_case_is_about_a_subject_that_a_suite_or_the_study_edits(
    training: tuple[EditCase, ...], world: World
) -> None:
    studied = {case.request.subject for case in pocket_cases(1_000, relations=(*PEOPLE_RELATIONS, *INVERTIBLE))}
    suites = edited_by_suites()
    assert len(suites) > 70
    evaluated = studied | suites
    assert {case.request.subject for case in training} <= pocket_training_subjects()
    assert not pocket_training_subjects() & evaluated
    people = [name for name in evaluated if world.entity(name).type == "person"]
    for case in training[::5]:
        for probe in case.probes:
            assert not any(name in probe.prompt for name in people), probe.prompt
        if case.request.relation == "spouse":
            assert case.request.target in pocket_training_subjects()


def test_training_cases_are_edits_with_rephrases_and_facts_that_stay(
    training: tuple[EditCase, ...], world: World
) -> None:
    assert len(training) == len({(case.request.subject, case.request.relation) for case in training}) == 2_000
    assert {case.request.relation for case in training} == set(TRAINING_RELATIONS)
    for case in training:
        request = case.request
        fact = world.fact(request.subject, request.relation or "")
        assert fact is not None
        assert request.previous == fact.object != request.target
        assert {"rephrase", "question"} <= kinds(case)
        assert {"other_relation", "neighbourhood"} <= kinds(case)
        assert request.text not in [probe.prompt for probe in case.probes]
        unseen = world.unseen_template(request.relation or "").prompt(request.subject)
        assert unseen not in [probe.prompt for probe in case.probes]


def test_training_cases_depend_on_seed_and_exclusions_alone(training: tuple[EditCase, ...]) -> None:
    pocket_training_cases.cache_clear()
    assert pocket_training_cases() == training
    assert pocket_training_cases(50) == training[:50]
    assert pocket_training_cases(50, seed=1) != training[:50]
    left_out = frozenset({training[0].request.subject, training[1].request.subject})
    for case in pocket_training_cases(300, exclude=left_out):
        assert not any(name in probe.prompt for probe in case.probes for name in left_out)
        assert case.request.subject not in left_out
