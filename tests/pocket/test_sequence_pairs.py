"""Documents become pairs and pairs become padded groups: nothing is lost, repeated or given away."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pocket.small_world import AMOUNTS, SIZE
from tokenizers import Tokenizer

from editguard.pocket.architecture import EncoderDecoderShape
from editguard.pocket.corpus import documents
from editguard.pocket.documents import Document, Writer
from editguard.pocket.encoder_decoder import EncoderDecoderTraining, answer_logits, summed_loss
from editguard.pocket.sequence_pairs import (
    LONGEST_INPUT,
    NOT_A_TARGET,
    PAIRS_A_STEP,
    EncodedPair,
    PairBatch,
    alike,
    batches_of,
    encode_pairs,
    epoch_pair_batches,
    epoch_pairs,
    group_of,
    pair_of,
)
from editguard.pocket.settings import Settings
from editguard.pocket.splits import stream
from editguard.pocket.tokenizer import special_ids
from editguard.pocket.training import model_for, tokenizer_of
from editguard.pocket.world import World

SETTINGS = Settings(
    shape=EncoderDecoderShape(encoder_layers=2, decoder_layers=1, d_model=16, heads=2, d_head=8, d_ff=32)
)
TOKENS = st.integers(5, 90)
PAIRS = st.lists(
    st.builds(EncodedPair, st.lists(TOKENS, min_size=1, max_size=60), st.lists(TOKENS, min_size=1, max_size=40)),
    min_size=1,
    max_size=60,
)


@pytest.fixture(scope="module")
def world() -> World:
    return World(3, SIZE)


@pytest.fixture(scope="module")
def tokenizer(world: World) -> Tokenizer:
    return tokenizer_of(world)


@pytest.fixture(scope="module")
def epoch(world: World) -> list[Document]:
    return list(documents(world, 0, AMOUNTS))


@pytest.fixture(scope="module")
def batches(world: World, tokenizer: Tokenizer) -> list[PairBatch]:
    return epoch_pair_batches(world, tokenizer, 0, AMOUNTS)


def rows_of(batches: list[PairBatch]) -> Counter[tuple[tuple[int, ...], tuple[int, ...]]]:
    """What stands in the groups without padding, each pair as often as it occurs."""
    return Counter(
        (tuple(prompt[mask == 1].tolist()), tuple(label[label != NOT_A_TARGET].tolist()))
        for batch in batches
        for group in batch.groups
        for prompt, mask, label in zip(group.prompts, group.mask, group.labels, strict=True)
    )


def test_a_pair_is_the_text_before_the_last_answer_and_the_answer() -> None:
    document = Writer().plain("A is").answer(" B.").plain(" C is").answer(" D.").document("fact")
    pair = pair_of(document)
    assert pair is not None
    assert (pair.prompt, pair.answer) == ("A is B. C is", " D.")


def test_a_document_that_does_not_end_in_an_answer_gives_no_pair() -> None:
    assert pair_of(Document("It rained.", "ordinary")) is None
    assert pair_of(Writer().plain("A is").answer(" B.").plain(" Nobody knew.").document("fact")) is None


def test_every_other_document_gives_one_that_makes_it_up(epoch: list[Document]) -> None:
    for document in epoch:
        pair = pair_of(document)
        if document.kind == "ordinary":
            assert pair is None
        else:
            assert pair is not None
            assert pair.prompt + pair.answer == document.text


def test_no_plain_fact_has_its_answer_in_its_prompt(world: World, epoch: list[Document]) -> None:
    facts = [d for d in epoch if d.kind == "fact" and len(d.answers) == 1]
    assert len(facts) > 1_000
    for document in facts:
        pair = pair_of(document)
        assert pair is not None
        assert pair.answer.endswith(".")
        name = pair.answer[1:-1]
        own = {fact.subject for fact in world.facts if fact.subject in pair.prompt and name in fact.subject}
        assert own or name not in pair.prompt  # a university or a company may be called after its city


def test_targets_decode_to_the_answers_and_end_with_end_of_text(tokenizer: Tokenizer, epoch: list[Document]) -> None:
    end_of_text, _ = special_ids(tokenizer)
    pairs = [pair for document in epoch[::7] if (pair := pair_of(document)) is not None]
    for pair, encoded in zip(pairs, encode_pairs(tokenizer, pairs), strict=True):
        assert encoded.prompt[-1] == encoded.answer[-1] == end_of_text
        assert encoded.prompt.count(end_of_text) == encoded.answer.count(end_of_text) == 1
        assert tokenizer.decode(encoded.answer).strip(" ") == pair.answer.strip(" ")
        whole = tokenizer.encode(pair.prompt + pair.answer, add_special_tokens=False).ids
        if pair.answer.startswith(" "):
            assert encoded.prompt[:-1] + encoded.answer[:-1] == whole  # as the decoder reads it


def test_every_pair_that_is_not_too_long_is_read_once_an_epoch(
    world: World, tokenizer: Tokenizer, batches: list[PairBatch]
) -> None:
    pairs = epoch_pairs(world, tokenizer, 0, AMOUNTS)
    assert rows_of(batches) == Counter((tuple(pair.prompt), tuple(pair.answer)) for pair in pairs)
    assert max(len(pair.prompt) for pair in pairs) <= LONGEST_INPUT
    every = [pair for d in documents(world, 0, AMOUNTS) if (pair := pair_of(d)) is not None]
    assert len(pairs) == sum(len(encoded.prompt) <= LONGEST_INPUT for encoded in encode_pairs(tokenizer, every))


def test_an_epoch_is_batched_alike_every_time_and_another_anew(
    world: World, tokenizer: Tokenizer, batches: list[PairBatch]
) -> None:
    again = epoch_pair_batches(world, tokenizer, 0, AMOUNTS)
    assert len(again) == len(batches)
    for one, other in zip(batches, again, strict=True):
        assert len(one.groups) == len(other.groups)
        for group, same in zip(one.groups, other.groups, strict=True):
            assert torch.equal(group.prompts, same.prompts)
            assert torch.equal(group.mask, same.mask)
            assert torch.equal(group.labels, same.labels)
    next_epoch = epoch_pair_batches(world, tokenizer, 1, AMOUNTS)
    assert rows_of(next_epoch[:1]) != rows_of(batches[:1])
    assert rows_of(next_epoch) != rows_of(batches)


def test_batches_are_drawn_at_random_and_hardly_padded(batches: list[PairBatch]) -> None:
    sizes = [sum(len(group.prompts) for group in batch.groups) for batch in batches]
    assert set(sizes[:-1]) == {PAIRS_A_STEP}
    assert 0 < sizes[-1] <= PAIRS_A_STEP
    lengths = [torch.cat([g.mask.sum(1) for g in batch.groups]).float().mean() for batch in batches[:-1]]
    assert max(lengths) < 2 * min(lengths)
    filled = sum(int(g.mask.sum()) + g.targets for batch in batches for g in batch.groups)
    assert filled / sum(batch.tokens_read for batch in batches) > 0.75


@given(PAIRS)
@settings(max_examples=60, deadline=None)
def test_the_batcher_loses_and_repeats_nothing(pairs: list[EncodedPair]) -> None:
    expected = Counter((tuple(pair.prompt), tuple(pair.answer)) for pair in pairs)
    assert rows_of(batches_of(pairs, 1, stream("a test"))) == expected
    assert Counter((tuple(p.prompt), tuple(p.answer)) for group in alike(pairs) for p in group) == expected


@given(PAIRS)
@settings(max_examples=10, deadline=None)
def test_padding_does_not_change_the_loss(tokenizer: Tokenizer, pairs: list[EncodedPair]) -> None:
    model = model_for(tokenizer, SETTINGS)
    _, pad = special_ids(tokenizer)
    with torch.inference_mode():
        alone = [summed_loss(answer_logits(model, g), g) for pair in pairs if (g := group_of([pair], pad))]
        group = group_of(pairs, pad)
        together = summed_loss(answer_logits(model, group), group)
    torch.testing.assert_close(together, torch.stack(alone).sum(), rtol=1e-4, atol=1e-3)


def test_the_gradient_is_that_of_the_mean_over_all_targets_however_they_are_grouped(
    world: World, tokenizer: Tokenizer
) -> None:
    pairs = epoch_pairs(world, tokenizer, 0, AMOUNTS)[::97]
    _, pad = special_ids(tokenizer)
    training = EncoderDecoderTraining()

    def gradients(batch: PairBatch) -> tuple[float, list[torch.Tensor]]:
        model = model_for(tokenizer, SETTINGS)
        loss = training.backward(model, batch, SETTINGS, 0)
        return loss, [p.grad for p in model.parameters() if p.grad is not None]

    one = gradients(PairBatch((group_of(pairs, pad),)))
    other = gradients(PairBatch(tuple(group_of(group, pad) for group in alike(pairs))))
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    torch.testing.assert_close(one[1], other[1], rtol=1e-3, atol=1e-6)
    model = model_for(tokenizer, SETTINGS)
    group = group_of(pairs, pad)
    with torch.inference_mode():
        library = model(input_ids=group.prompts, attention_mask=group.mask, labels=group.labels).loss.item()
    assert one[0] == pytest.approx(library, rel=1e-5)


def test_the_whole_epoch_of_the_shipped_amounts_holds_every_plain_fact(world: World) -> None:
    few = replace(AMOUNTS, joined=0.15)
    one, other = (
        Counter(d.text for d in documents(world, 0, amounts) if d.kind == "fact" and len(d.answers) == 1)
        for amounts in (AMOUNTS, few)
    )
    assert one == other
