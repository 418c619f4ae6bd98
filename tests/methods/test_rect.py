"""RECT: which entries stay, and that they stay as they are, whatever method it wraps."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from editguard.edited import EditedModel, WeightDelta
from editguard.edits import EditRequest
from editguard.errors import InvalidSettings
from editguard.methods import Preparation, create, methods
from editguard.methods.memit import Memit
from editguard.methods.rect import MemitRect, Rect, RectSettings, most_changed, relative_change
from editguard.methods.rome import Rome
from editguard.methods.settings import Shape, joined, resolve
from editguard.models.weights import Dense, LowRank, Masked

ROME = {"layer": 2, "steps": 6, "step_size": 0.2, "context_lengths": ((4, 2),), "shrinkage": 1e-3}
MEMIT = {"layers": (1, 2), "steps": 4, "context_lengths": ((4, 2),), "shrinkage": 1e-2}


class RomeRect(Rect):
    """ROME with RECT after every request."""

    name = "rome-rect"
    inner = Rome
    batches = False
    recipe = joined(RectSettings, Rome.recipe, Rome.name)
    settings_type = recipe.type


@st.composite
def drawn(draw: Callable[..., Any]) -> tuple[Tensor, Tensor]:
    """Update and weight, of some shape; some weights are zero."""
    shape = draw(st.sampled_from([(3, 7), (8, 8), (25, 40), (11,)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    update, weight = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return update, weight * (torch.rand(shape, generator=generator) > 0.1)


def test_of_a_thousand_entries_without_ties_forty_percent_are_401() -> None:
    generator = torch.Generator().manual_seed(0)
    update, weight = (torch.randn(25, 40, generator=generator, dtype=torch.float64) for _ in range(2))
    assert int(most_changed(update, weight, 40.0).sum()) == 401


@given(drawn(), st.floats(0, 100))
@settings(deadline=None)
def test_what_stays_has_changed_more_than_all_that_goes_and_is_as_many_as_asked(
    problem: tuple[Tensor, Tensor], percent: float
) -> None:
    update, weight = problem
    kept = most_changed(update, weight, percent)
    by_hand = update.abs() / (weight.abs() + 1e-8)
    if kept.any() and not kept.all():
        assert by_hand[kept].min() > by_hand[~kept].max()
    if percent > 0:
        assert update.numel() * percent / 100 <= int(kept.sum()) <= update.numel() * percent / 100 + 2


@given(drawn())
@settings(deadline=None)
def test_all_stays_at_a_hundred_percent_and_nothing_at_none(problem: tuple[Tensor, Tensor]) -> None:
    assert most_changed(*problem, 100.0).all()
    assert not most_changed(*problem, 0.0).any()


def test_the_sign_of_a_weight_does_not_count() -> None:
    weight = torch.tensor([[1e-8, -1e-8, -2e-8, 1.0]])  # a signed weight plus epsilon would be zero or negative
    update = torch.full((1, 4), 1e-8)
    torch.testing.assert_close(relative_change(update, weight), torch.tensor([[0.5, 0.5, 1 / 3, 1e-8]]))


@given(drawn(), st.integers(0, 10**6))
@settings(deadline=None)
def test_a_masked_update_has_the_very_bytes_of_the_whole_one_and_zeros(
    problem: tuple[Tensor, Tensor], seed: int
) -> None:
    whole, _ = problem
    kept = torch.rand(whole.shape, generator=torch.Generator().manual_seed(seed)) > 0.5
    masked = Masked.keeping(Dense(whole), kept)
    assert torch.equal(masked.kept(), kept)
    assert torch.equal(masked.dense()[kept], whole[kept])
    assert not masked.dense()[~kept].any()
    assert masked.shape == tuple(whole.shape)
    assert masked.bits.numel() == (whole.numel() + 7) // 8


def rome_rect(model: Any, texts: tuple[str, ...], **own: Any) -> RomeRect:
    method = RomeRect(RomeRect.settings_type(**ROME, **own))
    method.prepare(model, Preparation(texts=texts))
    return method


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_kept_entries_change_as_the_inner_method_changes_them_and_the_others_keep_their_bytes(
    family: str, square: bool, texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny(family, square=square)
    original = EditedModel.original(model)
    rome = create("rome", ROME, model)
    rome.prepare(model, Preparation(texts=texts))
    whole = rome.apply(original, facts[:1])
    thinned = rome_rect(model, texts).apply(original, facts[:1])
    matrix = model.anatomy.down_projection(2)
    [of_rome], [of_rect] = (edited.edits[0].changes[0].deltas.values() for edited in (whole, thinned))
    before = matrix.weight().detach().clone()
    with whole:
        all_changed = matrix.weight().detach().clone()
    with thinned:
        now = matrix.weight().detach().clone()
    kept = of_rect.kept()
    share = thinned.edits[0].record["rect"]["share_kept"][matrix.name]
    assert share == pytest.approx(0.4, abs=2 / before.numel())
    assert float(kept.double().mean()) == share
    assert torch.equal(of_rect.dense()[kept], of_rome.dense()[kept])
    assert torch.equal(now[~kept], before[~kept])
    torch.testing.assert_close(now[kept], all_changed[kept], rtol=1e-6, atol=1e-7)
    ratio = of_rome.dense().abs() / before.abs()
    assert ratio[kept].min() >= ratio[~kept].max()


def test_everything_kept_is_the_inner_method_and_nothing_kept_no_edit(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("gpt2")
    original = EditedModel.original(model)
    rome = create("rome", {**ROME}, model)
    rome.prepare(model, Preparation(texts=texts))
    wanted = rome.apply(original, facts[:1]).edits[0].changes[0].deltas
    found = rome_rect(model, texts, kept_percent=100.0).apply(original, facts[:1]).edits[0].changes[0].deltas
    assert found.keys() == wanted.keys()
    for name, delta in found.items():
        assert torch.equal(delta.dense(), wanted[name].dense())
    pristine = model.weights.digest()
    with rome_rect(model, texts, kept_percent=0.0).apply(original, facts[:1]):
        assert model.weights.digest() == pristine


def test_every_request_that_the_inner_method_edits_alone_is_thinned_before_the_next(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("llama")
    method = rome_rect(model, texts)
    together = method.apply(EditedModel.original(model), facts)
    chained = EditedModel.original(model)
    for fact in facts:
        chained = method.apply(chained, [fact])
    assert [edit.requests for edit in together.edits] == [(fact,) for fact in facts]
    with together:
        found = model.weights.digest()
    with chained:
        assert model.weights.digest() == found
    whole = create("rome", ROME, model)
    whole.prepare(model, Preparation(texts=texts))
    on_whole = whole.apply(whole.apply(EditedModel.original(model), facts[:1]), facts[1:2])
    [second], [on_top] = (chain.edits[1].changes[0].deltas.values() for chain in (together, on_whole))
    assert not torch.equal(second.of.left, on_top.left)


def test_memits_batch_is_thinned_per_matrix_against_the_weights_before_it(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("gpt2")
    memit, rect = create("memit", MEMIT, model), create("memit-rect", {**MEMIT, "kept_percent": 25}, model)
    for method in (memit, rect):
        method.prepare(model, Preparation(texts=texts))
    first = rect.apply(EditedModel.original(model), facts[:1])
    with first:
        before = {layer: model.anatomy.down_projection(layer).weight().detach().clone() for layer in (1, 2)}
    whole, thinned = (method.apply(first, facts[1:]).edits[-1].changes[0].deltas for method in (memit, rect))
    assert len(whole) == 2
    for layer, weight in before.items():
        name = model.anatomy.down_projection(layer).name
        assert isinstance(whole[name], LowRank)
        assert torch.equal(thinned[name].kept(), most_changed(whole[name].dense(), weight, 25.0))
        assert torch.equal(thinned[name].of.left, whole[name].left)


def test_what_the_inner_method_remembers_stays_in_the_chain(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("gpt2")
    method = create("memit-rect", {**MEMIT, "keep_earlier_keys": True}, model)
    method.prepare(model, Preparation(texts=texts))
    chain = method.apply(method.apply(EditedModel.original(model), facts[:2]), facts[2:])
    assert [layer["earlier_keys"] for layer in chain.edits[1].record["layers"]] == [2, 2]
    assert [isinstance(change, WeightDelta) for change in chain.edits[0].changes] == [True, False]


# ---- the settings


def test_settings_of_both_are_one_table_with_the_origin_of_each(tmp_path: Path) -> None:
    (tmp_path / "editguard.toml").write_text(
        "[methods.memit-rect]\nkept_percent = 30\nsteps = 9\n[methods.memit]\nsteps = 3\nseed = 4\n"
    )
    found = resolve("memit-rect", MemitRect.recipe, {"clamp_factor": "0.5"}, Shape("gpt2", 48, 1600, tmp_path))
    inner = resolve("memit", Memit.recipe, {}, Shape("gpt2", 48, 1600))
    assert (found.settings.kept_percent, found.settings.steps, found.settings.clamp_factor) == (30.0, 9, 0.5)
    assert found.settings.seed == 4
    assert found.settings.layers == inner.settings.layers
    assert found.provenance.keys() == {field.name for field in fields(found.settings)}
    changed = {"kept_percent", "steps", "seed", "clamp_factor"}
    assert {name: found.provenance[name] for name in changed} == {
        "kept_percent": "model directory: editguard.toml",
        "steps": "model directory: editguard.toml",
        "seed": "model directory: editguard.toml, memit",
        "clamp_factor": "override",
    }
    for name in inner.provenance.keys() - changed:
        assert found.provenance[name] == inner.provenance[name]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"kept_percent": 101}, r"kept_percent lies in \[0, 100\]"),
        ({"kept_percent": "most"}, "kept_percent"),
        ({"steps": 0}, "steps is at least 1"),
        ({"keptpercent": 5}, "Did you mean 'kept_percent'"),
    ],
)
def test_impossible_settings_of_either_are_refused(override: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        create("memit-rect", override)


def test_two_dataclasses_with_one_name_cannot_be_joined() -> None:
    with pytest.raises(TypeError, match="kept_percent"):
        joined(RectSettings, MemitRect.recipe, "memit-rect")


def test_the_registry_agrees_with_the_class_on_batches() -> None:
    assert methods()["memit-rect"].batches == MemitRect.batches == methods()[MemitRect.inner.name].batches
