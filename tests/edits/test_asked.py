"""Prompts taken apart into a question or statement, and what asks for the answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editguard.edits.asked import Asked, asked


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("Question: Who is it? Answer:", Asked("Who is it?", "question", "answer")),
        ("Question: Who is it?\nAnswer: ", Asked("Who is it?", "question", "answer")),
        ("Question: Who is it? Think:", Asked("Who is it?", "question", "think")),
        ("Question: Who? Think: It is Ines.", Asked("Who?", "question", "think", "It is Ines.")),
        ("Q: Name the capital A:", Asked("Name the capital", "question", "answer")),
        ("Question: What does plan A: say? Answer:", Asked("What does plan A: say?", "question", "answer")),
        ("Which city is it? Answer:", Asked("Which city is it?", "question", "answer")),
        ("Is it? Or not?", Asked("Is it? Or not?", "question")),
        ("The capital of Velloria is ", Asked("The capital of Velloria is", "statement")),
        ("The Answer: to it all is", Asked("The Answer: to it all is", "statement")),
        ("", Asked("", "statement")),
    ],
)
def test_labels_are_told_from_what_is_asked(prompt: str, found: Asked) -> None:
    assert asked(prompt) == found


words = st.text(st.sampled_from("ab .,é\n"), min_size=1).filter(lambda text: bool(text.strip()))


@given(words, st.sampled_from(["answer", "think"]))
def test_any_labelled_question_is_found_again(text: str, ending: str) -> None:
    found = asked(f"Question: {text}? {ending.title()}:")
    assert (found.text, found.kind, found.ending, found.begun) == (f"{text}?".strip(), "question", ending, "")


@given(words)
def test_text_without_labels_and_question_marks_is_a_statement(text: str) -> None:
    assert asked(text) == Asked(text.strip(), "statement")
