"""R-ROME and p-ROME: one key throughout, exact where ROME is not."""

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
from editguard.errors import MethodRefused
from editguard.methods import Preparation, create
from editguard.methods.context_templates import prefix_contexts
from editguard.methods.keys import keys_and_outputs
from editguard.methods.r_rome import RRome, RRomeSettings, averaged_key, prompt_key
from editguard.methods.rome import Rome, RomeSettings, guard, left_vector, mixed_keys
from editguard.methods.value_optimisation import ValueProblem, optimise_values, value_problem
from editguard.models import LanguageModel
from editguard.models.weights import LowRank

LAYER = 2
SHORT: dict[str, Any] = {
    "layer": LAYER,
    "steps": 6,
    "step_size": 0.2,
    "context_lengths": ((4, 2), (6, 2)),
    "shrinkage": 1e-3,
}


@st.composite
def drawn(draw: Callable[..., Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Keys (contexts, d_ff), outputs (contexts, d_model), and a second moment (d_ff, d_ff), positive definite."""
    contexts, d_ff, d_model = draw(st.sampled_from([(1, 3, 2), (4, 5, 3), (21, 7, 7)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    keys, outputs, root = (
        torch.randn(*size, generator=generator, dtype=torch.float64)
        for size in ((contexts, d_ff), (contexts, d_model), (d_ff, 2 * d_ff))
    )
    return keys, outputs, root @ root.T / d_ff + 1e-3 * torch.eye(d_ff)


@given(drawn())
@settings(deadline=None)
def test_u_dot_k_is_positive_for_any_keys_and_any_second_moment(problem: tuple[Tensor, Tensor, Tensor]) -> None:
    keys, outputs, moment = problem
    for associate in (averaged_key, prompt_key):
        pair = associate(keys, outputs)
        assert torch.dot(left_vector(pair.direction, torch.linalg.cholesky(moment)), pair.key) > 0


def test_roms_mixture_of_keys_may_point_backwards_where_r_rome_does_not() -> None:
    keys = torch.tensor([[-1.0, 0.2], [2.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    outputs = torch.zeros(3, 4, dtype=torch.float64)
    request = EditRequest(prompt="{} is", subject="Velloria", target="x")
    mixed = mixed_keys(keys, outputs)
    with pytest.raises(MethodRefused, match="points away"):
        guard(left_vector(mixed.direction, None), mixed.key, mixed.direction, request)
    pair = averaged_key(keys, outputs)
    assert torch.dot(left_vector(pair.direction, None), pair.key) > 0.9


def prepared(model: LanguageModel, texts: tuple[str, ...], **changes: Any) -> RRome:
    method = RRome(RRomeSettings(**{**SHORT, **changes}))
    method.prepare(model, Preparation(texts=texts))
    return method


def factors(edited: EditedModel) -> LowRank:
    [delta] = edited.edits[-1].changes[-1].deltas.values()
    return delta


def problem_of(model: LanguageModel, request: EditRequest) -> ValueProblem:
    return value_problem(model, request, prefix_contexts(model, lengths=SHORT["context_lengths"]))


@pytest.mark.parametrize(
    ("family", "square"), [(family, square) for family in zoo.REPRESENTATIVE for square in (False, True)]
)
@pytest.mark.parametrize("key", ["averaged", "prompt"])
def test_the_new_matrix_puts_out_the_new_value_at_its_own_key_and_at_no_other(
    family: str, square: bool, key: str, texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny(family, dtype=torch.float64, square=square)
    method = prepared(model, texts, key=key)
    problem = problem_of(model, facts[0])
    [found] = optimise_values(model, [problem], method.settings.value_settings())
    matrix = model.anatomy.down_projection(LAYER)
    keys, outputs = keys_and_outputs(model, matrix, problem.prompts)
    with method.apply(EditedModel.original(model), facts[:1]):
        weight = matrix.weight().detach().clone()
        bias = matrix.bias()
        _, through_module = keys_and_outputs(model, matrix, problem.prompts)
    at = {
        name: weight @ each + (0 if bias is None else bias.detach())
        for name, each in {"averaged": keys.mean(0), "prompt": keys[0]}.items()
    }
    wanted = found.base + found.delta
    torch.testing.assert_close(at.pop(key), wanted, rtol=1e-6, atol=1e-6)
    [other] = at.values()
    assert (other - wanted).norm() > 1e-3 * wanted.norm()
    now = through_module.mean(0) if key == "averaged" else through_module[0]
    torch.testing.assert_close(now, wanted, rtol=1e-6, atol=1e-6)  # by the module's own orientation
    assert (outputs.mean(0) - outputs[0]).norm() > 1e-3


def test_the_update_is_the_one_of_least_disturbance_that_is_exact(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("llama", dtype=torch.float64)
    method = prepared(model, texts)
    matrix = model.anatomy.down_projection(LAYER)
    keys, _ = keys_and_outputs(model, matrix, problem_of(model, facts[0]).prompts)
    update = factors(method.apply(EditedModel.original(model), facts[:1])).dense()
    lower = method._insertion._whitening(model).lower
    key = keys.mean(0)
    keeps_key = torch.eye(len(key), dtype=key.dtype) - torch.outer(key, key) / key.dot(key)
    slope = update @ (lower @ lower.T) @ keeps_key
    assert slope.norm() < 1e-6 * (update @ (lower @ lower.T)).norm()


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_with_the_bare_prompt_as_the_only_context_all_three_are_one(
    family: str, texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny(family, dtype=torch.float64)
    alone = {**SHORT, "context_lengths": ()}
    rome = Rome(RomeSettings(**alone))
    rome.prepare(model, Preparation(texts=texts))
    updates = [
        factors(method.apply(EditedModel.original(model), facts[1:2])).dense()
        for method in (rome, prepared(model, texts, **alone), prepared(model, texts, **alone, key="prompt"))
    ]
    assert updates[0].norm() > 1e-3
    for update in updates[1:]:
        torch.testing.assert_close(update, updates[0], rtol=1e-9, atol=1e-12)


def test_with_several_contexts_the_three_differ(texts: tuple[str, ...], facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("gpt2", dtype=torch.float64)
    rome = Rome(RomeSettings(**SHORT))
    rome.prepare(model, Preparation(texts=texts))
    original = EditedModel.original(model)
    of_rome, of_r_rome, of_p_rome = (
        factors(method.apply(original, facts[:1])).dense()
        for method in (rome, prepared(model, texts), prepared(model, texts, key="prompt"))
    )
    for one, other in ((of_rome, of_r_rome), (of_rome, of_p_rome), (of_r_rome, of_p_rome)):
        assert (one - other).norm() > 1e-3 * one.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_one_matrix_changes_and_neither_bias_nor_any_other_parameter(
    family: str, dtype: torch.dtype, texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny(family, dtype=dtype)
    before = {name: parameter.clone() for name, parameter in model.module.named_parameters()}
    with prepared(model, texts).apply(EditedModel.original(model), facts[:1]) as edited:
        assert factors(edited).right.shape[1] == 1
        changed = {
            name for name, parameter in model.module.named_parameters() if not torch.equal(parameter, before[name])
        }
    assert changed == {model.anatomy.down_projection(LAYER).name}


def test_the_record_names_the_method_and_a_single_key(texts: tuple[str, ...], facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("gpt2")
    [edit] = prepared(model, texts).apply(EditedModel.original(model), facts[:1]).edits
    assert edit.method == "r-rome"
    assert edit.record["settings"]["key"] == "averaged"
    assert edit.record["key_ratio"] == 1.0
    assert edit.record["u_dot_key"] > 0
    with pytest.raises(MethodRefused, match="r-rome should edit layer 7"):
        create("r-rome", {"layer": 7}, model).prepare(model, Preparation(texts=texts))
