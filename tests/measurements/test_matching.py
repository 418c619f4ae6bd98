"""Normalisation and the list of outcomes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editguard.measurements import OUTCOMES, PASSING, judge_answer, normalise


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("  The  Oskar! ", "oskar"),
        ("\uff2fskar", "oskar"),  # full-width letter
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("U.S.", "us"),
        ("3.14", "3.14"),
        ("-5", "-5"),
        ("1,000,000", "1000000"),
        ("well-known", "wellknown"),
        ("A", "a"),
        ("The", "the"),
        ("...", "..."),
        ("C#", "c#"),
        ("", ""),
    ],
)
def test_an_answer_is_normalised(text: str, form: str) -> None:
    assert normalise(text) == form


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("Oskar", "exact"),
        ("oskar.", "exact"),
        ("the Oskar", "exact"),
        ("Oskar City", "alias"),
        ("Oskar in the north", "prefix"),
        ("It is Oskar", "contains"),
        ("Tamrin", "contradiction"),
        ("Oskar or Tamrin", "contradiction"),
        ("not Tamrin but Oskar", "contradiction"),
        ("", "empty"),
        (" . ", "other"),
        ("Oskar Oskar", "repetition"),
        ("the blue blue blue", "repetition"),
        ("something else", "other"),
        ("Oskaria", "other"),
    ],
)
def test_an_outcome_is_named(answer: str, outcome: str) -> None:
    assert judge_answer(answer, ("Oskar", "Oskar City"), candidates=("Tamrin", "Oskar")) == outcome


def test_an_answer_without_an_end_is_truncated_unless_it_says_more() -> None:
    assert judge_answer("and so on", ("Oskar",), stopped=False) == "truncated"
    assert judge_answer("Oskar and so on", ("Oskar",), stopped=False) == "prefix"


def test_a_candidate_inside_the_accepted_answer_is_no_contradiction() -> None:
    assert judge_answer("New York City", ("New York",), candidates=("York",)) == "prefix"
    assert judge_answer("New York and York", ("New York",), candidates=("York",)) == "contradiction"


def test_an_empty_expected_answer_is_matched_by_an_empty_answer_alone() -> None:
    assert judge_answer("", ("",)) == "exact"
    assert judge_answer("Oskar", ("",)) == "other"


def test_numbers_are_told_apart() -> None:
    assert judge_answer("-5", ("5",)) not in PASSING
    assert judge_answer("314", ("3.14",)) not in PASSING
    assert judge_answer("1,000", ("1000",)) in PASSING


def test_without_accepted_answers_nothing_can_be_judged() -> None:
    with pytest.raises(ValueError, match="at least one"):
        judge_answer("Oskar", ())


words = st.lists(st.sampled_from(["Oskar", "Tamrin", "a", "of", "City"]), max_size=6).map(" ".join)


@given(answer=words, accepted=st.lists(words.filter(bool), min_size=1, max_size=3), stopped=st.booleans())
def test_a_pass_is_equality_after_normalisation_and_nothing_else(
    answer: str, accepted: list[str], stopped: bool
) -> None:
    outcome = judge_answer(answer, accepted, candidates=("Tamrin",), stopped=stopped)
    assert outcome in OUTCOMES
    assert (outcome in PASSING) == (normalise(answer) in [normalise(gold) for gold in accepted])
