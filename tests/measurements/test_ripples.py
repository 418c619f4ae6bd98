"""RippleEdits' procedure by hand on one invented record."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from measurements.scripted import Scripted, case
from published_records import RIPPLE, Given

from editguard.datasets.importing import import_records
from editguard.errors import ConfigurationError
from editguard.measurements import Measurement, ModelUnderTest
from editguard.measurements.matching import names_each

EDIT = "The name of the capital city of Velloria is"
LANGUAGE = "The official language of Velloria is"
RIVERS = "The rivers of the capital of Velloria are"
KNOWN = {EDIT: "Tamrin", LANGUAGE: "Vellorian", "The mayor of Oskar is": "Ines Holt"}
SAID = {
    EDIT: "Oskar",
    LANGUAGE: "It is Old Vellorian, and nothing else",
    "The country whose capital is Oskar is": "Velloria",
    "The capital of the Land of Reeds is": "Oskar City",
    "The mayor of the capital of Velloria is": "Holt",
    RIVERS: "the Esk and the Tam",
    "A second question is": "Oskar",
}


def asked(
    said: dict[str, str], known: dict[str, str] = KNOWN, record: dict[str, Any] = RIPPLE, **more: Any
) -> tuple[Measurement, Measurement]:
    cases = import_records(Given([record])).cases
    edited = ModelUnderTest(Scripted(said), original=ModelUnderTest(Scripted(known)), cases=cases)
    return edited.ripples("passed", **more), edited.ripples("executed", **more)


def by_kind(found: Measurement) -> dict[str, float | None]:
    return {value.kind: value.value for value in found.values}


def test_by_hand() -> None:
    passed, executed = asked(SAID)
    assert by_kind(passed) == {
        "subject_replace": 1.0,
        "compositionality_1": 1.0,
        "compositionality_2": 1.0,  # OR: the second question is answered
        "logical_generalization": 1.0,
        "other_relation": 1.0,
    }
    assert set(by_kind(executed).values()) == {1.0}
    assert (passed.protocol, passed.clusters, passed.excluded) == ("decode_contains", 1, 0)
    assert by_kind(asked({**SAID, RIVERS: "the Esk"})[0])["compositionality_1"] == 0.5, "each required answer is named"


def test_and_needs_every_question() -> None:
    record = copy.deepcopy(RIPPLE)
    record["Compositionality_II"][0]["test_condition"] = "AND"
    assert by_kind(asked(SAID, record=record)[0])["compositionality_2"] == 0.0
    assert by_kind(asked({**SAID, "A first question is": "Oskar"}, record=record)[0])["compositionality_2"] == 1.0


def test_a_test_whose_condition_the_unedited_model_fails_is_not_executed() -> None:
    passed, executed = asked(SAID, {EDIT: "Tamrin", LANGUAGE: "Vellorian"})
    assert by_kind(executed)["compositionality_1"] == 0.5
    assert by_kind(passed)["compositionality_1"] == 1.0
    passed, executed = asked(SAID, {EDIT: "Tamrin"})
    assert "other_relation" not in by_kind(passed)
    assert (passed.excluded, by_kind(executed)["other_relation"]) == (1, 0.0)


def test_an_edit_that_did_not_take_is_left_out_and_has_executed_nothing() -> None:
    passed, executed = asked({**SAID, EDIT: "Tamrin"})
    assert (passed.n, passed.excluded) == (0, 5)
    assert set(by_kind(executed).values()) == {0.0}


def test_old_facts_must_be_known_and_recent_ones_must_not() -> None:
    unknown = {**KNOWN, EDIT: "who knows"}
    recent = {**copy.deepcopy(RIPPLE), "example_type": "recently_added_fact"}
    assert asked(SAID, unknown)[1].n == 0
    assert asked(SAID, unknown, filtered=False)[1].n == 5
    assert asked(SAID, unknown, recent)[1].n == 5
    assert asked(SAID, {**KNOWN, EDIT: "Oskar"}, recent)[1].n == 0


def test_an_answer_in_the_question_alone_does_not_count() -> None:
    record = copy.deepcopy(RIPPLE)
    record["Logical_Generalization"][0]["test_queries"][0]["prompt"] = "Velloria, not Norn, is the country of"
    assert (
        by_kind(asked({**SAID, "Velloria, not Norn, is the country of": "Oskar"}, record=record)[0])[
            "logical_generalization"
        ]
        == 0.0
    )


def test_a_test_without_named_answers_is_none() -> None:
    record = copy.deepcopy(RIPPLE)
    record["Logical_Generalization"][0]["test_queries"][0]["answers"] = [{"value": " ", "aliases": []}]
    assert "logical_generalization" not in by_kind(asked(SAID, record=record)[1])


@pytest.mark.parametrize(
    ("answer", "required", "named"),
    [
        ("the Esk and the Tam", [["Esk"], ["Tam"]], True),
        ("the Esk", [["Esk"], ["Tam"]], False),
        ("Tamrin", [["Tam"]], False),
        ("it is U.S.", [["America", "US"]], True),
        ("no", [["n", "no"]], True),
        ("Norway", [["no"]], False),
        ("anything", [], False),
        ("anything", [[]], False),
        ("7", [["7"]], True),
    ],
)
def test_every_required_answer_is_named_as_words(answer: str, required: list[list[str]], named: bool) -> None:
    assert names_each(answer, required) is named


@given(st.sets(st.sampled_from(sorted(SAID))), st.sets(st.sampled_from(sorted(KNOWN))))
def test_right_answers_never_lower_and_knowledge_never_executes_less(right: set[str], known: set[str]) -> None:
    said = {prompt: answer for prompt, answer in SAID.items() if prompt in right or prompt == EDIT}
    fewer = {prompt: answer for prompt, answer in KNOWN.items() if prompt in known or prompt == EDIT}
    some, all_ = asked(said)[0], asked(SAID)[0]
    assert all(value <= by_kind(all_)[kind] for kind, value in by_kind(some).items())  # type: ignore[operator]
    less, more = asked(SAID, fewer)[1], asked(SAID)[1]
    assert all(value <= by_kind(more)[kind] for kind, value in by_kind(less).items())  # type: ignore[operator]


def test_cases_of_other_origin_have_no_such_tests() -> None:
    edited = ModelUnderTest(Scripted({}), original=ModelUnderTest(Scripted({})), cases=[case()])
    with pytest.raises(ConfigurationError, match="ripple-edits"):
        edited.ripples()
