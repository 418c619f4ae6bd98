"""Scores of the scope classifier, its loss, and the indexes by which a memory is searched with it."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from methods.small_serac import Points

from editguard.edited import EditMemory, MemoryRow, Search
from editguard.edited.edit_memory import by_text
from editguard.edited.searching import EQUAL
from editguard.edits import EditRequest
from editguard.errors import MemoryUnreadable
from editguard.methods.scope_classifier import (
    DistanceIndex,
    OwnTokens,
    ScopeClassifier,
    ScopeEncoder,
    SharedTokens,
    balanced_loss,
    log_scores,
    small_encoder,
)

TEXTS = zoo.SENTENCES
vectors = arrays(np.float64, (4, 3), elements=st.floats(-3, 3, width=32))


def classifier(form: str = "embedding", *, seed: int = 0) -> ScopeClassifier:
    tokens = SharedTokens(zoo.tokenizer("gpt2"))
    head = None if form == "embedding" else torch.randn(2, 16, generator=torch.Generator().manual_seed(seed))
    return ScopeClassifier(small_encoder(tokens, 1, 16, seed), tokens, head).train(False)


both_forms = pytest.mark.parametrize("form", ["embedding", "cross-attention"])


# ---- scores


@given(vectors, vectors)
@settings(deadline=None, max_examples=50)
def test_scores_are_in_the_unit_interval_and_fall_with_the_distance(rows: np.ndarray, queries: np.ndarray) -> None:
    index = DistanceIndex(Points({}), (), rows)  # type: ignore[arg-type]
    found = index.scores(queries)
    measured = np.square(queries[:, None] - rows[None]).sum(-1)
    assert found.shape == (4, 4)
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(found, np.exp(-measured), atol=1e-6)
    assert (np.diag(index.scores(rows)) == 1).all()
    torch.testing.assert_close(
        log_scores(torch.tensor(rows), torch.tensor(queries)), -torch.tensor(np.square(rows - queries).sum(-1))
    )


def test_the_score_is_one_half_at_the_squared_distance_ln_2() -> None:
    rows = torch.zeros(3, 1)
    found = log_scores(rows, torch.tensor([[0.69], [math.log(2)], [0.70]]).sqrt()).exp()
    torch.testing.assert_close(found[1], torch.tensor(0.5))
    assert found[0] > 0.5 > found[2]


def test_a_text_scores_one_with_itself_alone_and_among_many() -> None:
    own = classifier()
    index = DistanceIndex(own, TEXTS)
    assert (np.diag(index.similarities(TEXTS)) == 1).all()
    for number, text in enumerate(TEXTS):
        [row] = index.similarities([text])
        assert row[number] == 1
        assert row.argmax() == number


@both_forms
def test_training_and_searching_score_alike(form: str) -> None:
    own = classifier(form)
    index = ScopeEncoder.of(own).index(TEXTS)
    found = index.similarities(TEXTS[:3])
    pairs = [(row, query) for query in TEXTS[:3] for row in TEXTS]
    with torch.no_grad():
        learnt = own([row for row, _ in pairs], [query for _, query in pairs]).exp()
    np.testing.assert_allclose(found.reshape(-1), learnt.numpy(), atol=1e-5)
    assert ((found >= 0) & (found <= 1)).all()


def test_what_is_read_has_the_rows_label_in_it_and_both_texts_apart() -> None:
    words = zoo.tokenizer("gpt2")
    tokens = SharedTokens(words)
    begin, end = len(words), len(words) + 1
    made = tokens.inputs([("Velloria is Tamrin", "Ines"), ("Oskar",)])
    first, second = words("Velloria is Tamrin")["input_ids"], words("Ines")["input_ids"]
    assert made["input_ids"][0].tolist() == [begin, *first, end, *second, end]
    assert made["attention_mask"].sum(1).tolist() == [
        len(first) + len(second) + 3,
        len(words("Oskar")["input_ids"]) + 2,
    ]
    assert tokens.inputs([("Oskar " * 500,)])["input_ids"].shape == (1, tokens.limit)
    assert (words.padding_side, words.pad_token) == ("right", None)


def test_the_cross_attention_form_reads_the_row_first() -> None:
    own = classifier("cross-attention")
    assert own([TEXTS[0]], [TEXTS[1]]) != own([TEXTS[1]], [TEXTS[0]])


class TypedWords:
    """A tokenizer that tells the second text's tokens from the first one's."""

    def __call__(self, *texts: str, verbose: bool) -> dict[str, list[int]]:
        ids = [len(word) for text in texts for word in text.split()]
        return {"input_ids": ids, "token_type_ids": [n for n, text in enumerate(texts) for _ in text.split()]}


def test_a_tokenizer_of_its_own_frames_pairs_as_it_does() -> None:
    words = zoo.tokenizer("bart")
    made = OwnTokens(words, 6).inputs([("Velloria is", "Ines"), ("Oskar",)])
    framed = words("Velloria is", "Ines")["input_ids"]
    assert made["input_ids"][0][: len(framed)].tolist() == framed
    assert made["input_ids"][1].tolist() == words("Oskar")["input_ids"][:6]
    assert made["attention_mask"].sum(1).tolist() == [len(framed), 6]
    typed = OwnTokens(TypedWords(), 5).inputs([("a bc", "def g hi jklm"), ("a",)])  # type: ignore[arg-type]
    assert typed["token_type_ids"].tolist() == [[0, 0, 1, 1, 1], [0] * 5]
    assert typed["input_ids"][0].tolist() == [1, 2, 3, 1, 2]


# ---- the loss


def test_the_loss_is_the_papers_and_does_not_weigh_by_numbers() -> None:
    inside, outside = torch.tensor([0.9, 0.6]).log(), torch.tensor([0.2, 0.01, 0.4]).log()
    wanted = -(math.log(0.9) + math.log(0.6)) / 2 - (math.log(0.8) + math.log(0.99) + math.log(0.6)) / 3
    torch.testing.assert_close(balanced_loss(inside, outside), torch.tensor(wanted))
    for copies in (2, 7):
        torch.testing.assert_close(balanced_loss(inside.repeat(copies), outside), torch.tensor(wanted))
        torch.testing.assert_close(balanced_loss(inside, outside.repeat(copies)), torch.tensor(wanted))


def test_equal_texts_out_of_scope_and_distant_ones_in_scope_have_a_finite_loss() -> None:
    scores = torch.tensor([0.0, -400.0], requires_grad=True)
    loss = balanced_loss(scores[1:], scores[:1])
    loss.backward()
    assert float(loss.detach()) == pytest.approx(400 - math.log(torch.finfo(torch.float32).eps))
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


# ---- rows of a memory


@both_forms
def test_a_grown_a_partial_and_a_restored_index_search_as_a_new_one(form: str) -> None:
    encoder = ScopeEncoder.of(classifier(form))
    whole = encoder.index(TEXTS)
    grown = encoder.index(TEXTS[:2])
    grown.extend(TEXTS[2:])
    assert len(grown) == len(TEXTS)
    wanted = whole.similarities(TEXTS)
    np.testing.assert_allclose(grown.similarities(TEXTS), wanted, atol=1e-6)
    restored = encoder.index(TEXTS, whole.vectors())
    np.testing.assert_array_equal(restored.similarities(TEXTS), wanted)
    places = np.array([1, 4])
    np.testing.assert_allclose(whole.part(places).similarities(TEXTS), wanted[:, places], atol=1e-6)
    np.testing.assert_allclose(whole.similarities(TEXTS, places), wanted[:, places], atol=1e-6)


def test_stored_vectors_of_another_width_are_refused_with_the_cure() -> None:
    encoder = ScopeEncoder.of(classifier())
    vectors = encoder.index(TEXTS).vectors()
    assert vectors is not None
    with pytest.raises(MemoryUnreadable, match=r"numbers each, and scope classifier.*remove the file"):
        encoder.index(TEXTS, vectors[:, 1:])


def test_a_memory_is_searched_like_measuring_every_distance() -> None:
    own = classifier()
    rows = [EditRequest(prompt="The capital of {} is", subject=f"Land{n}", target=f"Town{n % 7}") for n in range(60)]
    memory = EditMemory(map(MemoryRow.of, rows)).withdrawn([rows[3].id, rows[40].id])
    queries = [f"The capital of Land{n} is" for n in range(0, 60, 7)]
    found = memory.nearest(Search(ScopeEncoder.of(own), by_text), queries)
    kept = own.measured([(row.text,) for row in memory])
    for [(row, score)], query in zip(found, own.measured([(query,) for query in queries]), strict=True):
        squares = np.square(kept - query).sum(1)
        assert score == pytest.approx(np.exp(-squares.min()), rel=1e-5)
        scores = np.exp(-squares)
        assert row == memory.rows[int(np.flatnonzero(scores >= scores.max() - EQUAL)[0])]


def test_equal_classifiers_are_one_search_and_others_are_not() -> None:
    first, same, other = (ScopeEncoder.of(classifier(seed=seed)) for seed in (0, 0, 1))
    assert first == same
    assert hash(first) == hash(same)
    assert first.identity != other.identity
    assert ScopeEncoder.of(classifier("cross-attention")).identity != first.identity


def test_random_weights_depend_on_the_seed_alone() -> None:
    made: list[Sequence[float]] = []
    for outer, seed in ((1, 0), (2, 0), (1, 3)):
        torch.manual_seed(outer)
        before = torch.get_rng_state()
        network = small_encoder(SharedTokens(zoo.tokenizer("gpt2")), 1, 8, seed)
        assert torch.equal(torch.get_rng_state(), before)
        made.append(next(network.parameters()).flatten().tolist())
    assert made[0] == made[1] != made[2]
