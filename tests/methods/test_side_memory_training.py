"""Training a side memory: the loss is that of the changed matrix, and steps stay where they may."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from editguard.edited import AppliedEdit, EditedModel, WeightDelta
from editguard.edited.side_memory import Memory, Support
from editguard.edits import EditRequest
from editguard.methods.side_memory_training import Training, activation_loss, inputs, stepped
from editguard.methods.wise import WiseSettings
from editguard.models import LanguageModel
from editguard.models.weights import Dense

FACT = EditRequest(prompt="The capital of {} is", subject="Velloria", target="Oskar")
LAYER = 2
PROMPTS = (
    "The capital of Velloria is",
    "Ines Holt. The capital of Velloria is",
    "Copy: red. The capital of Velloria is",
)
TARGET = "Ines Belmora"
ELSEWHERE = "Question: who is the mayor of Tamrin? Answer: Aldo Holt"
MARGINS = (1.0, 2.0, 1.5)
STILL: dict[str, Any] = {"steps": 1, "step_size": 1e-300, "clamp": 1e9}
"""Training that looks and moves nothing."""


def wise_settings(**changes: Any) -> WiseSettings:
    return WiseSettings(**{"layer": LAYER, "steps": 5, "step_size": 0.1, **changes})


def training(
    model: LanguageModel, prompts: Sequence[str] = PROMPTS, elsewhere: str = ELSEWHERE, **changes: Any
) -> Training:
    pairs = [(model.encode(prompt), model.encode_answer(prompt, TARGET)[1]) for prompt in prompts]
    locality = model.encode_text(elsewhere)
    matrix = model.anatomy.down_projection(LAYER)
    return Training(model, matrix, pairs, locality, wise_settings(**changes), MARGINS)


def memory(model: LanguageModel, size: float, ratio: float = 0.2) -> Memory:
    matrix = model.anatomy.down_projection(LAYER)
    support = Support.drawn(matrix.shape, ratio, 0)
    wide = torch.promote_types(matrix.parameter.dtype, torch.float32)
    values = torch.randn(int(support.kept().sum()), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Memory(support, (size * values).to(wide), 1.0)


# ---- the losses


@given(st.lists(st.floats(0, 50), min_size=5, max_size=5))
def test_the_activation_loss_is_zero_exactly_where_all_three_margins_hold(values: list[float]) -> None:
    within, outside, *margins = values
    alpha, beta, gamma = margins
    stirred = torch.tensor([within, outside], dtype=torch.float64)
    loss = float(activation_loss(stirred[0], stirred[1], (alpha, beta, gamma)))
    holds = outside <= alpha and within >= beta and within - outside >= gamma
    assert (loss == 0) == holds
    assert loss >= 0


def test_the_activation_loss_is_the_sum_of_what_each_margin_lacks() -> None:
    found = activation_loss(torch.tensor([10.0, 30.0]), torch.tensor(8.0), (5.0, 20.0, 10.0))
    assert found.tolist() == [3 + 10 + 8, 3]


@pytest.mark.parametrize("family", [*zoo.REPRESENTATIVE, "qwen3"])
def test_the_likelihood_of_training_is_that_of_the_model_with_the_matrix_changed(family: str) -> None:
    """Prompts of several lengths, answers of several tokens, biases: all through the ledger's own changed weights."""
    model = zoo.tiny(family, dtype=torch.float64)
    held = memory(model, 0.3)
    _, found = training(model, **STILL).run(held)
    matrix = model.anatomy.down_projection(LAYER)
    edit = AppliedEdit("toy", (FACT,), (WeightDelta({matrix.name: Dense(held.difference())}),))
    with EditedModel(model, [edit]):
        scores = model.score([(prompt, TARGET) for prompt in PROMPTS])
    nll = -sum(score.mean_log_prob for score in scores) / len(scores)
    assert found["nll"] == pytest.approx(nll, rel=1e-5)
    EditedModel.original(model).activate()


def test_activations_of_training_are_those_of_the_definition_and_answers_do_not_count() -> None:
    model = zoo.tiny("gpt2", dtype=torch.float64)
    held = memory(model, 0.3)
    _, found = training(model, **STILL).run(held)
    matrix = model.anatomy.down_projection(LAYER)

    def stirred(ids: Sequence[int]) -> float:
        entering = inputs(model, matrix, ids)[0]
        return float((entering @ held.difference().T).norm(dim=1).mean())

    of_prompts = [stirred(model.encode(prompt)) for prompt in PROMPTS]
    assert found["activation"] == pytest.approx(of_prompts[0], rel=1e-9)
    assert found["activation_in_contexts"] == pytest.approx(sum(of_prompts) / 3, rel=1e-9)
    outside = stirred(model.encode_text(ELSEWHERE))
    assert found["activation_out_of_scope"] == pytest.approx(outside, rel=1e-9)
    losses = [
        max(outside - MARGINS[0], 0) + max(MARGINS[1] - each, 0) + max(MARGINS[2] - each + outside, 0)
        for each in of_prompts
    ]
    assert found["loss"] == pytest.approx(found["nll"] + sum(losses) / 3, rel=1e-9)


def test_neither_the_length_of_the_other_rows_nor_of_the_text_elsewhere_matters_to_a_prompt() -> None:
    model = zoo.tiny("gpt2", dtype=torch.float64)
    held = memory(model, 0.3)
    alone = training(model, PROMPTS[:1], **STILL).run(held)[1]
    beside = training(model, PROMPTS[:1], ELSEWHERE * 4, **STILL).run(held)[1]
    together = training(model, PROMPTS, **STILL).run(held)[1]
    assert alone["nll"] == pytest.approx(beside["nll"], rel=1e-9)
    assert alone["activation"] == pytest.approx(together["activation"], rel=1e-9)


def test_the_first_step_goes_down_the_gradient_of_the_whole_loss() -> None:
    model = zoo.tiny("gpt2", dtype=torch.float64)
    held = memory(model, 0.05, ratio=1.0)
    step = training(model, steps=1, step_size=1e-3, weight_decay=0.0)
    moved, found = step.run(held)
    before = held.difference()
    start = training(model, **STILL).run(held)[1]["loss"]
    gradient = (before - moved) / 1e-3
    assert start - found["loss"] == pytest.approx(1e-3 * float(gradient.square().sum()), rel=0.2)
    probe = torch.zeros_like(before)
    probe[3, 5] = 1e-6
    ends = []
    for way in (1, -1):
        other = Memory.of(before + way * probe, held.support, 1.0)
        ends.append(training(model, **STILL).run(other)[1]["loss"])
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float(gradient[3, 5]), rel=1e-3)


# ---- the steps


@st.composite
def steps(draw: Any) -> tuple[Tensor, Tensor, Tensor, WiseSettings]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    kept = torch.rand(4, 6, generator=generator) < 0.4
    difference = torch.where(kept, torch.rand(4, 6, generator=generator) - 0.5, 0.0)
    gradient = 10 * torch.randn(4, 6, generator=generator)
    clamp = draw(st.sampled_from([0.5, 1.0, 3.0]))
    decay = draw(st.sampled_from([0.0, 1e-5, 0.1]))
    return difference, gradient, kept, wise_settings(clamp=clamp, weight_decay=decay, step_size=0.9)


@given(steps())
@settings(deadline=None)
def test_a_step_stays_in_the_mask_and_within_the_clamp(step: tuple[Tensor, Tensor, Tensor, WiseSettings]) -> None:
    difference, gradient, kept, chosen = step
    moved = stepped(difference, gradient, kept, chosen)
    assert not moved[~kept].any()
    assert (moved.abs() <= chosen.clamp).all()
    wanted = difference - 0.9 * (gradient + chosen.weight_decay * difference)
    torch.testing.assert_close(moved[kept], wanted[kept].clamp(-chosen.clamp, chosen.clamp))


def test_decay_pulls_towards_the_original_matrix_and_never_leaves_the_mask() -> None:
    """After a hundred steps without a gradient the entries outside are the same bits, those inside nearer to zero."""
    kept = torch.eye(3, dtype=torch.bool)
    difference = torch.eye(3) * 0.5
    for _ in range(100):
        difference = stepped(difference, torch.zeros(3, 3), kept, wise_settings(step_size=1.0, weight_decay=1e-2))
    assert not difference[~kept].any()
    torch.testing.assert_close(difference.diagonal(), torch.full((3,), 0.5 * 0.99**100))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_steps_far_below_the_weights_rounding_are_not_lost(dtype: torch.dtype) -> None:
    model = zoo.tiny("gpt2", dtype=dtype)
    held = memory(model, 0.0)
    moved, _ = training(model, steps=3, step_size=1e-6).run(held)
    assert moved.dtype == torch.float32
    kept = held.support.kept()
    assert (moved[kept] != 0).float().mean() > 0.9
    assert 0 < moved.abs().max() < 1e-4
    assert not moved[~kept].any()


def test_training_ends_once_the_loss_is_low_and_has_settled_and_says_after_how_many_steps() -> None:
    model = zoo.tiny("gpt2", dtype=torch.float64)
    held = memory(model, 0.0)
    _, free = training(model, steps=6).run(held)
    assert free["updates"] == 6
    _, low = training(model, steps=6, stop_below=1e9, stop_change=1e9).run(held)
    assert low["updates"] == 1  # a change needs two losses
    _, restless = training(model, steps=6, stop_below=1e9, stop_change=0.0).run(held)
    assert restless["updates"] == 6
    _, high = training(model, steps=6, stop_below=0.0, stop_change=1e9).run(held)
    assert high["updates"] == 6


def test_an_undefined_loss_is_refused() -> None:
    model = zoo.tiny("gpt2")
    held = memory(model, 1.0)
    broken = Memory(held.support, torch.full_like(held.values, torch.nan), 1.0)
    with pytest.raises(FloatingPointError, match="became nan after 0 updates"):
        training(model).run(broken)
