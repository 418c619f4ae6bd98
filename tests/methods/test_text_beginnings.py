"""Beginnings of texts as prompts."""

import zoo

from editguard.methods.text_beginnings import beginnings


def test_the_first_different_texts_are_cut_to_their_first_tokens() -> None:
    model = zoo.tiny("llama")
    texts = ["", "  ", *zoo.SENTENCES[:2], *zoo.SENTENCES]
    found = beginnings(model, texts, count=3, tokens=5)
    assert list(found) == list(zoo.SENTENCES[:3])
    for text, ids in found.items():
        assert list(ids) == model.encode_text(text)[:5]


def test_a_corpus_is_read_no_further_than_needed() -> None:
    def endless():
        while True:
            yield "the same"

    assert len(beginnings(zoo.tiny("gpt2"), endless(), count=4, tokens=5)) == 1
