"""T-Patcher's losses against plain autograd, and the course of its training against scripted problems."""

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from editguard.edited.added_neurons import Neurons, with_neurons
from editguard.errors import InvalidSettings
from editguard.methods.patch_training import (
    Patch,
    PatchProblem,
    PatchSettings,
    activation_loss,
    column_major,
    initial_keys,
    losses,
    memory_losses,
    own_activations,
    trained_patch,
    validation_losses,
)

WIDTH = 12
seeds = st.integers(0, 2**16)


def drawn(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- the losses


@given(seed=seeds, count=st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_at_first_every_neuron_fires_with_one_at_its_own_mistake(seed: int, count: int) -> None:
    states = 7 * drawn(count, WIDTH, seed=seed)
    patch = Patch(states, 10.0, "relu", torch.Generator().manual_seed(seed))
    own = own_activations(states, patch.keys, patch.biases)
    torch.testing.assert_close(own, torch.ones(count, dtype=torch.float64))
    torch.testing.assert_close(own, patch.neurons().pre_activations(states).diagonal())
    assert not patch.biases.any()


def test_at_first_the_values_are_noise_times_the_amplifier() -> None:
    """It is no empty patch: the norm of a value is about ten times the root of the width."""
    patch = Patch(drawn(4, 4000), 10.0, "relu", torch.Generator().manual_seed(0))
    norms = patch.neurons().values.norm(dim=0)
    assert torch.allclose(norms, torch.full_like(norms, 10 * math.sqrt(4000)), rtol=0.05)
    assert [tuple(part.shape) for part in patch.parameters] == [(4, 4000), (4,), (4000, 4), (4000, 4)]


@given(seed=seeds, top=st.integers(1, 7), margin=st.floats(-2, 2))
@settings(max_examples=20, deadline=None)
def test_the_activation_loss_is_the_mean_of_the_largest_terms(seed: int, top: int, margin: float) -> None:
    own = drawn(5, seed=seed)
    terms = sorted((math.exp(margin - float(one)) for one in own), reverse=True)[:top]
    assert float(activation_loss(own, margin, top)) == pytest.approx(sum(terms) / len(terms))


@given(seed=seeds, shift=st.floats(0.01, 3))
@settings(max_examples=20, deadline=None)
def test_the_activation_loss_falls_when_activations_rise(seed: int, shift: float) -> None:
    own = drawn(4, seed=seed)
    assert activation_loss(own + shift, 0.0, 2) < activation_loss(own, 0.0, 2)


def plain_memory_losses(
    memory: Tensor, keys: Tensor, biases: Tensor, own: Tensor, gap: float, silence: float, top: int
) -> tuple[Tensor, Tensor]:
    """As in the paper: all terms, then the mean of the largest."""
    activations = memory @ keys.T + biases
    first = (activations - own + gap).exp().flatten()
    second = (activations - silence).exp().flatten()
    return tuple(terms.topk(min(top, len(terms))).values.mean() for terms in (first, second))  # type: ignore[return-value]


@given(seed=seeds, count=st.integers(1, 4), top=st.integers(1, 90), gap=st.floats(-1, 4), silence=st.floats(-4, 1))
@settings(max_examples=30, deadline=None)
def test_the_memory_losses_and_their_gradients_are_those_of_all_terms(
    seed: int, count: int, top: int, gap: float, silence: float
) -> None:
    """A top larger than the memory takes all of it."""
    memory, states = drawn(20, WIDTH, seed=seed), drawn(count, WIDTH, seed=seed + 1)
    keys, biases = drawn(count, WIDTH, seed=seed + 2).requires_grad_(), drawn(count, seed=seed + 3).requires_grad_()
    found, wanted = (
        function(memory, keys, biases, own_activations(states, keys, biases), gap, silence, top)
        for function in (memory_losses, plain_memory_losses)
    )
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
        ours = torch.autograd.grad(one, [keys, biases], retain_graph=True, allow_unused=True)
        theirs = torch.autograd.grad(other, [keys, biases], retain_graph=True, allow_unused=True)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)


def test_the_layout_of_a_memory_changes_where_its_numbers_are_and_nothing_else() -> None:
    one, other = drawn(20, WIDTH), drawn(5, WIDTH, seed=1)
    both = column_major(one, other)
    assert torch.equal(both, torch.cat([one, other]))
    assert both.T.is_contiguous()
    keys, biases, own = drawn(2, WIDTH, seed=1), drawn(2, seed=2), drawn(2, seed=3)
    plain, turned = (memory_losses(each, keys, biases, own, 3.0, -3.0, 5) for each in (both.contiguous(), both))
    torch.testing.assert_close(plain, turned)


@given(seed=seeds, shift=st.floats(-2, 2).filter(lambda shift: abs(shift) > 0.01))
@settings(max_examples=20, deadline=None)
def test_a_common_shift_of_the_biases_cancels_in_the_gap_and_not_in_the_silence(seed: int, shift: float) -> None:
    memory, states, keys, biases = (
        drawn(20, WIDTH),
        drawn(3, WIDTH, seed=1),
        drawn(3, WIDTH, seed=2),
        drawn(3, seed=seed),
    )
    gap, silence = memory_losses(memory, keys, biases, own_activations(states, keys, biases), 3.0, -3.0, 5)
    moved = biases + shift
    gap_moved, silence_moved = memory_losses(memory, keys, moved, own_activations(states, keys, moved), 3.0, -3.0, 5)
    torch.testing.assert_close(gap_moved, gap)
    assert float(silence_moved / silence) == pytest.approx(math.exp(shift))


def test_eight_copies_of_the_example_and_a_thousand_terms_are_one_copy_and_a_hundred_and_twenty_five() -> None:
    memory, keys, biases = drawn(400, WIDTH), drawn(2, WIDTH, seed=1), drawn(2, seed=2)
    own = drawn(2, seed=3)
    copies = memory.repeat_interleave(8, dim=0)
    released = plain_memory_losses(copies, keys, biases, own, 3.0, -3.0, 1000)
    for found, wanted in zip(memory_losses(memory, keys, biases, own, 3.0, -3.0, 125), released, strict=True):
        torch.testing.assert_close(found, wanted)
    repeated = activation_loss(own.repeat(8), 0.0, 5)
    torch.testing.assert_close(activation_loss(own, 0.0, 1), repeated)
    defaults = PatchSettings()
    assert (defaults.memory_top, defaults.activation_top) == (125, 1)


# ---- the course


def problem(seed: int = 0, tokens: int = 3, wrong: int = 2, vocabulary: int = 9, **changes: Any) -> PatchProblem:
    """A last block of random states with a linear head, and a memory in other directions."""
    states = 3 * drawn(tokens, WIDTH, seed=seed)
    outputs, head = drawn(tokens, WIDTH, seed=seed + 1), drawn(vocabulary, WIDTH, seed=seed + 2)
    labels = (outputs @ head.T).argmax(-1)
    labels[:wrong] = (labels[:wrong] + 1) % vocabulary
    made = PatchProblem(
        logits=lambda neurons: with_neurons(outputs, states, neurons) @ head.T,
        labels=labels,
        states=states[:wrong],
        memory=drawn(60, WIDTH, seed=seed + 3),
        validation=drawn(40, WIDTH, seed=seed + 4),
        activation="relu",
    )
    return replace(made, **changes)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_defaults_are_the_published_ones() -> None:
    found = PatchSettings()
    assert (found.activation_margin, found.gap_margin, found.silence_margin) == (0.0, 3.0, -3.0)
    assert (found.step_size, found.weight_decay, found.gradient_clip, found.steps) == (1e-2, 0.01, 5.0, 2000)
    assert (found.activation_weight, found.memory_weight, found.amplifier, found.label_smoothing) == (1, 10, 10, 0.1)
    assert (found.first_check, found.check_every, found.improvement) == (100, 25, 1e-3)


def test_after_training_the_mistake_is_mended_and_the_memory_silent() -> None:
    found = trained_patch(problem(), PatchSettings(), generator())
    assert found.record["teacher_forced"]
    assert min(found.record["own_activations"]) > 0
    assert (found.neurons.pre_activations(problem().memory) < 0).all()
    assert not any(part.requires_grad for part in (found.neurons.keys, found.neurons.biases, found.neurons.values))


@pytest.mark.parametrize(
    "change",
    [
        {"activation_margin": 2.0},
        {"gap_margin": 0.0},
        {"silence_margin": 0.0},
        {"memory_weight": 5.0},
        {"activation_weight": 3.0},
        {"memory_top": 7},
        {"activation_top": 2},
        {"label_smoothing": 0.0},
        {"amplifier": 1.0},
        {"weight_decay": 0.0},
        {"gradient_clip": 0.1},
        {"step_size": 1e-3},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_of_the_losses_reaches_the_training(change: dict[str, Any]) -> None:
    """The released code for BART stores its margins and never uses them."""
    short = PatchSettings(steps=3)
    one, other = (trained_patch(problem(), given, generator()) for given in (short, replace(short, **change)))
    assert not torch.equal(one.neurons.keys, other.neurons.keys)


def test_a_step_is_adams_on_the_clipped_gradient_with_decay() -> None:
    given = PatchSettings(steps=1, gradient_clip=0.5)
    found = trained_patch(problem(), given, generator())
    patch = Patch(problem().states, given.amplifier, "relu", generator())
    optimiser = torch.optim.Adam(patch.parameters, lr=1e-2, weight_decay=0.01)
    neurons = patch.neurons()
    total = losses(problem(), neurons, given).total(given)
    total.backward()
    torch.nn.utils.clip_grad_norm_(patch.parameters, 0.5)
    optimiser.step()
    for name in ("keys", "biases", "values"):
        torch.testing.assert_close(getattr(found.neurons, name), getattr(patch.neurons(), name).detach())


def test_the_total_is_the_weighted_sum() -> None:
    given = PatchSettings(activation_weight=2.0, memory_weight=7.0)
    patch = Patch(problem().states, 10.0, "relu", generator())
    found = losses(problem(), patch.neurons(), given)
    parts = found.plain()
    wanted = parts["edit"] + 2 * parts["activation"] + 7 * (parts["memory_gap"] + parts["memory_silence"])
    assert float(found.total(given).detach()) == pytest.approx(wanted)


def test_the_edits_loss_is_smoothed_over_the_vocabulary() -> None:
    neurons = Patch(problem().states, 10.0, "relu", generator()).neurons()
    log_probs = problem().logits(neurons).log_softmax(-1)
    nll = -log_probs[range(3), problem().labels].mean()
    wanted = 0.7 * nll - 0.3 * log_probs.mean()
    found = losses(problem(), neurons, PatchSettings(label_smoothing=0.3)).edit
    torch.testing.assert_close(found, wanted)


def test_training_ends_when_the_validation_memory_no_longer_improves_and_keeps_the_best() -> None:
    found = trained_patch(problem(), PatchSettings(), generator())
    record = found.record
    assert record["stopped_by"] == "validation"
    assert record["updates"] == record["kept_update"] + 25
    assert record["kept_update"] >= 100
    assert record["kept_update"] % 25 == 0
    short = trained_patch(problem(), PatchSettings(steps=record["kept_update"], first_check=5000), generator())
    assert torch.equal(found.neurons.keys, short.neurons.keys)
    gap, silence = validation_losses(problem(), found.neurons, PatchSettings())
    assert record["validation_losses"] == {"memory_gap": gap, "memory_silence": silence}
    assert record["losses"] == losses(problem(), found.neurons, PatchSettings()).plain()


def test_a_smaller_improvement_that_counts_goes_on_for_longer() -> None:
    eager, patient = (
        trained_patch(
            problem(), PatchSettings(improvement=size, first_check=10, check_every=10, steps=300), generator()
        ).record
        for size in (10.0, 0.0)
    )
    assert eager["updates"] < patient["updates"]
    losses_then = [sum(each["validation_losses"].values()) for each in (eager, patient)]
    assert losses_then[1] < losses_then[0]


def test_the_rule_answer_ends_at_the_first_check_that_is_right() -> None:
    record = trained_patch(problem(), PatchSettings(stop_rule="answer", first_check=7), generator()).record
    assert record["stopped_by"] == "answer"
    assert record["kept_update"] == record["updates"]
    assert (record["updates"] - 7) % 25 == 0


def test_what_is_never_right_runs_to_the_end_and_says_so() -> None:
    fixed = torch.zeros(3, 9, dtype=torch.float64)
    fixed[:, 8] = 1.0
    hopeless = problem(logits=lambda neurons: fixed + 0 * neurons.values.sum(), labels=torch.tensor([0, 1, 2]))
    record = trained_patch(hopeless, PatchSettings(steps=130), generator()).record
    assert (record["updates"], record["kept_update"], record["stopped_by"]) == (130, 130, "steps")
    assert not record["teacher_forced"]
    assert record["last_step_size"] == pytest.approx(
        1e-2 / 4
    )  # looked at after 25, 50 ... 125; halved after 75 and 125


def test_an_undefined_loss_ends_the_training_with_an_error() -> None:
    broken = problem(logits=lambda neurons: torch.full((3, 9), math.nan, dtype=torch.float64) * neurons.values.sum())
    with pytest.raises(FloatingPointError, match="the loss became nan after 0 updates"):
        trained_patch(broken, PatchSettings(), generator())

    def infinite_slope(neurons: Neurons) -> Tensor:
        return (neurons.values.sum() - neurons.values.detach().sum()).clamp_min(0).sqrt() * torch.ones(3, 9)

    with pytest.raises(FloatingPointError, match="gradient"):
        trained_patch(problem(logits=infinite_slope), PatchSettings(), generator())


def test_the_memory_may_be_in_float32_while_logits_are_narrower() -> None:
    states = problem().states.float()
    narrow = problem(
        states=states,
        memory=problem().memory.float(),
        validation=problem().validation.float(),
        logits=lambda neurons: with_neurons(
            torch.zeros(3, WIDTH, dtype=torch.bfloat16), torch.ones(3, WIDTH), neurons
        ).float(),
        labels=torch.tensor([0, 1, 2]),
    )
    found = losses(narrow, Patch(states, 10.0, "relu", generator()).neurons(), PatchSettings())
    assert {found.edit.dtype, found.activation.dtype, found.memory_gap.dtype, found.memory_silence.dtype} == {
        torch.float32
    }


def test_values_are_drawn_from_the_generator_alone() -> None:
    torch.manual_seed(1)
    one = Patch(problem().states, 10.0, "relu", generator()).noise
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(one, Patch(problem().states, 10.0, "relu", generator()).noise)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_states_point_their_keys() -> None:
    states = drawn(3, WIDTH)
    keys = initial_keys(states)
    torch.testing.assert_close(keys.norm(dim=1), 1 / states.norm(dim=1))
    torch.testing.assert_close((keys * states).sum(1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"first_check": 0},
        {"check_every": 0},
        {"memory_top": 0},
        {"activation_top": 0},
        {"step_size": 0.0},
        {"gradient_clip": 0.0},
        {"amplifier": 0.0},
        {"weight_decay": -1.0},
        {"memory_weight": -1.0},
        {"activation_weight": -1.0},
        {"improvement": -1.0},
        {"label_smoothing": 1.0},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_impossible_settings_are_refused_by_name(wrong: dict[str, Any]) -> None:
    [name] = wrong
    assert name in {field.name for field in fields(PatchSettings)}
    with pytest.raises(InvalidSettings, match=name):
        PatchSettings(**wrong)
