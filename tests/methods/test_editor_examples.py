"""From edit cases to what an editor learns from, and the order in which it is drawn."""

from collections import Counter
from dataclasses import replace

import pytest
import zoo
from methods.conftest import training_case

from editguard.edits import EditCase, EditRequest, Probe
from editguard.errors import MissingMaterial, PromptTooLong
from editguard.methods.editor_examples import (
    Draws,
    EditorExample,
    editor_examples,
    previous_answers,
    split,
    training_digest,
    with_previous,
)
from editguard.models import LanguageModel

CASES = tuple(training_case(number) for number in range(30))


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return zoo.tiny("gpt2")


@pytest.fixture(scope="module")
def examples(model: LanguageModel) -> list[EditorExample]:
    return editor_examples(model, "mend", CASES)[0]


def without(case: EditCase, wanted: str) -> EditCase:
    return replace(case, probes=tuple(probe for probe in case.probes if probe.property != wanted))


def test_a_case_gives_its_request_its_rephrases_and_what_should_stay(model: LanguageModel) -> None:
    portability = Probe(property="portability", kind="one_hop", prompt="The mayor's mother is", answers=("Ines",))
    case = replace(CASES[4], probes=(*CASES[4].probes, portability))
    [[found], left_out] = editor_examples(model, "mend", [case])
    assert left_out == 0
    assert found.pair == ("The mayor of Land4 is", "Belmora")
    assert found.rephrases == (
        ("Land4 has this mayor:", "Belmora"),
        ("Question: who is the mayor of Land4? Answer:", "Belmora"),
    )
    assert found.locality == (("The mother of Isle4 is", "Aldo Holt"), ("Land4 was born in", "Aldo Holt"))


def test_where_no_answer_is_given_the_unedited_models_own_should_stay(model: LanguageModel) -> None:
    [[found], _] = editor_examples(model, "mend", [training_case(1, answered=False)])
    own = model.generate([prompt for prompt, _ in found.locality], max_new_tokens=24)
    assert [answer for _, answer in found.locality] == [one.text for one in own]


def test_cases_without_a_rephrase_are_counted_and_left_out(model: LanguageModel) -> None:
    found, left_out = editor_examples(model, "mend", [CASES[0], without(CASES[1], "generalization"), CASES[2]])
    assert [example.request.subject for example in found] == ["Land0", "Land2"]
    assert left_out == 1


@pytest.mark.parametrize(
    ("cases", "said"),
    [
        ((), "--editguard-training FILE"),
        (tuple(without(case, "generalization") for case in CASES), "none of the 30 .* a generalization probe"),
        (tuple(without(case, "locality") for case in CASES), "none of the 30 .* a locality probe"),
    ],
)
def test_what_is_missing_is_named(model: LanguageModel, cases: tuple[EditCase, ...], said: str) -> None:
    with pytest.raises(MissingMaterial, match=said):
        editor_examples(model, "mend", cases)


def test_a_case_beyond_the_models_context_is_found_before_the_training(model: LanguageModel) -> None:
    long = Probe(property="locality", kind="neighbourhood", prompt="Copy:" + " red" * 400, answers=("red",))
    with pytest.raises(PromptTooLong, match=f"context of {zoo.CONTEXT}"):
        editor_examples(model, "mend", [*CASES, replace(CASES[0], probes=(*CASES[0].probes, long))])


def test_the_answer_before_is_the_given_one_or_the_models_own(
    model: LanguageModel, examples: list[EditorExample]
) -> None:
    unknown = replace(examples[0], request=replace(examples[0].request, previous=None))
    filled = with_previous(model, [unknown, examples[1]])
    [own] = model.generate([examples[0].request.text], max_new_tokens=24)
    assert [example.request.previous for example in filled] == [own.text, "Ines"]
    assert previous_answers(model, [unknown.request, examples[1].request]) == [own.text, "Ines"]


def test_no_subject_is_on_both_sides_of_the_split_and_names_alone_decide(examples: list[EditorExample]) -> None:
    doubled = [*examples, *(replace(each, request=replace(each.request, target="Ines")) for each in examples)]
    train, held_out = split(doubled, "mend")
    assert not {each.request.subject for each in train} & {each.request.subject for each in held_out}
    assert len(held_out) == 2 * 3
    assert len(train) == 2 * 27
    again = split(doubled[::-1], "mend")
    assert {each.request.subject for each in again[1]} == {each.request.subject for each in held_out}
    with pytest.raises(MissingMaterial, match="about 1 subject"):
        split(examples[:1], "mend")


def test_every_round_goes_through_all_examples_in_another_order(examples: list[EditorExample]) -> None:
    draws = Draws(examples, locality=1, seed=0)
    first, second = (draws.take(start, 30).examples for start in (0, 30))
    assert Counter(each.pair for each in first) == Counter(each.pair for each in second)
    assert len(set(first)) == 30
    assert first != second


def test_a_draw_depends_on_the_seed_and_on_its_number_alone(examples: list[EditorExample]) -> None:
    whole = Draws(examples, locality=1, seed=0).take(0, 40)
    parts = [Draws(examples, locality=1, seed=0).take(start, 10) for start in (30, 0, 10, 20)]
    for start, part in zip((30, 0, 10, 20), parts, strict=True):
        assert part.examples == whole.examples[start : start + 10]
        assert part.rephrases == whole.rephrases[start : start + 10]
        assert part.locality == whole.locality[start : start + 10]
        assert part.locality_of == tuple(range(10))
    assert Draws(examples, locality=1, seed=1).take(0, 40) != whole


def test_every_draw_asks_about_its_own_edit_first_and_never_for_the_edited_fact_itself() -> None:
    request = EditRequest(prompt="The mayor of {} is", subject="Land1", target="Oskar")
    harmful = Probe(property="locality", kind="neighbourhood", prompt=request.text, answers=("Ines",))
    kept = Probe(property="locality", kind="neighbourhood", prompt="Tamrin is", answers=("red",))
    cases = [training_case(1), EditCase(request=replace(request, subject="Rock"), probes=(harmful, kept))]
    examples = [
        EditorExample(
            case.request,
            (("Somebody:", case.request.target),),
            tuple((probe.prompt, probe.answers[0]) for probe in case.probes if probe.property == "locality"),
        )
        for case in cases
    ]
    draws = Draws(examples, locality=9, seed=0)
    for number in range(6):
        drawn = draws.take(number, 1)
        [example] = drawn.examples
        own = set(example.locality)
        assert set(drawn.locality[: len(own)]) == own
        assert len(set(drawn.locality)) == len(drawn.locality)
        if example.request.subject == "Land1":
            assert harmful.prompt not in [prompt for prompt, _ in drawn.locality]
            assert ("Tamrin is", "red") in drawn.locality
    assert len(Draws(examples, locality=1, seed=0).take(0, 5).locality) == 5


def test_where_no_example_has_facts_that_stay_those_of_others_are_asked(examples: list[EditorExample]) -> None:
    bare = [replace(example, locality=()) for example in examples[:3]]
    drawn = Draws(bare, locality=2, seed=0, others=examples[3:]).take(0, 3)
    known = {pair for example in examples[3:] for pair in example.locality}
    assert len(drawn.locality) == 6
    assert set(drawn.locality) <= known
    with pytest.raises(MissingMaterial, match="give some of them both"):
        Draws(bare, locality=2, seed=0)


def test_the_digest_is_of_what_is_learnt_from() -> None:
    portability = Probe(property="portability", kind="one_hop", prompt="x", answers=("y",))
    same = [replace(CASES[0], probes=(*CASES[0].probes, portability), label="another"), *CASES[1:]]
    assert training_digest(same) == training_digest(CASES)
    assert training_digest(CASES[1:]) != training_digest(CASES)
    assert training_digest([without(CASES[0], "locality"), *CASES[1:]]) != training_digest(CASES)
    assert training_digest(CASES[::-1]) != training_digest(CASES)
