"""The training of T-Patcher's neurons: its losses, and the course of the optimisation.

Source: Huang et al. 2023 (T-Patcher), with the course of the released code: the step size is halved when the edit's
loss, looked at as often as the answer, has twice in a row not fallen by a twentieth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from editguard.edited.added_neurons import Neurons
from editguard.errors import InvalidSettings

StopRule = Literal["validation", "answer"]
"""When the training ends: once the answer is right, or once the validation memory's loss does not fall either."""


@dataclass(frozen=True, kw_only=True)
class PatchSettings:
    """How the neurons of an edit are trained; symbols as in the paper."""

    step_size: float = 1e-2
    """Adam's learning rate at first."""
    weight_decay: float = 0.01
    """Of Adam, in its L2 form."""
    gradient_clip: float = 5.0
    """Largest norm of the gradient of all parameters together."""
    steps: int = 2000
    """Updates, at most."""
    amplifier: float = 10.0
    """A: initial factor of the values, V = E * A with both trained; E is drawn from N(0, 1)."""
    label_smoothing: float = 0.1
    """Share of the target that is spread over the whole vocabulary."""
    activation_weight: float = 1.0
    """a: weight of the loss that makes the neurons fire on the mistake."""
    memory_weight: float = 10.0
    """m: weight of the losses that keep them silent on the memory."""
    activation_margin: float = 0.0
    """m_a in exp(m_a - s)."""
    gap_margin: float = 3.0
    """gamma_1 in exp(s_j - s + gamma_1): by how much a pre-activation on the memory should be the lower one."""
    silence_margin: float = -3.0
    """gamma_2 in exp(s_j - gamma_2): what a pre-activation on the memory should be below."""
    activation_top: int = 1
    """How many of the largest terms of the activation loss count."""
    memory_top: int = 125
    """How many of the largest terms of each memory loss count, of all states and neurons."""
    first_check: int = 100
    """The update after which the answer is looked at first."""
    check_every: int = 25
    """And after how many more again."""
    stop_rule: StopRule = "validation"
    """See `StopRule`."""
    improvement: float = 1e-3
    """By how much the validation loss has to fall from one check to the next."""

    def __post_init__(self) -> None:
        for name in ("steps", "first_check", "check_every", "activation_top", "memory_top"):
            if getattr(self, name) < 1:
                raise InvalidSettings(f"{name} is at least 1, not {getattr(self, name)}.")
        for name in ("step_size", "gradient_clip", "amplifier"):
            if getattr(self, name) <= 0:
                raise InvalidSettings(f"{name} is positive, not {getattr(self, name)}.")
        for name in ("weight_decay", "activation_weight", "memory_weight", "improvement"):
            if getattr(self, name) < 0:
                raise InvalidSettings(f"{name} is not negative; got {getattr(self, name)}.")
        if not 0 <= self.label_smoothing < 1:
            raise InvalidSettings(f"label_smoothing lies in [0, 1), not at {self.label_smoothing}.")


@dataclass(frozen=True, eq=False)
class TrainedPatch:
    """The neurons of an edit, without gradients, and what the training did, ready for JSON."""

    neurons: Neurons
    record: Mapping[str, Any]


def column_major(*parts: Tensor) -> Tensor:
    """The states of all parts (states, d_model) in one tensor, laid out so that its transpose is contiguous.

    A product of a few keys with many states then reads the memory in one go: on a CPU, for two to five keys, in about
    half of the time.
    """
    return torch.cat([part.T for part in parts], dim=1).contiguous().T


def initial_keys(states: Tensor) -> Tensor:
    """h / ||h||^2 for states h (neurons, d_model): with no bias each neuron's pre-activation at its own state is 1."""
    return states / states.square().sum(-1, keepdim=True)


def own_activations(states: Tensor, keys: Tensor, biases: Tensor) -> Tensor:
    """s_i = K_i h_i + b_i, each neuron's pre-activation at its own state; states, keys: (neurons, d_model)."""
    return (keys * states).sum(-1) + biases


def activation_loss(own: Tensor, margin: float, top: int) -> Tensor:
    """Mean of the `top` largest of exp(margin - s_i), for s (neurons,)."""
    return (margin - own).exp().topk(min(top, len(own))).values.mean()


def memory_losses(
    memory: Tensor, keys: Tensor, biases: Tensor, own: Tensor, gap_margin: float, silence_margin: float, top: int
) -> tuple[Tensor, Tensor]:
    """L_m1 and L_m2: means of the `top` largest of exp(s_ji - s_i + gamma_1) and of exp(s_ji - gamma_2).

    Largest among all states j and neurons i, s_ji = K_i M_j + b_i. As no other term has a gradient, all of them are
    computed without one, and the largest again with it.

    Args:
        memory: M, (states, d_model); it may be on another device than the rest. See `column_major`.
        keys, biases: K (neurons, d_model), b (neurons,).
        own: s, (neurons,).
    """
    with torch.no_grad():
        there = [part.to(memory.device) for part in (keys, biases, own)]
        activations = torch.addmm(there[1][:, None], there[0], memory.T)  # (neurons, states)
        gaps = activations - there[2][:, None]
        count = min(top, activations.numel())
        largest = [values.flatten().topk(count).indices for values in (gaps, activations)]

    def again(indices: Tensor) -> tuple[Tensor, Tensor]:
        neuron = (indices // len(memory)).to(keys.device)
        states = memory[indices % len(memory)].to(keys.device)
        return (keys[neuron] * states).sum(-1) + biases[neuron], neuron

    first, neuron = again(largest[0])
    second, _ = again(largest[1])
    return (first - own[neuron] + gap_margin).exp().mean(), (second - silence_margin).exp().mean()


@dataclass(frozen=True, eq=False)
class PatchProblem:
    """What the neurons of an edit should do.

    Attributes:
        logits: neurons -> what predicts the answer's tokens, (tokens, vocabulary).
        labels: the answer's ids, (tokens,).
        states: h, what the MLP reads where the answer is wrong, (neurons, d_model), at least float32.
        memory, validation: (states, d_model); what the neurons are trained to be silent on, and what decides when the
            training ends.
        activation: the neurons' own, by name.
    """

    logits: Callable[[Neurons], Tensor]
    labels: Tensor
    states: Tensor
    memory: Tensor
    validation: Tensor
    activation: str


@dataclass(frozen=True)
class Losses:
    """The four losses of some neurons, each a scalar, and whether the answer is right, token by token."""

    edit: Tensor
    activation: Tensor
    memory_gap: Tensor
    memory_silence: Tensor
    right: bool

    def total(self, settings: PatchSettings) -> Tensor:
        """L_e + a L_a + m (L_m1 + L_m2)."""
        silence = self.memory_gap + self.memory_silence
        fires = settings.activation_weight * self.activation
        return self.edit.to(silence.device) + fires + settings.memory_weight * silence

    def plain(self) -> dict[str, float]:
        """Return the losses as numbers."""
        names = ("edit", "activation", "memory_gap", "memory_silence")
        return {name: float(getattr(self, name).detach()) for name in names}


def losses(problem: PatchProblem, neurons: Neurons, settings: PatchSettings) -> Losses:
    """Return the losses of the neurons; gradients flow to them."""
    predicted = problem.logits(neurons)
    labels = problem.labels.to(predicted.device)
    own = own_activations(problem.states, neurons.keys, neurons.biases)
    return Losses(
        nn.functional.cross_entropy(predicted, labels, label_smoothing=settings.label_smoothing),
        activation_loss(own, settings.activation_margin, settings.activation_top),
        *_silence(problem.memory, neurons, own, settings),
        bool((predicted.detach().argmax(-1) == labels).all()),
    )


@torch.no_grad()
def validation_losses(problem: PatchProblem, neurons: Neurons, settings: PatchSettings) -> tuple[float, float]:
    """Return L_m1 and L_m2 on the validation memory."""
    own = own_activations(problem.states, neurons.keys, neurons.biases)
    gap, silence = _silence(problem.validation, neurons, own, settings)
    return float(gap), float(silence)


def _silence(memory: Tensor, neurons: Neurons, own: Tensor, settings: PatchSettings) -> tuple[Tensor, Tensor]:
    return memory_losses(
        memory,
        neurons.keys,
        neurons.biases,
        own,
        settings.gap_margin,
        settings.silence_margin,
        settings.memory_top,
    )


class Patch:
    """The four trained tensors of an edit's neurons; no other one gets a gradient.

    Attributes:
        keys: K, (neurons, d_model).
        biases: b, (neurons,).
        noise, amplifier: E and A, (d_model, neurons); the values are V = E * A.
    """

    def __init__(self, states: Tensor, amplifier: float, activation: str, generator: torch.Generator) -> None:
        count, width = states.shape
        noise = torch.randn(width, count, generator=generator, dtype=torch.float64).to(states)
        self._activation = activation
        self.keys = nn.Parameter(initial_keys(states))
        self.biases = nn.Parameter(states.new_zeros(count))
        self.noise = nn.Parameter(noise)
        self.amplifier = nn.Parameter(torch.full_like(noise, amplifier))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trained tensors."""
        return [self.keys, self.biases, self.noise, self.amplifier]

    def neurons(self) -> Neurons:
        """Return the neurons as they are now; gradients flow through them."""
        return Neurons(self.keys, self.biases, self.noise * self.amplifier, self._activation)


class _Keeper:
    """The neurons with the lowest validation loss of those that answered rightly at a check."""

    def __init__(self, settings: PatchSettings) -> None:
        self._settings = settings
        self.best: tuple[float, int, Neurons] | None = None

    def due(self, updates: int) -> bool:
        """Whether the answer is looked at after so many updates."""
        since = updates - self._settings.first_check
        return since >= 0 and since % self._settings.check_every == 0

    def offer(self, loss: float, updates: int, neurons: Neurons) -> bool:
        """Return whether the loss has improved on the best one; then these neurons are kept."""
        if self.best is not None and not loss < self.best[0] - self._settings.improvement:
            return False
        self.best = (loss, updates, neurons.detached())
        return True


def trained_patch(problem: PatchProblem, settings: PatchSettings, generator: torch.Generator) -> TrainedPatch:
    """Return neurons that answer the labels and are silent on the memory.

    Args:
        generator: of the initial values.

    Raises: FloatingPointError: a loss or a gradient is infinite or undefined.
    """
    patch = Patch(problem.states, settings.amplifier, problem.activation, generator)
    optimiser = torch.optim.Adam(patch.parameters, lr=settings.step_size, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=1, threshold=0.05)
    keeper, stopped, updates = _Keeper(settings), "steps", 0
    while True:
        with torch.enable_grad():
            neurons = patch.neurons()
            found = losses(problem, neurons, settings)
            total = found.total(settings)
        if not math.isfinite(float(total.detach())):
            raise FloatingPointError(f"the loss became {float(total.detach())} after {updates} updates")
        if updates and updates % settings.check_every == 0:
            schedule.step(float(found.edit.detach()))
        if found.right and keeper.due(updates):
            improved = keeper.offer(sum(validation_losses(problem, neurons, settings)), updates, neurons)
            if settings.stop_rule == "answer" or not improved:
                stopped = settings.stop_rule
                break
        if updates == settings.steps:
            break
        gradients = torch.autograd.grad(total, patch.parameters)
        if not all(gradient.isfinite().all() for gradient in gradients):
            raise FloatingPointError(f"a gradient became infinite or undefined after {updates} updates")
        for parameter, gradient in zip(patch.parameters, gradients, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(patch.parameters, settings.gradient_clip)
        optimiser.step()
        updates += 1
    _, kept_update, kept = keeper.best or (0.0, updates, neurons.detached())
    with torch.no_grad():
        at_end = losses(problem, kept, settings)
    gap, silence = validation_losses(problem, kept, settings)
    return TrainedPatch(
        kept,
        {
            "updates": updates,
            "kept_update": kept_update,
            "stopped_by": stopped,
            "last_step_size": float(optimiser.param_groups[0]["lr"]),
            "losses": at_end.plain(),
            "validation_losses": {"memory_gap": gap, "memory_silence": silence},
            "teacher_forced": at_end.right,
            "own_activations": own_activations(problem.states, kept.keys, kept.biases).tolist(),
            "largest_value_norm": float(kept.values.norm(dim=0).max()),
        },
    )
