"""The n-gram entropy of continuations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editguard.edits import EditCase, EditRequest
from editguard.measurements.fluency import fluency, ngram_entropy

WORDS = st.lists(st.sampled_from("abcde"), min_size=3, max_size=40)


def test_the_hand_calculation():
    # bigrams ab ba ab ba ab: 3/5 and 2/5, H2 = 0.971; trigrams aba bab aba bab: H3 = 1; (2/3 H2 + 4/3 H3) / 2
    assert ngram_entropy("a b a b a b") == pytest.approx(0.990, abs=5e-4)


@pytest.mark.parametrize(("text", "value"), [("a a a a a", 0.0), ("a b", None), ("", None), ("a, b", 0.0)])
def test_repetition_has_no_entropy_and_short_texts_have_no_value(text, value):
    if text == "a, b":  # one bigram of each, one trigram
        value = 2 / 3 * 1.0 / 2
    assert ngram_entropy(text) == (None if value is None else pytest.approx(value))


@given(words=WORDS)
def test_other_names_for_the_words_change_nothing(words):
    renamed = [{"a": "uno", "b": "dos", "c": "tres", "d": "cuatro", "e": "cinco"}[word] for word in words]
    assert ngram_entropy(" ".join(words)) == pytest.approx(ngram_entropy(" ".join(renamed)))


@given(words=WORDS)
def test_no_text_has_more_than_all_different_ngrams_would_give(words):
    from math import log2

    most = (2 / 3 * log2(len(words) - 1) + 4 / 3 * log2(len(words) - 2)) / 2
    assert 0 <= ngram_entropy(" ".join(words)) <= most + 1e-9


def case(subject, target):
    return EditCase(request=EditRequest(prompt="{} is in", subject=subject, target=target))


def test_superseded_edits_are_not_continued():
    asked = []

    def continued(prompts, *, tokens):
        asked.extend(prompts)
        return ["one two three four" for _ in prompts]

    found = fluency(continued, [case("Tamrin", "Oskar"), case("Belmora", "Vane"), case("Tamrin", "Holt")])
    assert asked == ["Belmora is in", "Tamrin is in"]
    assert [value.edit for value in found.values] == [case("Belmora", "Vane").id, case("Tamrin", "Holt").id]
    assert (found.unit, found.superseded, found.n) == ("bits", 1, 2)
    assert found.mean == pytest.approx(2 / 3 * 1.585 / 2 + 4 / 3 / 2, abs=1e-3)
