"""Prompts, answers and subjects in tokens: boundaries, special tokens, chat templates."""

import pytest
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from editguard.errors import AmbiguousTokens, ConfigurationError
from editguard.models.tokens import TextEncoder

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
both_flavours = pytest.mark.parametrize("bos", [False, True])


def encoder(*, bos: bool = False, chat: bool = False, template: str = TEMPLATE) -> TextEncoder:
    words = zoo.tokenizer("gpt2", bos=bos)
    words.chat_template = template
    return TextEncoder(words, chat=chat)


def metaspace_encoder() -> TextEncoder:
    """SentencePiece-like: a blank belongs to the word behind it, and one is put before every text."""
    pieces = ["<unk>", "▁", "▁The", "▁capital", "▁is", "▁Tamrin", "Tamrin", "▁▁", ":", "▁a", *"abcdefghilmnoprstuyTQ"]
    backend = Tokenizer(models.Unigram([(piece, -1.0 - 0.1 * len(piece)) for piece in pieces], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    return TextEncoder(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"))


# ---- special tokens


def test_a_bos_stands_in_front_exactly_when_the_tokenizer_adds_one():
    assert encoder(bos=True).encode("Who")[0] == encoder().tokenizer.bos_token_id
    assert encoder(bos=False).encode("Who") == encoder(bos=True).encode("Who")[1:]


@both_flavours
def test_a_bos_that_the_text_brings_along_is_not_doubled(bos):
    each = encoder(bos=bos)
    ids = each.encode("<s>Who")
    assert ids.count(each.tokenizer.bos_token_id) == 1


def test_special_tokens_that_a_tokenizer_appends_do_not_end_the_prompt():
    words = zoo.tokenizer("gpt2")
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    assert words("Who")["input_ids"][-1] == words.eos_token_id
    assert TextEncoder(words).encode("Who") == encoder(bos=True).encode("Who")


@both_flavours
@settings(max_examples=60, deadline=None)
@given(prompt=st.text(max_size=25), answer=st.text(min_size=1, max_size=15).filter(str.strip))
def test_prompt_ids_are_the_same_with_every_answer_and_answers_hold_no_special_tokens(bos, prompt, answer):
    each = encoder(bos=bos)
    before, after = each.encode_answer(prompt, answer)
    assert before == each.encode(prompt)
    assert after
    assert not set(after) & set(each.tokenizer.all_special_ids)


# ---- answers


@both_flavours
@pytest.mark.parametrize("prompt", ["The capital of Velloria is", "The capital of Velloria is ", "Answer:\n", ""])
def test_an_answer_reads_the_same_with_and_without_its_own_leading_blank(bos, prompt):
    each = encoder(bos=bos)
    assert each.encode_answer(prompt, "Tamrin") == each.encode_answer(prompt, " Tamrin")


def test_the_ids_of_prompt_and_answer_are_those_of_the_whole_text():
    each = encoder(bos=True)
    before, after = each.encode_answer("The capital of Velloria is", "Tamrin")
    assert before + after == each.encode("The capital of Velloria is Tamrin")
    assert each.decode(after) == " Tamrin"


def test_after_a_prompt_that_ends_in_a_blank_the_answer_has_no_blank_of_its_own():
    each = encoder()
    before, after = each.encode_answer("The capital of Velloria is ", "Tamrin")
    assert before == each.encode("The capital of Velloria is ")
    assert each.decode(before + after) == "The capital of Velloria is Tamrin"


def test_a_sentencepiece_answer_is_one_piece_with_its_blank_and_no_extra_blank_piece():
    each = metaspace_encoder()
    before, after = each.encode_answer("The capital is", "Tamrin")
    assert each.tokenizer.convert_ids_to_tokens(before) == ["▁The", "▁capital", "▁is"]
    assert each.tokenizer.convert_ids_to_tokens(after) == ["▁Tamrin"]


def test_where_the_boundary_does_not_hold_the_answer_is_read_as_after_a_neutral_word():
    words = zoo.tokenizer("gpt2")
    each = TextEncoder(words)
    plain = each._plain
    merging = {"is Tamrin": [7, 8, 9]}  # a tokenizer that merges over the boundary
    each._plain = lambda text: merging.get(text) or plain(text)
    before, after = each.encode_answer("is", "Tamrin")
    assert before == plain("is")
    assert after == plain(" Tamrin")


def test_an_answer_without_tokens_is_refused():
    with pytest.raises(AmbiguousTokens, match="no tokens"):
        encoder().encode_answer("Answer:\n", "  ")


# ---- the subject's end


SUBJECTS = ("Velloria", "Quintessa Marlowe-Vane", "Q", "Ærøskøbing", "東京", "Ines Holt")
PLACES = ("{} is big", "The capital of {} is", "We all like {}", "Is it {}, or not?", "({})", "of {}'s mayor", "«{}»")


@both_flavours
@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("place", PLACES)
def test_the_tokens_up_to_the_subjects_end_decode_to_a_text_that_ends_with_it(bos, subject, place):
    each = encoder(bos=bos)
    text = place.replace("{}", subject)
    ids = each.encode(text)
    end = each.subject_end(text, subject, start=place.index("{}"))
    assert each.decode(ids[: end + 1]).endswith(subject)
    assert not each.decode(ids[:end]).endswith(subject)


@both_flavours
@settings(max_examples=60, deadline=None)
@given(
    before=st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=15),
    subject=st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=12),
    after=st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=15),
)
def test_any_subject_in_any_text_ends_where_decoding_says(bos, before, subject, after):
    each = encoder(bos=bos)
    text = before + subject + after
    ids = each.encode(text)
    end = each.subject_end(text, subject, start=len(before))
    assert (before + subject).startswith(each.decode(ids[:end]).rstrip("�"))
    assert each.decode(ids[: end + 1]).startswith(before + subject)


def test_a_subject_given_with_blanks_ends_at_its_last_letter():
    each = encoder()
    text = "The capital of Velloria is"
    expected = each.subject_end(text, "Velloria")
    assert each.subject_end(text, " Velloria") == expected
    assert each.subject_end(text, "Velloria ") == expected


def test_of_several_occurrences_the_one_that_is_meant_must_be_said():
    each = encoder()
    text = "Tamrin or not Tamrin is"
    with pytest.raises(AmbiguousTokens, match="occurs 2 times"):
        each.subject_end(text, "Tamrin")
    assert each.subject_end(text, "Tamrin", start=0) < each.subject_end(text, "Tamrin", start=14)


@pytest.mark.parametrize(("subject", "start"), [("Oskar", None), ("Velloria", 3), ("", None), ("", 2)])
def test_a_subject_that_is_not_there_is_refused(subject, start):
    with pytest.raises(AmbiguousTokens, match="does not"):
        encoder().subject_end("The capital of Velloria is", subject, start=start)


def test_a_sentencepiece_subject_ends_where_decoding_says():
    each = metaspace_encoder()
    assert each.subject_end("The capital is Tamrin", "capital") == 1
    assert each.subject_end("The capital is Tamrin", "Tamrin") == 3


def test_offsets_that_do_not_fit_the_tokens_are_noticed():
    each = encoder()
    honest = each._with_offsets
    each._with_offsets = lambda text: (honest(text)[0], [(0, 0), *honest(text)[1][:-1]])
    with pytest.raises(AmbiguousTokens, match="offsets do not fit"):
        each.subject_end("The capital of Velloria is", "Velloria")


def test_a_tokenizer_without_offsets_is_refused_by_name():
    class Slow:
        is_fast = False

        def __call__(self, text, **_):
            return {"input_ids": [ord(letter) for letter in text]}

    with pytest.raises(AmbiguousTokens, match=r"Slow.*fast tokenizer"):
        TextEncoder(Slow()).subject_end("The capital of Velloria is", "Velloria")


# ---- chat templates


def test_a_prompt_is_put_into_the_chat_template_with_one_bos():
    each = encoder(bos=True, chat=True)
    assert each.render("Who?") == "<s><|user|>\nWho?\n<|assistant|>\n"
    assert each.encode("Who?").count(each.tokenizer.bos_token_id) == 1
    assert each.decode(each.encode("Who?")) == "<|user|>\nWho?\n<|assistant|>\n"


def test_the_subject_is_found_within_the_rendered_prompt():
    each = encoder(bos=True, chat=True)
    text = "The capital of Velloria is"
    end = each.subject_end(text, "Velloria")
    assert each.decode(each.encode(text)[: end + 1]).endswith("of Velloria")


def test_an_answer_follows_the_rendered_prompt_without_a_blank_after_its_line_end():
    each = encoder(chat=True)
    before, after = each.encode_answer("Who?", "Tamrin")
    assert before == each.encode("Who?")
    assert each.decode(after) == "Tamrin"


def test_a_template_that_trims_the_prompt_still_shows_the_subject():
    each = encoder(chat=True, template="{{ messages[0].content | trim }}\n")
    text = "  The capital of Velloria is "
    end = each.subject_end(text, "Velloria")
    assert each.decode(each.encode(text)[: end + 1]).endswith("of Velloria")


def test_a_template_that_rewrites_the_prompt_is_refused():
    each = encoder(chat=True, template="{{ messages[0].content | upper }}\n")
    with pytest.raises(AmbiguousTokens, match="chat template changes the prompt"):
        each.subject_end("The capital of Velloria is", "Velloria")


def test_running_text_is_never_rendered():
    assert encoder(bos=True, chat=True).encode_text("Who?") == encoder(bos=True).encode("Who?")


def test_a_template_that_asks_for_the_date_gives_the_same_prompt_every_day():
    template = "{% if not date_string is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}{{ messages[0].content }}\n"
    assert encoder(chat=True, template=template).render("Who?") == "Who?"


def test_a_chat_without_a_template_is_refused():
    with pytest.raises(ConfigurationError, match="has none"):
        TextEncoder(zoo.tokenizer(), chat=True)


# ---- texts that are whole


def closing_encoder() -> TextEncoder:
    """T5-like: SentencePiece with an end behind every text."""
    words = metaspace_encoder().tokenizer
    words.add_special_tokens({"eos_token": "</s>"})
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", words.eos_token_id)]
    )
    return TextEncoder(words, closes=True)


def test_a_whole_text_is_what_the_tokenizer_makes_of_it():
    for each in (closing_encoder(), TextEncoder(zoo.tokenizer("bart"), closes=True)):
        for text in ("The capital is", "Tamrin", "The capital is "):
            assert each.encode(text) == each.encode_text(text) == each.tokenizer(text)["input_ids"]


def test_an_answer_behind_an_encoder_is_a_text_of_its_own_that_ends():
    for each in (closing_encoder(), TextEncoder(zoo.tokenizer("bart"), closes=True)):
        wanted = [*each.tokenizer("Tamrin", add_special_tokens=False)["input_ids"], each.tokenizer.eos_token_id]
        for prompt in ("The capital is", "The capital is ", ""):
            for answer in ("Tamrin", " Tamrin", "Tamrin "):
                assert each.encode_answer(prompt, answer) == (each.encode(prompt), wanted)
    with pytest.raises(AmbiguousTokens, match="no tokens"):
        closing_encoder().encode_answer("The capital is", " ")


def test_an_end_that_the_text_brings_along_is_not_doubled():
    each = TextEncoder(zoo.tokenizer("bart"), closes=True)
    assert each.encode("Who</s>") == each.encode("Who")


def test_a_subject_is_found_in_a_whole_text():
    each = TextEncoder(zoo.tokenizer("bart"), closes=True)
    text = "The capital of Velloria is"
    ids = each.encode(text)
    assert each.decode(ids[: each.subject_end(text, "Velloria") + 1]) == "The capital of Velloria"
