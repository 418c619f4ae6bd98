"""Documents become rows: answers count fully, new facts count nothing, and nothing is torn apart."""

from __future__ import annotations

import pytest
import torch
from pocket.small_world import AMOUNTS, SIZE
from tokenizers import Tokenizer

from editguard.pocket.documents import Writer
from editguard.pocket.packing import LONG_ROW, SHORT_ROW, Batch, encode, epoch_batches
from editguard.pocket.tokenizer import special_ids
from editguard.pocket.training import tokenizer_of
from editguard.pocket.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return World(3, SIZE)


@pytest.fixture(scope="module")
def tokenizer(world: World) -> Tokenizer:
    return tokenizer_of(world)


@pytest.fixture(scope="module")
def batches(world: World, tokenizer: Tokenizer) -> list[Batch]:
    return epoch_batches(world, tokenizer, 0, AMOUNTS)


def test_only_answers_count_fully_and_given_objects_not_at_all(tokenizer: Tokenizer) -> None:
    document = (
        Writer().plain("New fact: The capital of it is").given(" flute").plain(".").answer(" lute.").document("context")
    )
    [encoded] = encode(tokenizer, [document])
    weights = {tokenizer.id_to_token(i): w for i, w in zip(encoded.ids, encoded.weights, strict=True)}
    assert weights["Ġflute"] == 0.0
    assert weights["Ġlute"] == 1.0
    assert weights["Ġcapital"] == 0.2
    assert not any(encoded.fact_answer)


def test_answer_sites_are_one_token_before_the_answers_of_facts(tokenizer: Tokenizer, batches: list[Batch]) -> None:
    batch = next(b for b in batches if b.answer_sites.any())
    rows, positions = batch.answer_sites.nonzero(as_tuple=True)
    assert (batch.weights[rows, positions + 1] == 1.0).all()


def test_rows_hold_whole_documents_and_padding_weighs_nothing(tokenizer: Tokenizer, batches: list[Batch]) -> None:
    end_of_text, pad = special_ids(tokenizer)
    for batch in batches:
        for row, weights in zip(batch.tokens, batch.weights, strict=True):
            content = row[row != pad]
            assert content[-1] == end_of_text
            assert (row[len(content) :] == pad).all()
            assert not weights[len(content) :].any()


def test_about_half_the_rows_begin_with_end_of_text(tokenizer: Tokenizer, batches: list[Batch]) -> None:
    first = torch.cat([batch.tokens[:, 0] for batch in batches])
    assert 0.3 < (first == special_ids(tokenizer)[0]).float().mean() < 0.7


def test_rows_are_short_or_long_and_hardly_padded(tokenizer: Tokenizer, batches: list[Batch]) -> None:
    assert {batch.tokens.shape[1] for batch in batches} == {SHORT_ROW, LONG_ROW}
    short = torch.cat([batch.tokens for batch in batches if batch.tokens.shape[1] == SHORT_ROW])
    assert (short == special_ids(tokenizer)[1]).float().mean() < 0.05


def test_an_epoch_is_packed_alike_every_time(world: World, tokenizer: Tokenizer, batches: list[Batch]) -> None:
    again = epoch_batches(world, tokenizer, 0, AMOUNTS)
    assert len(again) == len(batches)
    for one, other in zip(batches, again, strict=True):
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.weights, other.weights)
        assert torch.equal(one.answer_sites, other.answer_sites)
