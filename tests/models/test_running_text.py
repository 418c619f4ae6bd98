"""Which texts are read: as many tokens as asked for, in an order that the seed alone decides."""

import pytest
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from editguard.errors import MethodRefused
from editguard.models.running_text import corpus_digest, drawn_rows, longest_text

MODEL = zoo.tiny("gpt2")


def drawn(tokens: int, seed: int = 0, length: int = 100, skipped: int = 0) -> list[list[int]]:
    return drawn_rows(MODEL, zoo.SENTENCES, tokens, seed, length, purpose="this test", skipped=skipped)


@given(tokens=st.integers(1, 60), seed=st.integers(0, 3), length=st.integers(3, 40), skipped=st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_exactly_so_many_tokens_count(tokens: int, seed: int, length: int, skipped: int) -> None:
    whole = [MODEL.encode_text(text) for text in zoo.SENTENCES]
    there = sum(max(0, min(len(text), length) - skipped) for text in whole)
    rows = drawn(tokens, seed, length, skipped)
    assert sum(len(row) - skipped for row in rows) == min(tokens, there)
    assert all(skipped < len(row) <= length for row in rows)
    assert all(any(text[: len(row)] == row for text in whole) for row in rows)


def test_all_of_a_small_corpus_is_read_in_the_order_of_the_seed() -> None:
    whole = [MODEL.encode_text(text) for text in zoo.SENTENCES]
    one, other = drawn(10_000), drawn(10_000, seed=1)
    assert sorted(one) == sorted(other) == sorted(whole)
    assert one != other
    assert one == drawn(10_000)


@pytest.mark.parametrize(("texts", "tokens", "skipped"), [((), 5, 0), (("",), 5, 0), (("a",), 0, 0), (("a",), 5, 1)])
def test_nothing_to_read_is_refused_with_what_it_was_for(texts: tuple[str, ...], tokens: int, skipped: int) -> None:
    with pytest.raises(MethodRefused, match="the text for this test is empty"):
        drawn_rows(MODEL, texts, tokens, 0, 100, purpose="this test", skipped=skipped)


def test_the_digest_knows_where_texts_end() -> None:
    assert len({corpus_digest(texts) for texts in (("ab", "c"), ("a", "bc"), ("abc",), ("c", "ab"), ())}) == 5


def test_texts_are_cut_to_the_models_context() -> None:
    assert longest_text(MODEL) == zoo.CONTEXT
    assert longest_text(MODEL, 7) == 7
