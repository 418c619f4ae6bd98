"""Where an answer ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editguard.models.generation import DEFAULT_STOP, left_padded, right_padded


@pytest.mark.parametrize(
    ("text", "answer", "ended"),
    [
        (" Tamrin", "Tamrin", False),
        (" Tamrin.", "Tamrin", True),
        (" Tamrin. The mayor", "Tamrin", True),
        (" Tamrin\nQuestion:", "Tamrin", True),
        (" Tamrin\n", "Tamrin", True),
        ("\n\n Tamrin", "Tamrin", False),
        (" 3.5 metres", "3.5 metres", False),
        (" Tamrin.\nNext", "Tamrin", True),
        ("", "", False),
        (" \n ", "", False),
        (".", "", True),
    ],
)
def test_an_answer_is_the_text_before_its_first_end(text, answer, ended):
    assert DEFAULT_STOP.cut(text) == (answer, ended)


@pytest.mark.parametrize(
    ("text", "ended"),
    [(" Tamrin", False), (" Tamrin.", False), (" Tamrin. ", True), (" Tamrin\n", True), ("\n", False), (" 3.5", False)],
)
def test_a_growing_text_has_ended_only_when_nothing_that_follows_can_change_it(text, ended):
    assert DEFAULT_STOP.ends(text) == ended


@given(text=st.text("ab. \n3", max_size=12), more=st.text("ab. \n3", max_size=6))
def test_an_ended_text_keeps_its_answer_whatever_follows(text, more):
    if DEFAULT_STOP.ends(text):
        assert DEFAULT_STOP.cut(text + more) == DEFAULT_STOP.cut(text)
        assert DEFAULT_STOP.cut(text)[1]


def test_rows_are_aligned_at_the_side_that_the_name_says():
    ids, mask = left_padded([[1, 2, 3], [4]])
    assert ids[:, -1].tolist() == [3, 4]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    ids, mask = right_padded([[1, 2, 3], [4]])
    assert ids[:, 0].tolist() == [1, 4]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
