"""Which texts are read: as many tokens as asked for, in an order that the seed alone decides."""

import pytest
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from editguard.errors import MethodRefused
from editguard.models.running_text import corpus_digest, drawn_rows, longest_text, text_pairs

MODEL = zoo.tiny("gpt2")


def drawn(tokens: int, seed: int = 0, length: int = 100) -> list[list[int]]:
    return drawn_rows(MODEL, zoo.SENTENCES, tokens, seed, length, purpose="this test")


@given(tokens=st.integers(1, 60), seed=st.integers(0, 3), length=st.integers(3, 40))
@settings(max_examples=40, deadline=None)
def test_exactly_so_many_tokens_are_drawn(tokens: int, seed: int, length: int) -> None:
    whole = [MODEL.encode_text(text) for text in zoo.SENTENCES]
    there = sum(min(len(text), length) for text in whole)
    rows = drawn(tokens, seed, length)
    assert sum(map(len, rows)) == min(tokens, there)
    assert all(0 < len(row) <= length for row in rows)
    assert all(any(text[: len(row)] == row for text in whole) for row in rows)


def test_all_of_a_small_corpus_is_read_in_the_order_of_the_seed() -> None:
    whole = [MODEL.encode_text(text) for text in zoo.SENTENCES]
    one, other = drawn(10_000), drawn(10_000, seed=1)
    assert sorted(one) == sorted(other) == sorted(whole)
    assert one != other
    assert one == drawn(10_000)


@given(tokens=st.integers(1, 80), seed=st.integers(0, 3), family=st.sampled_from(["gpt2", "opt", "t5", "bart"]))
@settings(max_examples=40, deadline=None)
def test_exactly_so_many_tokens_follow_their_beginnings(tokens: int, seed: int, family: str) -> None:
    model = zoo.tiny(family)
    pairs = text_pairs(model, zoo.SENTENCES, tokens, seed, purpose="this test")
    everything = text_pairs(model, zoo.SENTENCES, 10_000, seed, purpose="this test")
    assert sum(len(after) for _, after in pairs) == min(tokens, sum(len(after) for _, after in everything))
    for (before, after), (same, longer) in zip(pairs, everything, strict=False):
        assert before == same
        assert after
        assert longer[: len(after)] == after


def test_a_decoder_alone_predicts_a_text_from_its_third_token_on() -> None:
    pairs = text_pairs(MODEL, zoo.SENTENCES, 10_000, 0, purpose="this test")
    assert sorted([*before, *after] for before, after in pairs) == sorted(map(MODEL.encode_text, zoo.SENTENCES))
    assert {len(before) for before, _ in pairs} == {2}


@pytest.mark.parametrize("family", zoo.ENCODER_DECODER)
def test_with_an_encoder_half_of_the_words_are_read_and_half_written(family: str) -> None:
    model = zoo.tiny(family)
    [(before, after)] = text_pairs(model, ["red blue green Tamrin Belmora"], 10_000, 0, purpose="this test")
    assert (model.decode(before), model.decode(after)) == ("red blue", "green Tamrin Belmora")
    assert before[-1:] == after[-1:] == model.closing


@pytest.mark.parametrize(("texts", "tokens"), [((), 5), (("",), 5), (("a",), 0)])
def test_nothing_to_read_is_refused_with_what_it_was_for(texts: tuple[str, ...], tokens: int) -> None:
    with pytest.raises(MethodRefused, match="the text for this test is empty"):
        drawn_rows(MODEL, texts, tokens, 0, 100, purpose="this test")
    for model in (MODEL, zoo.tiny("t5")):
        with pytest.raises(MethodRefused, match="the text for this test is empty"):
            text_pairs(model, (*texts, "a"), tokens, 0, purpose="this test")


def test_the_digest_knows_where_texts_end() -> None:
    assert len({corpus_digest(texts) for texts in (("ab", "c"), ("a", "bc"), ("abc",), ("c", "ab"), ())}) == 5


def test_texts_are_cut_to_the_models_context() -> None:
    assert longest_text(MODEL) == zoo.CONTEXT
    assert longest_text(MODEL, 7) == 7
