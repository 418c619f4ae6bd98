"""An edit request says one thing, or says clearly why it cannot be carried out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editguard.edits import EditRequest
from editguard.errors import InvalidEdit

plain = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="{}"), min_size=1)
filled = plain.filter(str.strip)


@given(before=plain, after=plain, subject=filled, target=filled)
def test_the_text_is_the_prompt_with_the_subject_spliced_in(before: str, after: str, subject: str, target: str) -> None:
    request = EditRequest(prompt=f"{before}{{}}{after}", subject=subject, target=target)
    assert request.text == before + subject + after


def test_braces_around_the_slot_and_in_the_subject_stay_as_they_are() -> None:
    request = EditRequest(prompt="In {x} the set {} is {y", subject="{0}", target="Oskar")
    assert request.text == "In {x} the set {0} is {y"


@given(before=plain, after=plain, subject=filled, target=filled)
def test_a_filled_in_text_opens_its_slot_at_the_last_occurrence(
    before: str, after: str, subject: str, target: str
) -> None:
    text = f"{before}{subject}{after}"
    request = EditRequest.from_text(text, subject=subject, target=target)
    assert request.text == text
    assert len(request.prompt.split("{}")[0]) == text.rfind(subject)


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [("The capital is", r"has no \{\}"), ("{} and {} are", r"has 2 slots"), ("", r"has no \{\}")],
)
def test_a_prompt_without_exactly_one_slot_is_refused(prompt: str, problem: str) -> None:
    with pytest.raises(InvalidEdit, match=problem):
        EditRequest(prompt=prompt, subject="Velloria", target="Oskar")


@pytest.mark.parametrize("field", ["subject", "target"])
@pytest.mark.parametrize("empty", ["", "  ", "\n"])
def test_an_empty_subject_or_target_is_refused(field: str, empty: str) -> None:
    values = {"subject": "Velloria", "target": "Oskar"} | {field: empty}
    with pytest.raises(InvalidEdit, match=f"empty {field}"):
        EditRequest(prompt="The capital of {} is", **values)


def test_text_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidEdit, match="target of an edit request is text, not 7"):
        EditRequest(prompt="The capital of {} is", subject="Velloria", target=7)  # type: ignore[arg-type]


def test_a_subject_that_is_not_in_the_text_is_refused() -> None:
    with pytest.raises(InvalidEdit, match="'Tamrin' does not occur in the prompt"):
        EditRequest.from_text("The capital of Velloria is", subject="Tamrin", target="Oskar")


@given(st.tuples(filled, filled), st.tuples(filled, filled))
def test_ids_are_equal_exactly_for_equal_content(a: tuple[str, str], b: tuple[str, str]) -> None:
    first, second = (
        EditRequest(prompt="The capital of {} is", subject=subject, target=target) for subject, target in (a, b)
    )
    assert (first.id == second.id) == (a == b)


def test_the_id_is_the_same_on_every_machine() -> None:
    request = EditRequest(prompt="The capital of {} is", subject="Velloria", target="Oskar")
    assert request.id == "92f20bbff26c5256"
