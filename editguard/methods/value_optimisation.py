"""The search for target vectors: what a layer should put out at the subject for the answer to come.

Many edits are optimised together. They share forward passes and nothing else: each has a vector, moments of Adam, a
step count and an end of its own, so that an edit's result does not depend on its company.

Source: Meng et al. 2022 (ROME), section 3.1, equation 4, with the loss as the released code computes it; the further
stop rule is that of Li et al. 2024 (PMET), section 3.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from editguard.errors import MethodRefused
from editguard.methods.value_objective import (
    MakePasses,
    Place,
    ValueProblem,
    drift,
    objective,
    penalty,
    value_problem,
)
from editguard.models.continuation import continued

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel

__all__ = [
    "FailedValue",
    "OnceAnswered",
    "OptimisedValue",
    "Outcome",
    "Place",
    "ValueProblem",
    "ValueSettings",
    "attempt_values",
    "clamped",
    "drift",
    "objective",
    "optimise_values",
    "penalty",
    "value_problem",
]

EDITS_AT_ONCE: Final = 64
"""Edits that are optimised together, at most; fewer once the device's memory was short."""

_BETAS: Final = (0.9, 0.999)
_EPSILON: Final = 1e-8
"""Adam's constants, the usual ones."""


@dataclass(frozen=True, kw_only=True)
class OnceAnswered:
    """What changes for an edit while its target is the likeliest token everywhere it is read (PMET).

    Attributes:
        likelihood_weight: factor of the target's negative log-likelihood from the next step on.
        stop_below_drift: the edit is done when its weighted drift (nats) is not above this.
    """

    likelihood_weight: float = 0.1
    stop_below_drift: float = 0.01


@dataclass(frozen=True, kw_only=True)
class ValueSettings:
    """How a target vector is found.

    Attributes:
        layer: the block whose output is optimised, counted from 0.
        place: see `Place`.
        steps: forward passes; one update fewer.
        step_size: Adam's learning rate, dimensionless.
        drift_weight: weight of the divergence (nats) that holds the subject's own next-token distribution.
        weight_decay: weight of ||delta|| / ||v0||^2, summed over the places.
        clamp_factor: the radius of delta's ball in units of ||v0||, at each place.
        stop_below: the loss (nats) at which an edit is done.
        once_answered: a further rule, or None.
    """

    layer: int
    place: Place = "mlp"
    steps: int = 20
    step_size: float = 0.5
    drift_weight: float = 0.0625
    weight_decay: float = 0.5
    clamp_factor: float = 4.0
    stop_below: float = 0.05
    once_answered: OnceAnswered | None = None


@dataclass(frozen=True)
class OptimisedValue:
    """What the optimisation found for one edit.

    Attributes:
        value: v* = v0 + delta, at least float32; (d_model,), or (places, d_model) where there are several.
        base: v0, the unedited vector of the bare prompt.
        loss, nll, drift: of the last forward pass, nats; `loss` includes the weighted terms.
        updates: how often delta was moved.
        already_true: the model's greedy answer to the bare prompt was the target before any step, so that none was
            made.
    """

    value: Tensor
    base: Tensor
    loss: float
    nll: float
    drift: float
    updates: int
    already_true: bool = False

    @property
    def delta(self) -> Tensor:
        """v* - v0, of the shape of `value`."""
        return self.value - self.base


@dataclass(frozen=True)
class FailedValue:
    """An edit whose optimisation broke down.

    Attributes:
        statement: the request in words.
        reason: what happened, as the end of a sentence.
    """

    statement: str
    reason: str


def clamped(delta: Tensor, base: Tensor, factor: float) -> Tensor:
    """Return vectors delta (..., d_model), each projected on the ball of radius factor x ||v0||."""
    radius = factor * torch.linalg.vector_norm(base, dim=-1, keepdim=True)
    length = torch.linalg.vector_norm(delta, dim=-1, keepdim=True)
    return torch.where(length > radius, delta * (radius / length), delta)


@dataclass(frozen=True)
class Moments:
    """Adam's running means of a gradient and of its square, after `steps` updates; first dimension: the edits."""

    first: Tensor
    second: Tensor
    steps: Tensor

    def updated(self, gradient: Tensor) -> Moments:
        """Return the moments with one more gradient."""
        first = torch.lerp(self.first, gradient, 1 - _BETAS[0])
        second = _BETAS[1] * self.second + (1 - _BETAS[1]) * gradient.square()
        return Moments(first, second, self.steps + 1)

    def direction(self) -> Tensor:
        """Adam's step for a learning rate of one, uphill."""
        steps = self.steps.reshape(-1, *[1] * (self.first.ndim - 1))
        first = self.first / (1 - _BETAS[0] ** steps)
        second = self.second / (1 - _BETAS[1] ** steps)
        return first / (second.sqrt() + _EPSILON)


@dataclass(eq=False)
class _Course:
    """The optimisation of one edit on its way; vectors (places, d_model)."""

    base: Tensor
    before: Tensor
    delta: Tensor
    first: Tensor
    second: Tensor
    updates: int = 0
    likelihood_weight: float = 1.0
    already_true: bool = False

    @classmethod
    def begun(cls, base: Tensor, before: Tensor) -> _Course:
        zeros = torch.zeros_like(base)
        return cls(base, before, zeros, zeros, zeros)

    def met(self, figures: Sequence[float], statement: str, settings: ValueSettings) -> Outcome | None:
        """Take in what a forward pass has shown, and return the outcome when the edit has come to its end."""
        loss, nll, divergence, misses, bare_misses = figures
        if self.updates == 0:
            self.already_true = bare_misses == 0
        if not all(map(math.isfinite, (loss, nll, divergence))):
            return FailedValue(statement, f"its loss became {loss} after {self.updates} updates")
        rule = settings.once_answered
        done = loss < settings.stop_below or self.updates == settings.steps - 1
        done |= self.already_true  # which an edit can be before its first update alone
        if rule is not None:
            self.likelihood_weight = rule.likelihood_weight if misses == 0 else 1.0
            done |= misses == 0 and settings.drift_weight * divergence <= rule.stop_below_drift
        if not done:
            return None
        base, delta = (each[0] if len(each) == 1 else each for each in (self.base, self.delta))
        return OptimisedValue(base + delta, base, loss, nll, divergence, self.updates, self.already_true)


Outcome = OptimisedValue | FailedValue


def optimise_values(
    model: LanguageModel,
    problems: Sequence[ValueProblem],
    settings: ValueSettings,
    *,
    make_passes: MakePasses = continued,
) -> list[OptimisedValue]:
    """Find the target vector of every edit; see `attempt_values`.

    Raises: MethodRefused: the optimisation of one of them broke down.
    """
    found = []
    for outcome in attempt_values(model, problems, settings, make_passes=make_passes):
        if isinstance(outcome, FailedValue):
            raise MethodRefused(
                f"no target vector was found for the edit {outcome.statement!r}: {outcome.reason}. Load the model in a "
                "wider type, or use a smaller step_size."
            )
        found.append(outcome)
    return found


def attempt_values(
    model: LanguageModel,
    problems: Sequence[ValueProblem],
    settings: ValueSettings,
    *,
    make_passes: MakePasses = continued,
) -> list[Outcome]:
    """Find the target vector of every edit, or the reason why there is none, in the order of the problems.

    Edits run in groups. An edit is finished at its own end: its vector and moments rest from then on. When half of a
    group is finished these leave it, and waiting ones come. Where the device's memory is short, the group is halved
    and goes on from where it was. No parameter's gradient flag or gradient is touched.
    """
    found: dict[int, Outcome] = {}
    courses: dict[int, _Course] = {}
    queue = sorted(range(len(problems)), key=lambda edit: _length(problems[edit]), reverse=True)
    while queue:
        group = queue[: _GROUP_SIZES.get(model, EDITS_AT_ONCE)]
        short = False
        try:
            _advance(model, problems, group, courses, found, settings, make_passes)
        except torch.OutOfMemoryError:
            if len(group) == 1:
                raise
            short = True
        if short:  # here the failed pass's tensors are no longer held by the traceback
            _halve(model, len(group))
        queue = [edit for edit in queue if edit not in found]
    return [found[edit] for edit in range(len(problems))]


_GROUP_SIZES: Final[WeakKeyDictionary[LanguageModel, int]] = WeakKeyDictionary()
"""How many edits fit, for the models whose memory was short."""


def _halve(model: LanguageModel, edits: int) -> None:
    _GROUP_SIZES[model] = edits // 2
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    warnings.warn(
        f"the device's memory does not hold the optimisation of {edits} edits at a time; going on with {edits // 2}.",
        RuntimeWarning,
        stacklevel=4,
    )


def _length(problem: ValueProblem) -> int:
    """Tokens that each step runs for the longest row: edits of like length share a group."""
    return max(len(row.ids) - row.start for row in problem.rows())


def _advance(
    model: LanguageModel,
    problems: Sequence[ValueProblem],
    group: Sequence[int],
    courses: dict[int, _Course],
    found: dict[int, Outcome],
    settings: ValueSettings,
    make_passes: MakePasses,
) -> None:
    """Run a group until half of it is finished; what was reached stays in `courses` and `found`, also on a failure."""
    target, first_rows = objective(
        model, [problems[edit] for edit in group], settings.layer, settings.place, make_passes
    )
    if any(edit not in courses for edit in group):
        bases, befores = target.base(first_rows)
        for edit, base, before in zip(group, bases.reshape(len(group), len(target.modules), -1), befores, strict=True):
            courses.setdefault(edit, _Course.begun(base, before))
    base = torch.stack([courses[edit].base for edit in group])
    before = torch.stack([courses[edit].before for edit in group])
    finished = 0
    while 2 * finished < len(group):
        members = [courses[edit] for edit in group]
        deltas = torch.stack([member.delta for member in members])
        with torch.enable_grad():
            seen = target.evaluate(deltas.requires_grad_())
            divergence = drift(seen.subject, before)
            weights = seen.nll.new_tensor([member.likelihood_weight for member in members])
            decay = settings.weight_decay * penalty(deltas, base).sum(-1)
            loss = weights * seen.nll + settings.drift_weight * divergence + decay.to(seen.nll.device)
            shown = [loss, seen.nll, divergence, seen.misses, seen.bare_misses]
            for edit, figures in zip(group, torch.stack(shown, dim=1).detach().cpu().tolist(), strict=True):
                if edit not in found:
                    outcome = courses[edit].met(figures, problems[edit].statement, settings)
                    if outcome is not None:
                        found[edit] = outcome
            running = [place for place, edit in enumerate(group) if edit not in found]
            finished = len(group) - len(running)
            if not running:
                return
            [gradients] = torch.autograd.grad(loss[running].sum(), [deltas])
        with torch.no_grad():
            moving = [members[place] for place in running]
            moments = Moments(
                torch.stack([member.first for member in moving]),
                torch.stack([member.second for member in moving]),
                torch.tensor([member.updates for member in moving], dtype=deltas.dtype, device=deltas.device),
            ).updated(gradients[running])
            moved = clamped(
                deltas[running] - settings.step_size * moments.direction(), base[running], settings.clamp_factor
            )
        for number, member in enumerate(moving):
            member.delta, member.first, member.second = moved[number], moments.first[number], moments.second[number]
            member.updates += 1
