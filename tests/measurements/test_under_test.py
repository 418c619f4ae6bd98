"""What a suite holds in its hand."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
from measurements.scripted import Scripted, case, locality, moved, rephrase

from editguard.edited import Answered, Consulted, Retrieved
from editguard.edits import Probe
from editguard.measurements import Answer, ModelUnderTest

TEXT = moved().text


@pytest.fixture
def before() -> Scripted:
    return Scripted({TEXT: "Tamrin"})


@pytest.fixture
def after() -> Scripted:
    return Scripted({TEXT: "Oskar", "P": "Oskar"})


@pytest.fixture
def original(before: Scripted) -> ModelUnderTest:
    return ModelUnderTest(before)


@pytest.fixture
def edited(after: Scripted, original: ModelUnderTest) -> ModelUnderTest:
    cases = [case(None, rephrase("P"), locality("Q", "other_relation"))]
    tasks = [Probe(property="other_tasks", kind="add", prompt="2+2", answers=("4",))]
    return ModelUnderTest(after, original=original, cases=cases, method="rome", tasks=tasks)


def test_an_answer_is_the_text_itself(edited: ModelUnderTest) -> None:
    answer = edited.answer(TEXT)
    assert answer == "Oskar"
    assert isinstance(answer, Answer)
    assert repr(answer) == "'Oskar'"
    assert answer.prompt == TEXT
    assert edited.answers([TEXT, "P", TEXT]) == ["Oskar", "Oskar", "Oskar"]


def test_an_explanation_is_computed_only_when_asked_for(
    edited: ModelUnderTest, before: Scripted, after: Scripted
) -> None:
    answer = edited.answer(TEXT)
    assert before.generated == []
    assert before.looked == after.looked == []
    lines = answer.explain()
    assert lines[0] == "edit in force (rome): The capital of Velloria is Oskar"
    text = "\n".join(lines)
    assert f"prompt sent: {TEXT!r}" in text
    assert "before the edit: 'Tamrin'" in text
    assert "after the edit:  'Oskar'" in text
    assert "'T' 0.900  ->  'O' 0.900" in text


def test_an_answer_outlives_its_model_as_plain_text(edited: ModelUnderTest) -> None:
    answer = edited.answer(TEXT)
    for again in (pickle.loads(pickle.dumps(answer)), copy.deepcopy(answer)):
        assert again == "Oskar"
        assert type(again) is str


def test_the_original_says_that_nothing_is_in_force(original: ModelUnderTest) -> None:
    assert original.requests == ()
    assert original.answer(TEXT).explain()[0] == "edits in force: none (the original model)"


def test_a_question_asked_twice_costs_once(edited: ModelUnderTest, after: Scripted) -> None:
    for _ in range(3):
        edited.answer(TEXT)
        edited.reliability()
    assert [prompt for prompt, _ in after.generated] == [TEXT]


def test_every_property_can_be_measured(edited: ModelUnderTest) -> None:
    assert edited.reliability().mean == 1.0
    assert edited.generalization().mean == 1.0
    assert edited.locality("other_relation").mean == 1.0
    assert edited.other_tasks().mean == 0.0
    right = Probe(property="other_tasks", kind="type", prompt="P", answers=("Oskar",))
    assert edited.other_tasks([right]).mean == 1.0
    found = edited.reliability()
    assert (found.method, found.model, found.mode, found.edits) == ("rome", "scripted", "single", 1)


def test_the_original_can_be_asked_the_same_probes(edited: ModelUnderTest, original: ModelUnderTest) -> None:
    unedited = edited.unedited(original)
    assert unedited.reliability().mean == 0.0
    assert unedited.locality().mean == 1.0
    assert unedited.reliability().edits == 0


def test_a_sequence_names_the_last_edits_in_force(original: ModelUnderTest, after: Scripted) -> None:
    cases = [case(moved(f"S{i}", f"T{i}")) for i in range(50)] + [case(moved("S0", "new"))]
    edited = ModelUnderTest(after, original=original, cases=cases, method="rome", mode="sequence")
    lines = edited.explain(TEXT)
    assert lines[0] == "50 edits in force (rome, sequence), the last:"
    assert lines[3].strip() == "The capital of S0 is new"


def test_a_memory_says_which_edit_it_found_in_words_and_what_the_answer_cost(original: ModelUnderTest) -> None:
    request = moved()
    found = (Retrieved(request.id, 0.9), Retrieved("feedback", 0.25))
    consulted = Consulted(prompt="sent", route="in-scope", retrieved=found, outcome="answered", calls=2)
    answered = Answered("Oskar", (), True, "sent", consulted=consulted, tokens=70)

    class Remembering(Scripted):
        def generate(self, prompts: Sequence[str], *, max_new_tokens: int = 24) -> list[Any]:
            return [answered for _ in prompts]

    edited = ModelUnderTest(Remembering({}), original=original, cases=[case(request)], method="mello")
    answer = edited.answer(TEXT)
    assert answer.lookup is not None
    assert (answer.lookup.sent, answer.lookup.tokens) == ("sent", 70)
    assert (
        f"memory of edits: in-scope, answered; nearest: {request.statement!r} (0.90), 'feedback' (0.25); "
        "70 tokens in 3 calls"
    ) in answer.explain()


def test_a_long_prompt_is_shown_by_its_end(original: ModelUnderTest, after: Scripted) -> None:
    edited = ModelUnderTest(after, original=original, cases=[case()], method="ike")
    shown = next(line for line in edited.explain("x " * 500 + "the question") if "prompt sent" in line)
    assert len(shown) < 320
    assert "the question" in shown


def test_activation_reaches_the_model(edited: ModelUnderTest, after: Scripted) -> None:
    edited.activate()
    assert after.activations == 1


def test_scores_and_next_tokens_are_those_of_the_edited_model(edited: ModelUnderTest) -> None:
    assert edited.score(TEXT, "Oskar").token_accuracy == 1.0
    assert edited.next_tokens(TEXT, 1) == [("O", 0.9)]


def test_what_the_edits_cost_is_that_of_the_edited_model_beside_the_original(
    edited: ModelUnderTest, original: ModelUnderTest, before: Scripted, after: Scripted
) -> None:
    assert (edited.stored_bytes(), original.stored_bytes()) == (48, 24)
    assert edited.answering_cost().prompts == 1
    assert set(after.looked) == set(before.looked) == {TEXT}
    assert len(after.looked) == len(before.looked)
    assert edited.answering_cost(["P", "Q", "P"]).prompts == 2
    assert {"P", "Q"} < set(before.looked)
    with pytest.raises(ValueError, match="no pass"):
        original.answering_cost()
