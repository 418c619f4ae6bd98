"""The optimisation of target vectors: its loss at known points, its steps, its independence of batches."""

from dataclasses import replace

import pytest
import torch
import zoo
from torch import Tensor

from editguard.edits import EditRequest
from editguard.methods.keys import subject_row
from editguard.methods.value_optimisation import (
    ValueProblem,
    ValueSettings,
    clamped,
    drift,
    objective,
    optimise_values,
    penalty,
    value_problem,
)
from editguard.models import LanguageModel, capture
from editguard.models.continuation import FullForward

CONTEXTS = ("", "Because it is. ", "The red blue. ")
SETTINGS = ValueSettings(layer=1, steps=5, step_size=0.1)


def double(family: str = "gpt2") -> LanguageModel:
    return zoo.tiny(family, dtype=torch.float64)


def problems(model: LanguageModel, facts: tuple[EditRequest, ...]) -> list[ValueProblem]:
    return [value_problem(model, fact, CONTEXTS) for fact in facts]


def total(model: LanguageModel, given: list[ValueProblem], deltas: Tensor, settings: ValueSettings) -> Tensor:
    """The loss of each edit, put together from the published pieces on whole passes."""
    target, first = objective(model, given, settings.layer, settings.place, FullForward)
    base, before = target.base(first)
    nll, now = target.forward(deltas)
    return nll + settings.drift_weight * drift(now, before) + settings.weight_decay * penalty(deltas, base)


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_without_a_vector_the_loss_is_the_teacher_forced_one_averaged_over_contexts(
    family: str, facts: tuple[EditRequest, ...]
) -> None:
    model = double(family)
    given = problems(model, facts)
    zeros = torch.zeros(len(facts), zoo.D_MODEL, dtype=torch.float64)
    found = total(model, given, zeros, SETTINGS)
    for fact, loss in zip(facts, found, strict=True):
        scores = model.score([(context + fact.text, fact.target) for context in CONTEXTS])
        wanted = -sum(sum(score.log_probs) / len(score.log_probs) for score in scores) / len(scores)
        assert float(loss) == pytest.approx(wanted, rel=1e-5)
    assert len(given[0].target) > 1


def test_the_gradient_at_zero_is_finite_and_that_of_central_differences(facts: tuple[EditRequest, ...]) -> None:
    model = double()
    given = problems(model, facts)
    settings = replace(SETTINGS, weight_decay=0.0, drift_weight=0.7)
    here = torch.zeros(len(facts), zoo.D_MODEL, dtype=torch.float64, requires_grad=True)
    [gradient] = torch.autograd.grad(total(model, given, here, settings).sum(), [here])
    for edit, coordinate in ((0, 3), (1, 0), (2, 15)):
        step = torch.zeros_like(here)
        step[edit, coordinate] = 1e-5
        with torch.no_grad():
            ahead, behind = (total(model, given, here + sign * step, settings)[edit] for sign in (1, -1))
        assert float(gradient[edit, coordinate]) == pytest.approx(float(ahead - behind) / 2e-5, rel=1e-4, abs=1e-8)
    [with_decay] = torch.autograd.grad(total(model, given, here, replace(settings, weight_decay=0.5)).sum(), [here])
    assert torch.equal(with_decay, gradient)


def test_the_drift_is_read_right_after_the_subject_alone(facts: tuple[EditRequest, ...]) -> None:
    model = double("llama")
    module = model.anatomy.down_projection(1).module
    moved = torch.randn(zoo.D_MODEL, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for fact in facts:
        [row] = [value_problem(model, fact, CONTEXTS).rows()[-1]]
        target, first = objective(model, [value_problem(model, fact, CONTEXTS)], 1, "mlp")
        _, before = target.base(first)
        _, now = target.forward(moved[None])
        for words in (" is a", " was never the"):
            essence = EditRequest(prompt="{}" + words, subject=fact.subject, target="x")
            subject = subject_row(model, essence)
            assert subject.ids[: subject.end + 1] == row.ids
            ids = torch.tensor([subject.ids])
            plain = model.logits(ids, torch.ones_like(ids))[0, subject.end].log_softmax(-1)

            def at_subject(_, __, output: Tensor, end: int = subject.end) -> Tensor:
                added = output.clone()
                added[:, end] += moved
                return added

            handle = module.register_forward_hook(at_subject)
            changed = model.logits(ids, torch.ones_like(ids))[0, subject.end].log_softmax(-1)
            handle.remove()
            wanted = (changed.exp() * (changed - plain)).sum()
            assert float(drift(now, before)) == pytest.approx(float(wanted), rel=1e-9)
            assert float(wanted) > 1e-6


def test_the_base_is_the_bare_prompts_vector(facts: tuple[EditRequest, ...]) -> None:
    model = double("opt")
    for place in ("mlp", "block"):
        module = model.anatomy.down_projection(2).module if place == "mlp" else model.anatomy.block(2)
        found = optimise_values(model, problems(model, facts), replace(SETTINGS, layer=2, place=place, steps=1))
        for fact, one in zip(facts, found, strict=True):
            row = subject_row(model, fact)
            ids = torch.tensor([row.ids])
            with torch.no_grad(), capture(module) as captured:
                model.logits(ids, torch.ones_like(ids))
            vector = captured.value.reshape(len(row.ids), -1)[row.end]
            torch.testing.assert_close(one.base, vector, rtol=1e-9, atol=1e-9)


def test_one_step_moves_nothing_and_three_make_two_updates_of_adam(facts: tuple[EditRequest, ...]) -> None:
    model = double()
    given = problems(model, facts[:1])
    still = optimise_values(model, given, replace(SETTINGS, steps=1))[0]
    assert torch.equal(still.value, still.base)
    assert still.updates == 0

    settings = replace(SETTINGS, steps=3, clamp_factor=1e9, stop_below=0.0)
    found = optimise_values(model, given, settings)[0]
    delta = torch.zeros(1, zoo.D_MODEL, dtype=torch.float64)
    first, second = torch.zeros_like(delta), torch.zeros_like(delta)
    for step in (1, 2):
        here = delta.clone().requires_grad_()
        [gradient] = torch.autograd.grad(total(model, given, here, settings).sum(), [here])
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        delta = delta - settings.step_size * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    assert found.updates == 2
    torch.testing.assert_close(found.delta, delta[0], rtol=1e-7, atol=1e-9)
    assert found.loss == pytest.approx(float(total(model, given, delta, settings)), rel=1e-9)


@pytest.mark.parametrize("factor", [0.0, 0.05, 0.5])
def test_the_vector_stays_in_the_ball_around_the_base(factor: float, facts: tuple[EditRequest, ...]) -> None:
    model = double()
    for steps in (2, 3, 6):
        settings = replace(SETTINGS, steps=steps, clamp_factor=factor, step_size=0.5)
        for one in optimise_values(model, problems(model, facts), settings):
            assert one.delta.norm() <= factor * one.base.norm() * (1 + 1e-12)
            if factor == 0:
                assert torch.equal(one.value, one.base)


def test_the_penalty_is_the_length_over_the_squared_length_of_the_base() -> None:
    # ||(3, 4)|| = 5, ||(1, 2)||^2 = 5; ||(0, 2)|| = 2, ||(0, 4)||^2 = 16
    deltas, base = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[1.0, 2.0], [0.0, 4.0]])
    torch.testing.assert_close(penalty(deltas, base), torch.tensor([1.0, 0.125]))


def test_the_clamp_shortens_and_never_turns() -> None:
    base, delta = torch.tensor([3.0, 4.0]), torch.tensor([6.0, 0.0])
    assert torch.equal(clamped(delta, base, 2.0), delta)
    torch.testing.assert_close(clamped(delta, base, 0.5), torch.tensor([2.5, 0.0]))


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_edits_of_one_batch_are_optimised_as_if_alone_also_when_one_stops_early(
    family: str, facts: tuple[EditRequest, ...]
) -> None:
    model = double(family)
    given = problems(model, facts)
    settings = replace(SETTINGS, steps=8, step_size=0.2, stop_below=0.0)
    losses = sorted(one.loss for one in optimise_values(model, given, settings))
    settings = replace(settings, stop_below=(losses[0] + losses[1]) / 2)
    alone = [optimise_values(model, [problem], settings)[0] for problem in given]
    together = optimise_values(model, given, settings)
    backwards = optimise_values(model, given[::-1], settings)[::-1]
    assert len({one.updates for one in alone}) > 1
    for one, batched, turned in zip(alone, together, backwards, strict=True):
        assert one.updates == batched.updates == turned.updates
        torch.testing.assert_close(batched.value, one.value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(turned.value, one.value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_the_short_way_finds_the_vectors_of_the_long_way(family: str, facts: tuple[EditRequest, ...]) -> None:
    model = double(family)
    for place in ("mlp", "block"):
        settings = replace(SETTINGS, place=place, steps=4)
        short = optimise_values(model, problems(model, facts), settings)
        full = optimise_values(model, problems(model, facts), settings, make_passes=FullForward)
        for ours, theirs in zip(short, full, strict=True):
            torch.testing.assert_close(ours.value, theirs.value, rtol=1e-4, atol=1e-5)
            assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)


def test_the_target_becomes_more_likely(facts: tuple[EditRequest, ...]) -> None:
    for family in zoo.REPRESENTATIVE:
        model = zoo.tiny(family, dtype=torch.bfloat16)
        settings = replace(SETTINGS, steps=15, step_size=0.3, weight_decay=0.0, drift_weight=0.0)
        start = optimise_values(model, problems(model, facts), replace(settings, steps=1))
        for before, after in zip(start, optimise_values(model, problems(model, facts), settings), strict=True):
            assert after.nll < before.nll
            assert after.value.dtype == torch.float32


def test_flags_gradients_hooks_modes_and_random_state_are_left_alone(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("llama")
    model.module.requires_grad_(True)
    side, state = model.tokenizer.padding_side, torch.get_rng_state()
    optimise_values(model, problems(model, facts), SETTINGS)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.module.parameters())
    assert not model.module.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.module.modules())
    assert model.tokenizer.padding_side == side
    assert torch.equal(state, torch.get_rng_state())
