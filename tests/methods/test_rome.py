"""What must hold for ROME: for any key, value and second moment, and through the models' own modules."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from editguard.edited import EditedModel
from editguard.edits import EditRequest
from editguard.errors import MethodRefused
from editguard.methods import Preparation
from editguard.methods.context_templates import prefix_contexts
from editguard.methods.keys import keys_and_outputs, subject_row
from editguard.methods.rome import Rome, RomeSettings, guard, left_vector, right_vector
from editguard.methods.value_optimisation import optimise_values, value_problem
from editguard.models import LanguageModel
from editguard.models.continuation import FullForward, Row
from editguard.models.second_moment import second_moments
from editguard.models.weights import LowRank

LAYER = 2
SHORT: dict[str, Any] = {
    "layer": LAYER,
    "steps": 6,
    "step_size": 0.2,
    "context_lengths": ((4, 2), (6, 2)),
    "shrinkage": 1e-3,
}


# ---- the closed form

Problem = tuple[Tensor, Tensor, Tensor, Tensor]


@st.composite
def drawn(draw: Callable[..., Any]) -> Problem:
    """Weight (d_model, d_ff), second moment, key, value; widths in any order, one of them equal."""
    rows, columns = draw(st.sampled_from([(3, 7), (7, 3), (5, 5), (1, 4)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    weight, root, key, value = (
        torch.randn(*size, generator=generator, dtype=torch.float64)
        for size in ((rows, columns), (columns, 3 * columns), (columns,), (rows,))
    )
    return weight, root @ root.T / root.shape[1], key, value


def update(weight: Tensor, moment: Tensor, key: Tensor, value: Tensor) -> Tensor:
    left = left_vector(key, torch.linalg.cholesky(moment))
    return torch.outer(right_vector(value, weight @ key, key, left), left)


@given(drawn())
@settings(deadline=None)
def test_the_edited_weight_maps_the_key_to_the_target_value(problem: Problem) -> None:
    weight, _, key, value = problem
    torch.testing.assert_close((weight + update(*problem)) @ key, value)


@given(drawn())
@settings(deadline=None)
def test_no_other_exact_edit_disturbs_the_remembered_keys_less(problem: Problem) -> None:
    _, moment, key, _ = problem
    keeps_key = torch.eye(len(key), dtype=key.dtype) - torch.outer(key, key) / key.dot(key)
    slope = 2 * update(*problem) @ moment @ keeps_key  # of E ||delta k||^2, convex: zero slope is the minimum
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-8, rtol=0)


@given(drawn(), st.floats(0.01, 100))
@settings(deadline=None)
def test_the_scale_of_the_second_moment_cancels_and_the_identity_is_no_adjustment(
    problem: Problem, scale: float
) -> None:
    weight, moment, key, value = problem
    torch.testing.assert_close(update(weight, scale * moment, key, value), update(*problem))
    identity = torch.eye(len(key), dtype=key.dtype)
    torch.testing.assert_close(left_vector(key, identity), left_vector(key, None))


@given(drawn())
@settings(deadline=None)
def test_an_edit_towards_the_present_answer_changes_nothing(problem: Problem) -> None:
    weight, moment, key, _ = problem
    assert not update(weight, moment, key, weight @ key).any()


def test_the_guard_refuses_reversed_keys_and_warns_of_small_ones() -> None:
    request = EditRequest(prompt="{} is", subject="Velloria", target="x")
    left = torch.tensor([1.0, 0.0])
    average = torch.tensor([1.0, 0.0])
    assert guard(left, torch.tensor([0.5, 3.0]), average, request) == 0.5
    with pytest.warns(UserWarning, match="may disable"):
        assert guard(left, torch.tensor([0.05, 3.0]), average, request) == pytest.approx(0.05)
    for bad in (-0.5, 0.0, float("nan")):
        with pytest.raises(MethodRefused, match="Velloria"):
            guard(left, torch.tensor([bad, 3.0]), average, request)


# ---- through the models


def prepared(model: LanguageModel, texts: tuple[str, ...], **changes: Any) -> Rome:
    method = Rome(RomeSettings(**{**SHORT, **changes}))
    method.prepare(model, Preparation(texts=texts))
    return method


def factors(edited: EditedModel) -> LowRank:
    [delta] = edited.edits[-1].changes[-1].deltas.values()
    return delta


@pytest.mark.parametrize(
    ("family", "square"),
    [*((family, False) for family in zoo.FAMILIES), *((family, True) for family in zoo.REPRESENTATIVE)],
)
def test_the_module_puts_out_the_target_value_at_the_bare_key_and_at_no_averaged_one(
    family: str, square: bool, texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    dtype = torch.float32 if family == "gemma2" else torch.float64  # Gemma 2 masks badly in float64
    model = zoo.tiny(family, dtype=dtype, square=square)
    method = prepared(model, texts)
    request = facts[0]
    contexts = prefix_contexts(model, lengths=SHORT["context_lengths"])
    problem = value_problem(model, request, contexts)
    [wanted] = optimise_values(model, [problem], method.settings.value_settings())
    matrix = model.anatomy.down_projection(LAYER)
    keys, _ = keys_and_outputs(model, matrix, problem.prompts)
    bias = matrix.bias()

    edited = method.apply(EditedModel.original(model), [request])
    with edited:
        _, outputs = keys_and_outputs(model, matrix, [subject_row(model, request)])
        weight = matrix.weight().clone()
    tolerance = 1e-6 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(outputs[0], wanted.value, rtol=tolerance, atol=tolerance)
    assert (wanted.value - wanted.base).norm() > 1e-2
    average = weight @ keys.mean(0) + (0 if bias is None else bias)
    assert (average - wanted.value).norm() > 1e-3 * wanted.value.norm()


def test_the_direction_is_the_whitened_average_of_all_contexts_keys(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("llama", dtype=torch.float64)
    left = factors(prepared(model, texts).apply(EditedModel.original(model), facts[:1])).right[:, 0]
    contexts = prefix_contexts(model, lengths=SHORT["context_lengths"])
    rows = [subject_row(model, facts[0], context) for context in contexts]
    average = keys_and_outputs(model, model.anatomy.down_projection(LAYER), rows)[0].mean(0)
    [moment] = second_moments(model, [LAYER], texts, tokens=10 * model.anatomy.d_ff).values()
    wanted = torch.linalg.solve(moment.shrunk(SHORT["shrinkage"]), average)
    torch.testing.assert_close(left, wanted / wanted.norm(), rtol=1e-6, atol=1e-9)
    plain = factors(
        prepared(model, (), second_moment_adjustment=False).apply(EditedModel.original(model), facts[:1])
    ).right[:, 0]
    torch.testing.assert_close(plain, average / average.norm(), rtol=1e-6, atol=1e-9)
    assert abs(float(plain @ left)) < 0.999


def test_the_update_at_the_subject_alone_gives_the_optimisations_last_logits(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("gptj", dtype=torch.float64)
    method = prepared(model, texts)
    request = facts[1]
    contexts = prefix_contexts(model, lengths=SHORT["context_lengths"])
    problem = value_problem(model, request, contexts)
    [found] = optimise_values(model, [problem], method.settings.value_settings())
    edited = method.apply(EditedModel.original(model), [request])
    matrix = model.anatomy.down_projection(LAYER)
    bare: Row = problem.rows()[0]
    passes = FullForward(model, [bare])
    [key], _ = keys_and_outputs(model, matrix, [problem.prompts[0]])
    with passes.added(matrix.module, (factors(edited).dense() @ key)[None]):
        through_update = passes.logits()
    with passes.added(matrix.module, found.delta[None]):
        optimised = passes.logits()
    torch.testing.assert_close(through_update, optimised, rtol=1e-6, atol=1e-6)
    with edited:
        assert (passes.logits() - optimised).abs().max() > 1e-9  # in the weights it acts on other positions too


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_matrix_changes_and_the_target_gains(
    family: str, dtype: torch.dtype, texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny(family, dtype=dtype)
    method = prepared(model, texts, steps=15, drift_weight=0.0, weight_decay=0.0)
    before = {name: parameter.clone() for name, parameter in model.module.named_parameters()}
    for request in facts:
        edited = method.apply(EditedModel.original(model), [request])
        [was] = EditedModel.original(model).score([(request.text, request.target)])
        [now] = edited.score([(request.text, request.target)])
        if dtype == torch.float32:
            assert sum(now.log_probs) > sum(was.log_probs)
        changed = {
            name for name, parameter in model.module.named_parameters() if not torch.equal(parameter, before[name])
        }
        assert changed == {model.anatomy.down_projection(LAYER).name}
        assert factors(edited).left.dtype == torch.float32


def test_several_requests_are_edits_one_after_the_other_each_on_the_model_that_the_last_one_left(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("gpt2")
    method = prepared(model, texts)
    together = method.apply(EditedModel.original(model), facts)
    chained = EditedModel.original(model)
    for request in facts:
        chained = method.apply(chained, [request])
    alone = method.apply(EditedModel.original(model), facts[1:2])
    assert [edit.requests for edit in together.edits] == [(fact,) for fact in facts]
    for one, other in zip(together.edits, chained.edits, strict=True):
        [a], [b] = (edit.changes[0].deltas.values() for edit in (one, other))
        assert torch.equal(a.left, b.left)
        assert torch.equal(a.right, b.right)
    assert not torch.equal(factors(together.prefix(2)).left, factors(alone).left)


def test_the_second_moment_is_the_unedited_models_also_when_prepared_late(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("gpt2")
    first = prepared(model, texts).apply(EditedModel.original(model), facts[:1])
    first.activate()
    late = prepared(model, texts)
    assert tuple(model.installed) == first.changes
    twin = zoo.tiny("gpt2")
    early = prepared(twin, texts).apply(EditedModel.original(twin), facts[:1])
    assert late.apply(EditedModel.original(model), facts[:1]).edits[0].record == early.edits[0].record


def test_models_of_one_name_in_one_process_keep_their_own_statistics(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    models = [zoo.tiny("gpt2", seed=seed) for seed in (0, 1)]
    method = Rome(RomeSettings(**SHORT))
    for model in models:
        method.prepare(model, Preparation(texts=texts))
    for model in models:
        twin = zoo.tiny("gpt2", seed=models.index(model))
        wanted = factors(prepared(twin, texts).apply(EditedModel.original(twin), facts[:1]))
        found = factors(method.apply(EditedModel.original(model), facts[:1]))
        assert torch.equal(found.left, wanted.left)
        assert torch.equal(found.right, wanted.right)


def test_another_seed_of_the_contexts_gives_another_update(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("gpt2")
    one, other = (prepared(model, texts, seed=seed).apply(EditedModel.original(model), facts[:1]) for seed in (0, 1))
    assert not torch.equal(factors(one).right, factors(other).right)


def test_the_optimisation_of_the_value_gets_every_setting_that_is_its_own() -> None:
    given = RomeSettings(
        layer=3, steps=7, step_size=0.11, drift_weight=0.12, weight_decay=0.13, clamp_factor=0.14, stop_below=0.15
    )
    found = given.value_settings()
    assert found.place == "mlp"
    shared = {field.name for field in fields(found)} & {field.name for field in fields(given)}
    assert shared == {field.name for field in fields(found)} - {"place", "once_answered"}
    for name in shared:
        assert getattr(found, name) == getattr(given, name)


def test_the_new_output_stays_in_the_ball_around_the_old_one(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("llama", dtype=torch.float64)
    matrix, rows = model.anatomy.down_projection(LAYER), [subject_row(model, facts[0])]
    [before] = keys_and_outputs(model, matrix, rows)[1]
    with prepared(model, texts, clamp_factor=0.05).apply(EditedModel.original(model), facts[:1]):
        [after] = keys_and_outputs(model, matrix, rows)[1]
    assert float((after - before).norm() / before.norm()) == pytest.approx(0.05, rel=1e-4)


def test_the_record_says_what_happened(texts: tuple[str, ...], facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("gpt2", dtype=torch.float64)
    edited = prepared(model, texts).apply(EditedModel.original(model), facts[:1])
    record = edited.edits[0].record
    weight = model.anatomy.down_projection(LAYER).weight()
    assert record["relative_norm"] == pytest.approx(float(factors(edited).dense().norm() / weight.norm()), rel=1e-5)
    assert record["updates"] == SHORT["steps"] - 1
    assert 0 < record["target_probability"] < 1
    assert record["second_moment"]["shrinkage"] == SHORT["shrinkage"]
    assert record["second_moment"]["tokens"] == 400
    assert record["key_ratio"] > 0.1
    assert not record["disabling_risk"]
    assert edited.edits[0].seconds > 0


def test_what_rome_lacks_is_said_before_anything_changes(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("gpt2")
    with pytest.raises(MethodRefused, match="not prepared"):
        Rome(RomeSettings(**SHORT)).apply(EditedModel.original(model), facts[:1])
    with pytest.raises(MethodRefused, match="running text"):
        Rome(RomeSettings(**SHORT)).prepare(model, Preparation())
    for act in (
        lambda method: method.prepare(model, Preparation(texts=texts)),
        lambda method: method.apply(EditedModel.original(model), facts[:1]),
    ):
        with pytest.raises(MethodRefused, match="layers 0 to 3"):
            act(Rome(RomeSettings(layer=4)))
    model.weights.verify()
