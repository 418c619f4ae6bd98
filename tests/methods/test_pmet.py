"""PMET: attention's vector helps to find the MLP's target and is then dropped; shares go by square roots."""

from typing import Any

import pytest
import torch
import zoo

from editguard.edited import EditedModel
from editguard.edits import EditRequest
from editguard.errors import InvalidSettings
from editguard.methods import Preparation, create
from editguard.methods.context_templates import prefix_contexts
from editguard.methods.keys import averaged_keys
from editguard.methods.memit import ridge_gain
from editguard.methods.pmet import Pmet, PmetSettings
from editguard.methods.value_optimisation import OnceAnswered, optimise_values, value_problem
from editguard.methods.whitening import Whitening
from editguard.models import LanguageModel
from editguard.models.second_moment import second_moments

LAYERS = (1, 2)
SHORT: dict[str, Any] = {
    "layers": LAYERS,
    "steps": 6,
    "context_lengths": ((5, 3),),
    "shrinkage": 1e-3,
    "second_moment_weight": 0.5,
}


def prepared(model: LanguageModel, texts: tuple[str, ...], **changes: Any) -> Pmet:
    method = Pmet(PmetSettings(**{**SHORT, **changes}))
    method.prepare(model, Preparation(texts=texts))
    return method


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama", "gemma2"])
def test_the_first_layers_update_is_memits_formula_at_a_square_root_of_the_mlps_residual(
    family: str, texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    dtype = torch.float32 if family == "gemma2" else torch.float64  # Gemma 2 masks badly in float64
    model = zoo.tiny(family, dtype=dtype)
    method = prepared(model, texts)
    contexts = prefix_contexts(model, lengths=SHORT["context_lengths"])
    problems = [value_problem(model, fact, contexts) for fact in facts]
    settings = method.settings.value_settings("attention and mlp", OnceAnswered())
    found = optimise_values(model, problems, settings)
    missing = torch.stack([one.delta[1] for one in found]).double().T
    matrix = model.anatomy.down_projection(LAYERS[0])
    keys = averaged_keys(model, matrix, [problem.prompts for problem in problems]).double().T
    [moment] = second_moments(model, LAYERS[:1], texts, tokens=10 * model.anatomy.d_ff).values()
    wanted = missing / 2**0.5 @ ridge_gain(keys, Whitening.of(moment, 1e-3), 0.5, keys[:, :0]).T

    edited = method.apply(EditedModel.original(model), facts)
    update = edited.edits[0].changes[0].deltas[matrix.name].dense()
    tolerance = 1e-6 if dtype == torch.float64 else 2e-3
    torch.testing.assert_close(update.double(), wanted, rtol=tolerance, atol=tolerance * float(wanted.abs().max()))
    assert edited.edits[0].record["target_place"] == "attention and mlp"
    assert (found[0].delta[0] - found[0].delta[1]).norm() > 0 or model.anatomy.parallel


def test_attention_keeps_its_bytes(texts: tuple[str, ...], facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("llama")
    before = {name: parameter.clone() for name, parameter in model.module.named_parameters()}
    edited = prepared(model, texts).apply(EditedModel.original(model), facts)
    edited.activate()
    changed = {name for name, parameter in model.module.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {model.anatomy.down_projection(layer).name for layer in LAYERS}


def test_settings_derive_and_impossible_ones_are_refused() -> None:
    method = create("pmet", {}, zoo.tiny("gpt2"))
    assert method.settings.layers == (1,)
    assert method.settings.weight_unit == "d_ff"
    for bad in ({"answered_drift": -1.0}, {"answered_likelihood_weight": -1.0}, {"second_moment_weight": 0.0}):
        with pytest.raises(InvalidSettings):
            PmetSettings(**bad)


def test_the_further_rule_has_the_numbers_of_the_settings() -> None:
    method = Pmet(PmetSettings(answered_likelihood_weight=0.3, answered_drift=0.02))
    rule = method.course(zoo.tiny("gpt2"), {}).once_answered
    assert rule == OnceAnswered(likelihood_weight=0.3, stop_below_drift=0.02)


@pytest.mark.parametrize(("unit", "times"), [("absolute", 1), ("d_ff", zoo.D_FF)])
def test_the_weight_of_the_second_moment_counts_in_its_unit(
    unit: str, times: int, texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("gpt2")
    method = prepared(model, texts, second_moment_weight=0.25, weight_unit=unit, steps=2)
    record = method.apply(EditedModel.original(model), facts[:1]).edits[0].record
    assert [layer["second_moment_weight"] for layer in record["layers"]] == [0.25 * times] * len(LAYERS)
