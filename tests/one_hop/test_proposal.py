"""What a generator wrote is read strictly, and must fit the edit."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editguard.edits import EditRequest
from editguard.errors import UnusableRecord
from editguard.one_hop.proposal import FIELDS, REASONS, read_proposal

MOVED = EditRequest(prompt="The capital of {} is", subject="Velloria", target="Oskar")
GOOD = {
    "object": "Oskar",
    "relation": "mayor",
    "answer": "Ines Holt",
    "recall": "Who is the mayor of Oskar?",
    "question": "Who is the mayor of the capital of Velloria?",
}


def reason(text: str) -> str:
    with pytest.raises(UnusableRecord) as failure:
        read_proposal(text, MOVED)
    return failure.value.reason


@pytest.mark.parametrize("frame", ["{}", " {}\n", "```json\n{}\n```", "```\n{}\n```\n"])
def test_one_object_is_read_alone_or_in_one_fence(frame: str) -> None:
    found = read_proposal(frame.replace("{}", json.dumps(GOOD, indent=1)), MOVED)
    assert {name: getattr(found, name) for name in FIELDS} == GOOD


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot help with that.",
        f"Here it is: {json.dumps(GOOD)}",
        f"{json.dumps(GOOD)}\n{json.dumps(GOOD)}",
        json.dumps([GOOD]),
        json.dumps({**GOOD, "confidence": 1}),
        json.dumps({**GOOD, "answer": 5}),
        json.dumps({**GOOD, "answer": " "}),
        json.dumps(GOOD)[:-1] + ', "answer": "Tom"}',
        "[" * 100_000,
    ],
)
def test_everything_else_is_not_parsed(text: str) -> None:
    assert reason(text) == "not_parsed"


@given(st.sampled_from(FIELDS))
def test_no_field_may_be_missing(name: str) -> None:
    assert reason(json.dumps({key: value for key, value in GOOD.items() if key != name})) == "not_parsed"


@given(st.text())
def test_nonsense_never_raises_anything_else(text: str) -> None:
    assert reason(text) == "not_parsed"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"object": "Tamrin"}, "other_object"),
        ({"answer": "the oskar"}, "answer_is_edited"),
        ({"answer": "Velloria"}, "answer_is_edited"),
        ({"recall": "Who is the mayor?"}, "recall_lacks_object"),
        ({"recall": "Who is the mayor of Oskar, capital of Velloria?"}, "recall_names_subject"),
        ({"recall": "Is Ines Holt the mayor of Oskar?"}, "recall_states_answer"),
        ({"question": "Who is the mayor of the capital?"}, "question_lacks_subject"),
        ({"question": "Who is the mayor of Oskar, the capital of Velloria?"}, "question_names_object"),
        ({"question": "Is Ines Holt the mayor of the capital of Velloria?"}, "question_states_answer"),
    ],
)
def test_a_question_that_cannot_test_the_edit_is_refused_by_its_reason(changed: dict[str, str], why: str) -> None:
    assert reason(json.dumps({**GOOD, **changed})) == why
    assert why in REASONS


def test_a_part_of_a_word_names_nothing() -> None:
    changed = {**GOOD, "question": "Which Oskarite is the mayor of the capital of Velloria?"}
    assert read_proposal(json.dumps(changed), MOVED).question == changed["question"]
