"""Second moments as methods use them: factorised, kept for each model apart, and made anew from other data."""

from typing import Any

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from editguard.edited import EditedModel
from editguard.edits import EditRequest
from editguard.errors import MethodRefused, MissingMaterial
from editguard.methods import Preparation, whitening
from editguard.methods.rome import Rome, RomeSettings
from editguard.methods.whitening import LayerStatistics, Whitening, condition_number_at_least
from editguard.models.second_moment import SecondMoment


def moment(columns: int, seed: int, tokens: int = 200) -> SecondMoment:
    keys = torch.randn(tokens, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scaled = keys * torch.logspace(0, 1.5, columns, dtype=torch.float64)
    return SecondMoment(scaled.T @ scaled / tokens, tokens, f"moment {seed}")


@given(st.integers(1, 12), st.integers(0, 10**6), st.sampled_from([0.0, 1e-4, 1e-1]))
@settings(deadline=None)
def test_it_solves_with_the_shrunk_moment(columns: int, seed: int, shrinkage: float) -> None:
    c = moment(columns, seed)
    found = Whitening.of(c, shrinkage)
    right = torch.randn(columns, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    wanted = torch.linalg.solve(c.shrunk(shrinkage), right)
    torch.testing.assert_close(found.solve(right), wanted, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.solve(right[:, 0].float()), wanted[:, 0], rtol=1e-3, atol=1e-4)
    assert found.solve(right.float()).dtype == torch.float64


@given(st.integers(2, 12), st.integers(0, 10**6))
@settings(deadline=None)
def test_the_reported_condition_number_is_a_close_bound_from_below(columns: int, seed: int) -> None:
    c = moment(columns, seed)
    true = c.condition_number(1e-4)
    found = condition_number_at_least(torch.linalg.cholesky(c.shrunk(1e-4)))
    assert 0.5 * true <= found <= true * (1 + 1e-9)


def test_dead_units_are_counted_and_solved_with() -> None:
    c = moment(6, 0)
    dead = c.matrix.clone()
    dead[2], dead[:, 2] = 0, 0
    found = Whitening.of(SecondMoment(dead, 200, "dead"), 1e-2)
    assert found.record["dead_units"] == 1
    assert found.solve(torch.ones(6)).isfinite().all()
    with pytest.raises(MethodRefused, match="1 of 6 units never fire"):
        Whitening.of(SecondMoment(dead, 200, "dead"), 0.0)


# ---- what is kept


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The layers of every computation of second moments."""
    calls: list[list[int]] = []
    plain = whitening.second_moments

    def counted(model: Any, layers: Any, texts: Any, **options: Any) -> Any:
        calls.append(list(layers))
        return plain(model, layers, texts, **options)

    monkeypatch.setattr(whitening, "second_moments", counted)
    return calls


def test_all_layers_come_from_one_pass_and_the_same_data_costs_nothing_again(
    computed: list[list[int]], texts: tuple[str, ...]
) -> None:
    model, kept = zoo.tiny("gpt2"), LayerStatistics("toy", lambda c: c.matrix)
    data = Preparation(texts=texts)
    for again in (data, data, Preparation(texts=list(texts)), Preparation()):
        kept.prepare(model, [3, 1], again)
    assert computed == [[3, 1]]
    assert set(kept.of(model)) == {1, 3}


def test_a_corpus_that_can_be_read_only_once_is_enough(computed: list[list[int]], texts: tuple[str, ...]) -> None:
    model, kept = zoo.tiny("gpt2"), LayerStatistics("toy", lambda c: c.matrix)
    data = Preparation(texts=iter(texts))
    kept.prepare(model, [1], data)
    kept.prepare(model, [1], data)
    assert computed == [[1]]


@pytest.mark.parametrize("change", [{"texts": zoo.SENTENCES[:3]}, {"second_moment_tokens": 60}, {"seed": 8}])
def test_other_data_for_the_same_model_prepares_anew(change: dict[str, Any], texts: tuple[str, ...]) -> None:
    model, kept = zoo.tiny("gpt2"), LayerStatistics("toy", lambda c: c)
    first = {"texts": texts, "second_moment_tokens": 100, "seed": 1}
    kept.prepare(model, [1], Preparation(**first))
    before = kept.of(model)[1]
    kept.prepare(model, [1], Preparation(**{**first, **change}))
    after = kept.of(model)[1]
    assert after.key != before.key
    assert not torch.equal(after.matrix, before.matrix)
    fresh = LayerStatistics("toy", lambda c: c)
    fresh.prepare(model, [1], Preparation(**{**first, **change}))
    assert torch.equal(fresh.of(model)[1].matrix, after.matrix)


def test_rome_edits_by_the_texts_it_was_given_last(texts: tuple[str, ...], facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("gpt2")
    shared = Rome(RomeSettings(layer=1, steps=3, context_lengths=((4, 2),), shrinkage=1e-2))
    updates = []
    for corpus in (texts, texts[:4], texts):
        shared.prepare(model, Preparation(texts=corpus))
        [delta] = shared.apply(EditedModel.original(model), facts[:1]).edits[0].changes[0].deltas.values()
        updates.append(delta.dense())
    assert torch.equal(updates[0], updates[2])
    assert not torch.equal(updates[0], updates[1])


def test_models_are_kept_apart_and_what_is_missing_is_said(texts: tuple[str, ...]) -> None:
    models = [zoo.tiny("gpt2", seed=seed) for seed in (0, 1)]
    kept = LayerStatistics("toy", lambda c: c.matrix, alternative=", or courage")
    with pytest.raises(MissingMaterial, match=r"toy needs running text .*, or courage\."):
        kept.prepare(models[0], [1], Preparation())
    kept.prepare(models[0], [1], Preparation(texts=texts))
    with pytest.raises(MethodRefused, match="toy was not prepared"):
        kept.of(models[1])
    kept.prepare(models[1], [1], Preparation(texts=texts))
    assert not torch.equal(kept.of(models[0])[1], kept.of(models[1])[1])
