"""MEMIT: its closed form for any keys and second moment, its targets, keys and shares through the models' modules."""

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
from editguard.errors import InvalidSettings, MethodRefused
from editguard.methods import Preparation, create
from editguard.methods.context_templates import prefix_contexts
from editguard.methods.emmet import exact_gain
from editguard.methods.keys import averaged_keys, subject_row, vectors
from editguard.methods.memit import PUBLISHED, Memit, MemitSettings, derived, ridge_gain
from editguard.methods.residual_spreading import block_or_mlp
from editguard.methods.settings import Shape, resolve
from editguard.methods.value_optimisation import optimise_values, value_problem
from editguard.methods.whitening import Whitening
from editguard.models import LanguageModel
from editguard.models.second_moment import SecondMoment, second_moments
from editguard.models.weights import LowRank

# ---- the closed form

Problem = tuple[Tensor, Tensor, Tensor, Whitening]
"""Residuals R (d_model, edits), keys K (d_ff, edits), second moment C (d_ff, d_ff), and C factorised."""


@st.composite
def drawn(draw: Callable[..., Any], most: int = 5) -> Problem:
    rows, columns = draw(st.sampled_from([(3, 7), (7, 6), (6, 6)]))
    edits = draw(st.integers(1, most))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    residuals, keys, root = (
        torch.randn(*size, generator=generator, dtype=torch.float64)
        for size in ((rows, edits), (columns, edits), (4 * columns, columns))
    )
    moment = SecondMoment(root.T @ root / len(root), len(root), "drawn")
    return residuals, keys, moment.matrix, Whitening.of(moment, 0.0)


NONE = torch.zeros(0, dtype=torch.float64)


def update(problem: Problem, weight: float, earlier: Tensor | None = None) -> Tensor:
    residuals, keys, _, whitening = problem
    return residuals @ ridge_gain(keys, whitening, weight, keys[:, :0] if earlier is None else earlier).T


close = torch.testing.assert_close


@given(drawn(), st.sampled_from([1e-3, 1.0, 300.0]))
@settings(deadline=None)
def test_the_update_solves_the_normal_equations(problem: Problem, weight: float) -> None:
    residuals, keys, moment, _ = problem
    close(update(problem, weight) @ (weight * moment + keys @ keys.T), residuals @ keys.T, rtol=1e-8, atol=1e-8)


@given(drawn(), st.sampled_from([1e-2, 1.0, 300.0]))
@settings(deadline=None)
def test_the_short_way_is_the_direct_one(problem: Problem, weight: float) -> None:
    residuals, keys, moment, _ = problem
    direct = residuals @ torch.linalg.solve(weight * moment + keys @ keys.T, keys).T
    close(update(problem, weight), direct, rtol=1e-8, atol=1e-9)


@given(drawn(most=3))
@settings(deadline=None)
def test_what_is_missing_falls_with_the_weight_and_the_update_with_its_inverse(problem: Problem) -> None:
    residuals, keys, _, _ = problem
    missing = [float((update(problem, weight) @ keys - residuals).norm()) for weight in (1e-7, 1e-5)]
    assert missing[1] == pytest.approx(100 * missing[0], rel=0.05)
    close(update(problem, 1e-10) @ keys, residuals, rtol=1e-5, atol=1e-5)
    small, smaller = (float(update(problem, weight).norm()) for weight in (1e8, 1e10))
    assert small == pytest.approx(100 * smaller, rel=1e-3)


@given(drawn(), st.sampled_from([1e-2, 1.0, 100.0]))
@settings(deadline=None)
def test_every_direction_of_the_keys_is_learnt_in_part_and_never_beyond(problem: Problem, weight: float) -> None:
    _, keys, _, whitening = problem
    gain = keys.T @ ridge_gain(keys, whitening, weight, keys[:, :0])
    values = torch.linalg.eigvalsh((gain + gain.T) / 2)
    assert values.min() > -1e-9
    assert values.max() < 1


@given(drawn(), st.sampled_from([1e-2, 10.0]))
@settings(deadline=None)
def test_the_update_has_the_rank_of_the_batch_and_rows_in_the_span_of_the_whitened_keys(
    problem: Problem, weight: float
) -> None:
    _, keys, _, whitening = problem
    found = update(problem, weight)
    assert torch.linalg.matrix_rank(found) <= keys.shape[1]
    basis, _ = torch.linalg.qr(whitening.solve(keys))
    close(found @ basis @ basis.T, found, rtol=1e-7, atol=1e-9)


@given(drawn(most=1), st.sampled_from([1e-2, 1.0, 50.0]))
@settings(deadline=None)
def test_one_edit_is_the_exact_one_made_smaller(problem: Problem, weight: float) -> None:
    residuals, keys, _, whitening = problem
    reach = float((keys.T @ whitening.solve(keys)).squeeze())
    exact = residuals @ exact_gain(keys, whitening)[0].T
    close(update(problem, weight), reach / (weight + reach) * exact, rtol=1e-8, atol=1e-10)


@given(drawn(), st.integers(2, 4))
@settings(deadline=None)
def test_copies_of_a_request_weigh_as_much_as_they_are_and_their_order_does_not_count(
    problem: Problem, copies: int
) -> None:
    residuals, keys, moment, whitening = problem
    many = (residuals.repeat(1, copies), keys.repeat(1, copies), moment, whitening)
    close(update(many, 3.0), update(problem, 3.0 / copies), rtol=1e-8, atol=1e-9)
    turned = (residuals.flip(1), keys.flip(1), moment, whitening)
    close(update(turned, 3.0), update(problem, 3.0), rtol=1e-8, atol=1e-9)
    opposed = (torch.cat([residuals, 3 * residuals], 1), keys.repeat(1, 2), moment, whitening)
    mean = (2 * residuals, keys, moment, whitening)
    close(update(opposed, 3.0), update(mean, 1.5), rtol=1e-8, atol=1e-9)


@given(drawn(most=2))
@settings(deadline=None)
def test_earlier_keys_count_like_remembered_ones(problem: Problem) -> None:
    residuals, keys, moment, _ = problem
    earlier = torch.randn(len(keys), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = update(problem, 2.0, earlier)
    system = 2.0 * moment + earlier @ earlier.T + keys @ keys.T
    close(found @ system, residuals @ keys.T, rtol=1e-8, atol=1e-8)
    assert (found @ earlier).norm() < (update(problem, 2.0) @ earlier).norm()


# ---- through the models

LAYERS = (1, 2)
SHORT: dict[str, Any] = {
    "layers": LAYERS,
    "steps": 6,
    "step_size": 0.2,
    "context_lengths": ((5, 3),),
    "shrinkage": 1e-3,
    "second_moment_weight": 0.5,
}
BARE: dict[str, Any] = {**SHORT, "context_lengths": (), "second_moment_weight": 1e-9}


def prepared(model: LanguageModel, texts: tuple[str, ...], given: dict[str, Any]) -> Memit:
    method = Memit(MemitSettings(**given))
    method.prepare(model, Preparation(texts=texts))
    return method


def factors(edited: EditedModel, layer: int) -> LowRank:
    delta = edited.edits[-1].changes[0].deltas[edited.model.anatomy.down_projection(layer).name]
    assert isinstance(delta, LowRank)
    return delta


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_one_layer_and_no_context_put_the_target_itself_at_the_subject(
    family: str, texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    dtype = torch.float32 if family == "gemma2" else torch.float64  # Gemma 2 masks badly in float64
    model = zoo.tiny(family, dtype=dtype)
    method = prepared(model, texts, {**BARE, "layers": (2,), "second_moment_weight": 1e-7})
    place = block_or_mlp(model)
    assert (place == "mlp") == model.anatomy.post_mlp_norm
    problems = [value_problem(model, fact, ("",)) for fact in facts]
    wanted = optimise_values(model, problems, method.settings.value_settings(place))
    edited = method.apply(EditedModel.original(model), facts)
    module = model.anatomy.block(2) if place == "block" else model.anatomy.down_projection(2).module
    with edited:
        [found] = vectors(model, [subject_row(model, fact) for fact in facts], [(module, "output")])
    assert edited.edits[0].record["target_place"] == place
    for one, output in zip(wanted, found, strict=True):
        tolerance = 1e-4 if dtype == torch.float64 else 1e-2
        close(output, one.value, rtol=tolerance, atol=tolerance)
        assert one.delta.norm() > 0.1


def test_the_first_layer_takes_its_share_of_the_residual_at_the_averaged_keys(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("gptj", dtype=torch.float64)
    method = prepared(model, texts, SHORT)
    contexts = prefix_contexts(model, lengths=SHORT["context_lengths"])
    problems = [value_problem(model, fact, contexts) for fact in facts]
    deltas = torch.stack(
        [one.delta for one in optimise_values(model, problems, method.settings.value_settings("block"))]
    )
    matrix = model.anatomy.down_projection(LAYERS[0])
    keys = averaged_keys(model, matrix, [problem.prompts for problem in problems]).T
    [moment] = second_moments(model, LAYERS[:1], texts, tokens=10 * model.anatomy.d_ff).values()
    system = SHORT["second_moment_weight"] * moment.shrunk(SHORT["shrinkage"]) + keys @ keys.T
    wanted = deltas.T / len(LAYERS) @ torch.linalg.solve(system, keys).T

    edited = method.apply(EditedModel.original(model), facts)
    close(factors(edited, LAYERS[0]).dense(), wanted, rtol=1e-6, atol=1e-8)
    assert len(contexts) == 4
    bare = averaged_keys(model, matrix, [problem.prompts[:1] for problem in problems]).T
    assert (bare - keys).norm() > 1e-2 * keys.norm()


def test_requests_in_another_order_give_the_same_weights(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("llama", dtype=torch.float64)
    method = prepared(model, texts, SHORT)
    one, other = (method.apply(EditedModel.original(model), order) for order in (facts, facts[::-1]))
    for layer in LAYERS:
        close(factors(one, layer).dense(), factors(other, layer).dense(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_targets_become_likelier_and_only_the_layers_matrices_change(
    family: str, texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny(family)
    method = prepared(
        model, texts, {**BARE, "steps": 15, "drift_weight": 0.0, "weight_decay": 0.0, "second_moment_weight": 1e-3}
    )
    before = {name: parameter.clone() for name, parameter in model.module.named_parameters()}
    edited = method.apply(EditedModel.original(model), facts)
    pairs = [(fact.text, fact.target) for fact in facts]
    was, now = EditedModel.original(model).score(pairs), edited.score(pairs)
    assert sum(sum(one.log_probs) for one in now) > sum(sum(one.log_probs) for one in was)
    edited.activate()
    changed = {name for name, parameter in model.module.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {model.anatomy.down_projection(layer).name for layer in LAYERS}


def test_with_earlier_keys_kept_a_second_edit_disturbs_the_first_less(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("gpt2", dtype=torch.float64)
    matrix = model.anatomy.down_projection(1)
    contexts = prefix_contexts(model, lengths=SHORT["context_lengths"])
    first = averaged_keys(model, matrix, [value_problem(model, facts[0], contexts).prompts]).T
    moved = []
    for keep in (False, True):
        method = prepared(model, texts, {**SHORT, "layers": (1,), "keep_earlier_keys": keep})
        chain = method.apply(EditedModel.original(model), facts[:1])
        chain = method.apply(chain, facts[1:2])
        moved.append(float((factors(chain, 1).dense() @ first).norm()))
        assert chain.edits[-1].record["layers"][0]["earlier_keys"] == int(keep)
        again = method.apply(chain.prefix(1), facts[1:2])
        assert torch.equal(factors(again, 1).dense(), factors(chain, 1).dense())
    assert moved[1] < 0.9 * moved[0]


# ---- settings


def test_published_values_are_those_of_the_models_own_width() -> None:
    recipe = Memit.recipe
    llama_2, llama_3, unknown = (
        resolve("memit", recipe, {}, Shape("llama", 32, 4096, d_ff=d_ff)) for d_ff in (11008, 14336, 999)
    )
    assert (llama_2.settings.step_size, llama_2.settings.clamp_factor) == (0.5, 4.0)
    assert (llama_3.settings.step_size, llama_3.settings.clamp_factor) == (0.1, 0.75)
    assert llama_3.provenance["step_size"].startswith("published: AlphaEdit")
    assert unknown.provenance["layers"].startswith("derived from depth")
    assert all(row.values["layers"][-1] < row.layers for row in PUBLISHED)


def test_a_model_of_unknown_size_gets_derived_layers_and_a_weight_by_the_width_of_its_keys(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("gpt2")
    method = create("memit", {"steps": 2}, model)
    assert method.settings.layers == (1,)
    for name in ("layers", "second_moment_weight", "weight_unit"):
        assert method.provenance[name].startswith("derived from depth")
    method.prepare(model, Preparation(texts=texts))
    record = method.apply(EditedModel.original(model), facts[:1]).edits[0].record
    assert record["layers"][0]["second_moment_weight"] == zoo.D_FF
    for layers in range(1, 120):
        found = derived(layers)["layers"][0]
        assert 1 <= len(found) <= 5
        assert list(found) == list(range(found[0], found[-1] + 1))
        assert found[0] >= 0
        assert found[-1] == layers // 3


@pytest.mark.parametrize(
    "bad",
    [
        {"layers": ()},
        {"layers": (3, 2)},
        {"layers": (2, 2)},
        {"layers": (-1, 0)},
        {"second_moment_weight": 0.0},
        {"shrinkage": 1.0},
        {"steps": 0},
        {"step_size": 0.0},
        {"clamp_factor": -1.0},
    ],
)
def test_impossible_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidSettings):
        MemitSettings(**bad)


def test_layers_beyond_the_model_and_missing_preparation_are_said(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("gpt2")
    beyond = Memit(MemitSettings(**{**SHORT, "layers": (3, 4)}))
    with pytest.raises(MethodRefused, match="layers 3, 4 of tiny-gpt2, which has layers 0 to 3"):
        beyond.prepare(model, Preparation(texts=texts))
    with pytest.raises(MethodRefused, match="layers 0 to 3"):
        beyond.apply(EditedModel.original(model), facts)
    with pytest.raises(MethodRefused, match="not prepared"):
        Memit(MemitSettings(**SHORT)).apply(EditedModel.original(model), facts)
    with pytest.raises(MethodRefused, match="memit needs running text"):
        Memit(MemitSettings(**SHORT)).prepare(model, Preparation())
    model.weights.verify()
