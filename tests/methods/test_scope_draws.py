"""What a scope classifier is trained on: positives, and negatives that are none of the edit's own prompts."""

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from editguard.edited.searching import Numbers, Places
from editguard.edits import EditRequest
from editguard.methods.editor_examples import Draws, EditorExample
from editguard.methods.retrieval import TfidfEncoder
from editguard.methods.scope_draws import NEAREST, SKIPPED, NegativePool, ScopeDraws, hard_negatives


def example(number: int, *, relation: str = "mayor", target: str = "Oskar") -> EditorExample:
    request = EditRequest(
        prompt=f"The {relation} of {{}} is", subject=f"Land{number}", target=target, relation=relation
    )
    rephrases = tuple((f"{wording} {number}", target) for wording in (f"Who leads by {relation}", f"{relation} of"))
    return EditorExample(request, rephrases, ((f"Land{number} lies in", "Belmora"), (f"Land{number} is old", "yes")))


EXAMPLES = [example(number) for number in range(60)]


def prompts_of(each: EditorExample) -> set[str]:
    return {each.pair[0], *(prompt for prompt, _ in each.rephrases)}


@given(st.sampled_from([1, 25, 26, 60, 99, 140]), st.integers(0, 2**32 - 1), st.booleans())
@settings(deadline=None, max_examples=40)
def test_hard_negatives_are_the_ranks_after_the_first_25_with_the_chances_of_a_softmax(
    count: int, seed: int, tied: bool
) -> None:
    values = np.random.default_rng(seed).uniform(-1, 1, count)
    similarities = values.round(1) if tied else values
    places, chances = hard_negatives(similarities)
    assert len(places) == max(0, min(len(values), NEAREST) - SKIPPED)
    order = np.argsort(-similarities, kind="stable")
    assert set(places) == set(order[25:100])
    wanted = np.exp(similarities[places] / 0.1)
    np.testing.assert_allclose(chances, wanted / wanted.sum(), rtol=1e-6)


class Given:
    """An encoder with similarities of its own."""

    identity = "given"

    def __init__(self, similarities: Numbers) -> None:
        self.row = similarities

    def index(self, texts: Sequence[str], vectors: Numbers | None = None) -> "Given":
        self.texts = list(texts)
        return self

    def similarities(self, queries: Sequence[str], places: Places | None = None) -> Numbers:
        return np.stack([self.row[: len(self.texts)]] * len(queries))


def test_draws_of_hard_negatives_have_the_frequencies_of_the_softmax() -> None:
    similarities = np.linspace(0.9, 0.1, 400)
    encoder = Given(similarities)
    pool = NegativePool(EXAMPLES, encoder, hard=True, seed=0)  # type: ignore[arg-type]
    chosen = EXAMPLES[30]
    others = [text for text in encoder.texts if text not in prompts_of(chosen)]
    kept = similarities[: len(encoder.texts)][[text not in prompts_of(chosen) for text in encoder.texts]]
    rng = random.Random(1)
    drawn = Counter(pool.draw(chosen, rng, hard=True) for _ in range(20_000))
    assert not drawn.keys() - set(others[25:100])
    chances = np.exp(kept[25:100] / 0.1)
    expected = 20_000 * chances / chances.sum()
    likely = expected > 5
    assert likely.sum() > 10
    counts = np.array([drawn[text] for text in others[25:100]])[likely]
    found = chisquare(counts, expected[likely] * counts.sum() / expected[likely].sum())
    assert found.pvalue > 1e-3


@pytest.mark.parametrize("hard", [0.0, 0.5, 1.0])
def test_no_prompt_in_scope_of_an_edit_is_its_negative_and_others_of_the_same_fact_count(hard: float) -> None:
    twin = EditorExample(EXAMPLES[0].request, (("Another wording for it", "Oskar"),), (("Land0 has rivers", "many"),))
    examples = [*EXAMPLES[:20], twin]
    draws = ScopeDraws(Draws(examples, locality=1, seed=3), TfidfEncoder(), hard=hard, seed=3)
    by_row = {each.request.statement: prompts_of(each) for each in examples}
    by_row[twin.request.statement] = prompts_of(EXAMPLES[0]) | prompts_of(twin)
    for start in range(0, 400, 10):
        batch = draws.take(start, 10)
        assert len(batch.rows) == len(batch.in_scope) == 10
        assert Counter(batch.out_of) == Counter(dict.fromkeys(range(10), 2))
        for row, (prompt, answer) in zip(batch.rows, batch.in_scope, strict=True):
            assert prompt in by_row[row]
            assert answer == "Oskar"
        for prompt, of in zip(batch.out_of_scope, batch.out_of, strict=True):
            assert prompt not in by_row[batch.rows[of]]


def test_requests_and_rephrases_are_asked_equally_often_and_a_batch_depends_on_its_number_alone() -> None:
    draws = ScopeDraws(Draws(EXAMPLES, locality=1, seed=3), TfidfEncoder(), hard=0.5, seed=3)
    own = {each.pair[0] for each in EXAMPLES}
    asked = [prompt for prompt, _ in draws.take(0, 2_000).in_scope]
    assert 900 < sum(prompt in own for prompt in asked) < 1_100
    again = ScopeDraws(Draws(EXAMPLES, locality=1, seed=3), TfidfEncoder(), hard=0.5, seed=3)
    assert again.take(40, 5) == draws.take(40, 5)
    assert again.take(40, 3).in_scope == draws.take(40, 5).in_scope[:3]
    assert ScopeDraws(Draws(EXAMPLES, locality=1, seed=4), TfidfEncoder(), hard=0.5, seed=4).take(40, 5) != draws.take(
        40, 5
    )


def test_a_single_edit_has_what_should_stay_as_its_only_negative() -> None:
    draws = ScopeDraws(Draws(EXAMPLES[:1], locality=1, seed=0), TfidfEncoder(), hard=1.0, seed=0)
    batch = draws.take(0, 6)
    assert set(batch.out_of_scope) <= {"Land0 lies in", "Land0 is old"}
    assert len(batch.out_of_scope) == 12
