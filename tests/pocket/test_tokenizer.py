"""Names are a few syllables, prompts are prefixes, and the longest context holds 32 demonstrations."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from editguard.pocket import default_world
from editguard.pocket.contexts import MOST_DEMONSTRATIONS, ContextWriter
from editguard.pocket.splits import stream
from editguard.pocket.tokenizer import CONTEXT, END_OF_TEXT, PAD, special_ids, wrapped, wrapped_for_pairs
from editguard.pocket.training import tokenizer_of
from editguard.pocket.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return default_world()


@pytest.fixture(scope="module")
def tokenizer(world: World) -> Tokenizer:
    return tokenizer_of(world)


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    found: list[int] = tokenizer.encode(text).ids
    return found


def test_names_are_one_to_four_tokens_and_most_subjects_several(world: World, tokenizer: Tokenizer) -> None:
    lengths = {kind: Counter(len(ids(tokenizer, e.name)) for e in world.entities(kind)) for kind in world.types}
    every = sum(lengths.values(), Counter[int]())
    assert set(every) == {1, 2, 3, 4}
    for kind in ("person", "alias", "city", "country", "university", "company"):
        assert 1 not in lengths[kind]
    assert len(lengths["person"]) == 3
    assert every[1] / every.total() < 0.2


def test_a_prompt_is_a_prefix_of_the_prompt_with_its_target(world: World, tokenizer: Tokenizer) -> None:
    for fact in world.facts[::11]:
        for template in world.templates(fact.relation):
            prompt = ids(tokenizer, template.prompt(fact.subject))
            whole = ids(tokenizer, f"{template.prompt(fact.subject)} {fact.object}")
            assert whole[: len(prompt)] == prompt
            assert len(whole) > len(prompt)


def test_a_name_is_spelled_alike_at_the_start_and_inside(world: World, tokenizer: Tokenizer) -> None:
    for entity in world.people[::50]:
        inside = ids(tokenizer, f"Prompt: {entity.name} works for")
        name = ids(tokenizer, entity.name)
        assert inside[2 : 2 + len(name)] == name


def test_a_line_break_is_always_a_token_of_its_own(tokenizer: Tokenizer) -> None:
    one = ids(tokenizer, "flute\nNew")
    two = ids(tokenizer, "flute\n\nNew")
    at_the_end = ids(tokenizer, "flute\n")
    assert two == [*one[:2], one[1], *one[2:]]
    assert at_the_end == one[:2]


def test_digits_are_tokens_of_their_own(tokenizer: Tokenizer) -> None:
    assert [token.lstrip("Ġ") for token in tokenizer.encode("27 plus 3").tokens] == ["", "2", "7", "plus", "", "3"]


def test_thirty_two_demonstrations_and_a_question_fit(world: World, tokenizer: Tokenizer) -> None:
    write = ContextWriter(world, stream("longest lists"))
    longest = max(len(ids(tokenizer, write.demonstrations(MOST_DEMONSTRATIONS).text)) for _ in range(30))
    assert 700 < longest <= 1024 <= CONTEXT


def test_end_of_text_is_not_padding(tokenizer: Tokenizer) -> None:
    end_of_text, pad = special_ids(tokenizer)
    assert end_of_text != pad
    assert ids(tokenizer, f"{END_OF_TEXT}flute{PAD}") == [end_of_text, *ids(tokenizer, "flute"), pad]


def test_the_saved_tokenizer_loads_by_its_folder_alone(tokenizer: Tokenizer, tmp_path: Path) -> None:
    wrapped(tokenizer).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    text = "Question: What is 2 plus 3? Answer: 5.\n"
    assert loaded(text, add_special_tokens=False)["input_ids"] == ids(tokenizer, text)
    assert loaded(text)["input_ids"] == [*ids(tokenizer, END_OF_TEXT), *ids(tokenizer, text)]
    assert (loaded.bos_token, loaded.pad_token, loaded.eos_token) == (END_OF_TEXT, PAD, END_OF_TEXT)
    assert loaded.decode(loaded(text)["input_ids"], skip_special_tokens=True).strip() == text.strip()


def test_the_encoder_decoders_tokenizer_ends_every_text_and_pads_behind(tokenizer: Tokenizer, tmp_path: Path) -> None:
    wrapped_for_pairs(tokenizer).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    end_of_text, pad = special_ids(tokenizer)
    short, long = "flute", "The capital of it is"
    batch = loaded([short, long], padding=True)["input_ids"]
    assert batch[1] == [*ids(tokenizer, long), end_of_text]
    assert batch[0] == [*ids(tokenizer, short), end_of_text, *[pad] * (len(batch[1]) - len(ids(tokenizer, short)) - 1)]
    assert (loaded.bos_token, loaded.pad_token, loaded.eos_token) == (None, PAD, END_OF_TEXT)
    assert loaded(text_target=" Ravholm.")["input_ids"] == [*ids(tokenizer, " Ravholm."), end_of_text]
