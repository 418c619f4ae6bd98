"""EMMET: exact insertion of several keys with the least disturbance, and what happens where that is impossible."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from editguard.edited import EditedModel
from editguard.edits import EditRequest
from editguard.errors import InvalidSettings
from editguard.methods import Preparation, create
from editguard.methods.emmet import Emmet, EmmetSettings, exact_gain
from editguard.methods.keys import averaged_keys, subject_row, vectors
from editguard.methods.memit import Memit, MemitSettings, ridge_gain
from editguard.methods.rome import left_vector, right_vector
from editguard.methods.value_optimisation import optimise_values, value_problem
from editguard.methods.whitening import Whitening
from editguard.models import LanguageModel
from editguard.models.second_moment import SecondMoment, second_moments
from editguard.models.weights import LowRank

close = torch.testing.assert_close
Problem = tuple[Tensor, Tensor, SecondMoment]


@st.composite
def drawn(draw: Callable[..., Any], most: int = 4) -> Problem:
    """Residuals (d_model, edits), keys (d_ff, edits), second moment."""
    rows, columns = draw(st.sampled_from([(3, 7), (7, 6), (6, 6)]))
    edits = draw(st.integers(1, most))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    residuals, keys, root = (
        torch.randn(*size, generator=generator, dtype=torch.float64)
        for size in ((rows, edits), (columns, edits), (4 * columns, columns))
    )
    return residuals, keys, SecondMoment(root.T @ root / len(root), len(root), "drawn")


def update(problem: Problem) -> Tensor:
    residuals, keys, moment = problem
    return residuals @ exact_gain(keys, Whitening.of(moment, 0.0))[0].T


@given(drawn())
@settings(deadline=None)
def test_every_key_gets_its_residual_exactly(problem: Problem) -> None:
    residuals, keys, _ = problem
    close(update(problem) @ keys, residuals, rtol=1e-7, atol=1e-7)


@given(drawn())
@settings(deadline=None)
def test_no_other_exact_update_disturbs_the_remembered_keys_less(problem: Problem) -> None:
    _, keys, moment = problem
    basis, _ = torch.linalg.qr(keys)
    keeps = torch.eye(len(keys), dtype=keys.dtype) - basis @ basis.T  # changes that leave all keys' outputs
    found = update(problem)
    slope = 2 * found @ moment.matrix @ keeps  # of E ||Delta k||^2, convex: zero slope is the minimum
    close(slope, torch.zeros_like(slope), atol=1e-7 * float(1 + found.norm()), rtol=0)


@given(drawn(), st.floats(0.01, 100))
@settings(deadline=None)
def test_the_scale_of_the_second_moment_cancels(problem: Problem, scale: float) -> None:
    residuals, keys, moment = problem
    scaled = SecondMoment(scale * moment.matrix, moment.tokens, "scaled")
    close(update((residuals, keys, scaled)), update(problem), rtol=1e-7, atol=1e-8)


@given(drawn(most=1))
@settings(deadline=None)
def test_one_edit_is_romes_closed_form_with_one_key(problem: Problem) -> None:
    residuals, keys, moment = problem
    key = keys[:, 0]
    left = left_vector(key, torch.linalg.cholesky(moment.matrix))
    right = right_vector(residuals[:, 0], torch.zeros(len(residuals), dtype=key.dtype), key, left)
    close(update(problem), torch.outer(right, left), rtol=1e-8, atol=1e-9)


@given(drawn(most=3))
@settings(deadline=None)
def test_it_is_the_limit_of_memit(problem: Problem) -> None:
    residuals, keys, moment = problem
    limit = residuals @ ridge_gain(keys, Whitening.of(moment, 0.0), 1e-10, keys[:, :0]).T
    close(update(problem), limit, rtol=1e-4, atol=1e-4)


@given(drawn(most=3), st.integers(0, 10**6))
@settings(deadline=None)
def test_dependent_keys_get_the_mean_of_what_is_asked_at_them(problem: Problem, seed: int) -> None:
    residuals, keys, moment = problem
    whitening = Whitening.of(moment, 0.0)
    noise = torch.randn(keys.shape, generator=torch.Generator().manual_seed(seed), dtype=keys.dtype)
    for repeated in (keys, keys + 1e-7 * noise):  # the same keys as two batches may compute them
        gain, rank = exact_gain(torch.cat([keys, repeated], dim=1), whitening)
        assert rank == keys.shape[1]
        found = torch.cat([residuals, 3 * residuals], dim=1) @ gain.T
        close(found @ keys, 2 * residuals, rtol=1e-4, atol=1e-4)


# ---- through the models

SHORT: dict[str, Any] = {
    "layers": (2,),
    "steps": 6,
    "step_size": 0.2,
    "context_lengths": (),
    "shrinkage": 1e-3,
}


def prepared(model: LanguageModel, texts: tuple[str, ...], **changes: Any) -> Emmet:
    method = Emmet(EmmetSettings(**{**SHORT, **changes}))
    method.prepare(model, Preparation(texts=texts))
    return method


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama", "gemma3_text", "opt_post_norm"])
def test_the_module_puts_out_every_target_of_a_batch(
    family: str, texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny(family, dtype=torch.float64)
    method = prepared(model, texts)
    edited = method.apply(EditedModel.original(model), facts)
    record = edited.edits[0].record
    place = record["target_place"]
    wanted = optimise_values(
        model, [value_problem(model, fact, ("",)) for fact in facts], method.settings.value_settings(place)
    )
    module = model.anatomy.block(2) if place == "block" else model.anatomy.down_projection(2).module
    with edited:
        [found] = vectors(model, [subject_row(model, fact) for fact in facts], [(module, "output")])
    close(found, torch.stack([one.value for one in wanted]), rtol=1e-5, atol=1e-5)
    assert record["layers"][0]["fit_residual"] < 1e-8
    assert record["layers"][0]["independent_keys"] == len(facts)
    assert max(record["residual_left"]) < 1e-5


def test_of_several_layers_each_is_written_with_its_own_second_moment(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("gpt2", dtype=torch.float64)
    layers = (1, 2)
    method = prepared(model, texts, layers=layers)
    deltas = method.apply(EditedModel.original(model), facts).edits[0].changes[0].deltas
    moments = second_moments(model, layers, texts, tokens=10 * model.anatomy.d_ff)
    below: dict[str, LowRank] = {}
    for layer in layers:
        matrix = model.anatomy.down_projection(layer)
        model.weights.push(below)
        keys = averaged_keys(model, matrix, [[subject_row(model, fact)] for fact in facts]).T
        model.weights.pop()
        wanted, _ = exact_gain(keys, Whitening.of(moments[layer], SHORT["shrinkage"]))
        close(deltas[matrix.name].right, wanted, rtol=1e-6, atol=1e-8)
        below[matrix.name] = deltas[matrix.name]


def test_as_released_it_is_memit_with_the_product_of_its_two_weights(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("gpt2", dtype=torch.float64)
    released = prepared(model, texts, emmet_lambda=0.1, second_moment_weight=400.0)
    memit = Memit(MemitSettings(**{**SHORT, "second_moment_weight": 40.0}))
    memit.prepare(model, Preparation(texts=texts))
    name = model.anatomy.down_projection(2).name
    one, other, strict = (
        method.apply(EditedModel.original(model), facts).edits[0].changes[0].deltas[name].dense()
        for method in (released, memit, prepared(model, texts))
    )
    close(one, other, rtol=1e-9, atol=1e-10)
    assert (strict - one).norm() > 0.1 * one.norm()


def test_two_wishes_at_one_key_are_warned_about_and_met_halfway(texts: tuple[str, ...]) -> None:
    model = zoo.tiny("gpt2", dtype=torch.float64)
    same_beginning = (
        EditRequest(prompt="{}'s capital is", subject="Velloria", target="Oskar"),
        EditRequest(prompt="{}, whose language is", subject="Velloria", target="Belmora"),
    )
    with pytest.warns(RuntimeWarning, match="2 keys of layer 2 have only 1 independent"):
        edited = prepared(model, texts).apply(EditedModel.original(model), same_beginning)
    assert edited.edits[0].record["layers"][0]["independent_keys"] == 1
    edited.activate()
    assert all(parameter.isfinite().all() for parameter in model.module.parameters())
    EditedModel.original(model).activate()


def test_the_layer_is_one_and_romes_by_default() -> None:
    assert create("emmet", {}, zoo.tiny("gpt2")).settings.layers == (1,)
    for bad in ({"emmet_lambda": -1.0}, {"second_moment_weight": 0.0}, {"shrinkage": 2.0}):
        with pytest.raises(InvalidSettings):
            EmmetSettings(**bad)
