"""Kinds, texts and choice of demonstrations."""

import random
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editguard.edits import EditRequest
from editguard.methods import DemonstrationRecord
from editguard.methods.demonstrations import (
    KINDS,
    Demonstration,
    Pool,
    kept_when_shortened,
    query_text,
    spread_kinds,
)
from editguard.methods.retrieval import TfidfEncoder

REQUEST = EditRequest(prompt="The capital of {} is", subject="Land7", target="Oskar")
PROPORTION = (1, 3, 4)


@pytest.fixture(scope="module")
def pool(records: tuple[DemonstrationRecord, ...]) -> Pool:
    found = Pool.of(records, PROPORTION, TfidfEncoder())
    assert found is not None
    return found


def chosen(pool: Pool, count: int = 32, probe: str = REQUEST.text, **options) -> list[Demonstration]:
    return pool.nearest(REQUEST, probe, count, **{"proportion": PROPORTION, "order": "spread", **options})


def parsed(text: str) -> tuple[str, str, str, str]:
    """(fact prompt, fact answer, prompt, answer) of one demonstration."""
    assert text.endswith("\n\n")
    first, second = text[:-2].split("\n")
    fact, question = first.removeprefix("New Fact: "), second.removeprefix("Prompt: ")
    return (*fact.rsplit(" ", 1), *question.rsplit(" ", 1))


def test_thirty_two_are_four_twelve_and_sixteen() -> None:
    assert Counter(spread_kinds(32, PROPORTION)) == {"copy": 4, "update": 12, "retain": 16}


@given(st.integers(0, 80), st.tuples(*[st.integers(0, 9)] * 3).filter(any))
def test_every_beginning_of_the_order_has_the_proportion_to_within_one(count: int, proportion: tuple[int, ...]) -> None:
    kinds = spread_kinds(count, proportion)
    assert len(kinds) == count
    for length in range(count + 1):
        counts = Counter(kinds[:length])
        for kind, weight in zip(KINDS, proportion, strict=True):
            assert abs(counts[kind] - length * weight / sum(proportion)) < 1


@given(st.integers(0, 40), st.randoms(use_true_random=False))
def test_shortening_drops_whole_demonstrations_keeps_the_proportion_and_is_monotone(
    count: int, source: random.Random
) -> None:
    kinds = list(spread_kinds(count, PROPORTION))
    source.shuffle(kinds)
    longer = set(range(count))
    for length in range(count, -1, -1):
        kept = kept_when_shortened(kinds, length, PROPORTION)
        assert len(kept) == length
        assert set(kept) <= longer
        assert Counter(kinds[place] for place in kept) == Counter(spread_kinds(length, PROPORTION))
        for kind in KINDS:
            mine = [place for place in kept if kinds[place] == kind]
            assert mine == [place for place in range(count) if kinds[place] == kind][: len(mine)]
        longer = set(kept)


def test_texts_are_the_published_ones_and_carry_the_right_answers(
    pool: Pool, records: tuple[DemonstrationRecord, ...]
) -> None:
    found = chosen(pool)
    assert Counter(one.kind for one in found) == {"copy": 4, "update": 12, "retain": 16}
    assert len({one.record for one in found}) == 32
    for one in found:
        assert one.record is not None
        record = pool.records[one.record]
        fact, new, prompt, answer = parsed(one.text)
        assert (fact, new) == (record.prompt, record.target_new)
        assert answer == (record.target_true if one.kind == "retain" else record.target_new)
        sources = {"copy": (record.prompt,), "update": record.paraphrases, "retain": record.neighbours}
        assert prompt in sources[one.kind]


def test_the_nearest_records_come_first(pool: Pool) -> None:
    found = [one.similarity for one in chosen(pool, 20)]
    assert found == sorted(found, reverse=True)
    others = {place for place, _ in pool.ranked(REQUEST)} - {one.record for one in chosen(pool, 20)}
    leaking = {place for place in others if pool.records[place].subject == "Land7"}
    rest = [score for place, score in pool.ranked(REQUEST) if place in others - leaking]
    assert max(rest) <= found[-1]


def test_records_that_tell_the_answer_or_contradict_the_memory_never_appear(pool: Pool) -> None:
    everything = chosen(pool, 40, "The capital of Isle3 is and Land9?", edited_subjects=["land11", "Isle5", "Rock5"])
    subjects = {pool.records[one.record].subject for one in everything}
    assert {"Land7", "Land9", "Land11"}.isdisjoint(subjects)
    for one in everything:
        if one.kind == "retain":
            assert "Isle5" not in one.text
            assert "Rock5" not in one.text
    for probe in ("The capital of Isle3 is", "land20 HAS this one:"):
        assert all(parsed(one.text)[2].casefold() != probe.casefold() for one in chosen(pool, 40, probe))


def test_the_seed_decides_and_no_global_state_does(pool: Pool) -> None:
    python, torchs = random.getstate(), torch.get_rng_state()
    first = chosen(pool, order="shuffled", seed=1)
    random.seed(99)
    assert first == chosen(pool, order="shuffled", seed=1)
    random.setstate(python)
    assert [one.kind for one in first] != [one.kind for one in chosen(pool, order="shuffled", seed=2)]
    assert Counter(one.kind for one in first) == Counter(one.kind for one in chosen(pool))
    assert [one.text for one in chosen(pool, seed=1)] != [one.text for one in chosen(pool, seed=2)]
    assert torch.equal(torchs, torch.get_rng_state())


def test_records_that_cannot_play_every_kind_are_left_out_and_counted(records: tuple[DemonstrationRecord, ...]) -> None:
    bare = DemonstrationRecord(prompt="The x of y is", subject="y", target_new="a", target_true="b")
    found = Pool.of([bare, *records], PROPORTION, TfidfEncoder())
    assert found is not None
    assert (len(found.records), found.left_out) == (40, 1)
    assert Pool.of([bare], PROPORTION, TfidfEncoder()) is None
    assert Pool.of([bare], (1, 0, 0), TfidfEncoder()) is not None


def test_the_query_ends_with_the_probe_and_nothing_else() -> None:
    assert query_text("The sky is green", "The sky is  ") == "New Fact: The sky is green\nPrompt: The sky is"
