"""Training an editor as a job: it can be killed at any moment and goes on, and it ends with the same bytes.

What is trained says how (`Trainee`): its losses, its optimisers, its validation. The job does the rest: gradients
averaged over passes, of which one with an undefined gradient is left out; the norm clipped; validation every so often,
the best state kept, an end when nothing has got better for long; checkpoints, progress, a record of what it took.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from editguard.errors import InvalidSettings, MethodRefused

SKIPPED_IN_A_ROW: Final = 10
"""So many micro-steps with undefined gradients, one after another, end a training."""
SAVE_SECONDS: Final = 60.0
"""Between two checkpoints, besides those at every validation."""
TELL_SECONDS: Final = 5.0
"""Between two lines of progress, at least."""


class TrainingDiverged(MethodRefused):
    """The training of an editor gave undefined gradients again and again; the last good checkpoint is kept."""


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """How long and in what steps an editor is trained; the defaults are MEND's (Mitchell et al. 2022)."""

    steps: int = 50_000
    """Optimiser steps, at most (the paper: at most 500,000 edits)."""
    edits_per_step: int = 10
    """Edits whose gradients are averaged for a step."""
    edits_per_pass: int = 10
    """Edits that run side by side; fewer take less memory. An undefined gradient costs all edits of its pass."""
    gradient_clip: float = 100.0
    """Norm that the gradient is scaled down to."""
    validate_every: int = 500
    """Steps between two validations."""
    validation_edits: int = 500
    """Edits of a validation, at most; they are of subjects that are not trained on."""
    patience: int | None = 2_000
    """Steps without a better validation after which the training ends; None goes on to the last step."""

    def __post_init__(self) -> None:
        for name in ("steps", "edits_per_step", "edits_per_pass", "validate_every", "validation_edits"):
            if getattr(self, name) < 1:
                raise InvalidSettings(f"{name} is at least 1, not {getattr(self, name)}.")
        if self.gradient_clip <= 0:
            raise InvalidSettings(f"gradient_clip is positive, not {self.gradient_clip}.")
        if self.patience is not None and self.patience < 1:
            raise InvalidSettings(f"patience is at least 1, or none; not {self.patience}.")


@dataclass(frozen=True)
class Validation:
    """What an editor does on edits that it was not trained on.

    Attributes:
        value: what decides which state is the best; the lower the better.
        figures: for people and for the record, by name.
    """

    value: float
    figures: Mapping[str, float]


class Trainee(Protocol):
    """Something that the job trains.

    Attributes:
        method: registered name of the editing method.
        module: its state: parameters that are trained, and buffers that change on the way.
        base: the model that it learns to edit.
    """

    @property
    def method(self) -> str: ...
    @property
    def module(self) -> nn.Module: ...
    @property
    def base(self) -> nn.Module: ...

    def optimisers(self) -> Mapping[str, Optimizer]:
        """Return the optimisers, which together have every parameter of the module once."""

    def begin(self) -> None:
        """Do what comes before the first step, such as collecting statistics."""

    def losses(self, start: int, count: int) -> tuple[Tensor, Mapping[str, float]]:
        """Return the mean loss of the draws number `start` to `start + count - 1`, and figures about them."""

    def step_scale(self, step: int) -> float:
        """Return what the step sizes are multiplied with at a step."""

    def stepped(self) -> None:
        """Called after every optimiser step."""

    def validate(self) -> Validation:
        """Measure the present state."""

    def validated(self, validation: Validation) -> None:
        """Called after every validation in training."""


class TrainingFiles(Protocol):
    """Where a training keeps its checkpoint."""

    def load_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return tensors and plain data of the checkpoint, if there is one."""

    def store_checkpoint(self, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> None:
        """Keep a checkpoint in place of the earlier one."""


@dataclass
class Position:
    """How far a training has come; plain data."""

    step: int = 0
    skipped: int = 0
    """Micro-steps that were left out."""
    skipped_in_a_row: int = 0
    best_step: int = 0
    best_value: float = math.inf
    history: list[dict[str, float]] = field(default_factory=list)
    """The figures of every validation."""
    seconds: float = 0.0
    """Validation and checkpoints included; without what a killed process did after its last checkpoint."""
    memory: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """The outcome of a training.

    Attributes:
        state: the best state of the module, by name.
        record: what it took, plain data.
    """

    state: dict[str, Tensor]
    record: dict[str, Any]


def train(
    trainee: Trainee,
    settings: JobSettings,
    *,
    files: TrainingFiles | None = None,
    told: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Trained:
    """Train, or go on from the checkpoint; return the state that validated best.

    Args:
        files: where checkpoints go; None keeps none.
        told: called with a line of text now and then.

    Raises: TrainingDiverged: see there. MethodRefused: the device's memory is too short. CacheError: a checkpoint is
        damaged, or cannot be written.
    """
    try:
        job = _Job(trainee, settings, files, told, clock)
        job.start()
        while not job.finished:
            job.step()
        job.save()
    except torch.OutOfMemoryError as short:
        raise MethodRefused(
            f"{trainee.method}: the device's memory does not hold the training with edits_per_pass = "
            f"{settings.edits_per_pass}: set it lower, which changes nothing but the time, or edit fewer layers."
        ) from short
    return Trained(job.best, job.record())


class _Job:
    """One process's part in a training."""

    def __init__(
        self,
        trainee: Trainee,
        settings: JobSettings,
        files: TrainingFiles | None,
        told: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self.trainee, self.settings, self.files, self.clock = trainee, settings, files, clock
        self.tell = _Teller(trainee.method, settings.steps, told, clock)
        self.optimisers = dict(trainee.optimisers())
        self.base_rates = {name: [group["lr"] for group in o.param_groups] for name, o in self.optimisers.items()}
        self.parameters = [p for o in self.optimisers.values() for group in o.param_groups for p in group["params"]]
        self.position = Position()
        self.best: dict[str, Tensor] = {}
        self.saved_at = self.timed_from = clock()

    # ---- the course

    @property
    def finished(self) -> bool:
        position, patience = self.position, self.settings.patience
        return position.step >= self.settings.steps or (
            patience is not None and position.step - position.best_step >= patience
        )

    def start(self) -> None:
        """Take up the checkpoint, or begin and validate the untrained state."""
        kept = self.files.load_checkpoint() if self.files is not None else None
        if kept is None:
            self.trainee.begin()
            self._validate(first=True)
            return
        tensors, data = kept
        self.position = Position(**data)
        self.trainee.module.load_state_dict(_part(tensors, "state"))
        self.best = _part(tensors, "best")
        for name, optimiser in self.optimisers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for where, tensor in _part(tensors, f"optimiser.{name}").items():
                index, _, key = where.partition(".")
                state.setdefault(int(index), {})[key] = tensor
            optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        self.tell(f"going on at step {self.position.step}", now=True)

    def step(self) -> None:
        """One optimiser step, and what is due after it."""
        position, settings = self.position, self.settings
        gradients, figures = self._gradients()
        if gradients is not None:
            self._apply(gradients)
            self.trainee.stepped()
        position.step += 1
        self.tell.step(position.step, settings.edits_per_step, figures)
        if position.step % settings.validate_every == 0 or position.step == settings.steps:
            self._validate()
            self.save()
        elif self.clock() - self.saved_at >= SAVE_SECONDS:
            self.save()

    def _gradients(self) -> tuple[list[Tensor] | None, Mapping[str, float]]:
        """The mean gradient of a step's edits, without the passes whose gradient is undefined; None when all are."""
        settings, position = self.settings, self.position
        total: list[Tensor] | None = None
        counted, figures = 0, dict[str, float]()
        first = position.step * settings.edits_per_step
        for start in range(0, settings.edits_per_step, settings.edits_per_pass):
            count = min(settings.edits_per_pass, settings.edits_per_step - start)
            with torch.enable_grad(), self._memory_noted():
                loss, seen = self.trainee.losses(first + start, count)
                found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
            parts = [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, found, strict=True)]
            if not bool(torch.isfinite(loss.detach() + _norm(parts))):
                self._skip()
                continue
            position.skipped_in_a_row = 0
            parts = [part * count for part in parts]
            total = parts if total is None else [a + b for a, b in zip(total, parts, strict=True)]
            counted += count
            figures = {name: figures.get(name, 0.0) + count * value for name, value in seen.items()}
        mean = {name: value / counted for name, value in figures.items()} if counted else {}
        return None if total is None else [part / counted for part in total], mean

    @contextmanager
    def _memory_noted(self) -> Iterator[None]:
        """Note in the first pass of a training how much memory the parts take, in bytes.

        "optimiser" holds the gradients too. "activations" are what autograd keeps at most for a backward pass, the
        weights left out.
        """
        memory, module, base = self.position.memory, self.trainee.module, self.trainee.base
        if memory:
            yield
            return
        weights = [*module.parameters(), *module.buffers(), *base.parameters(), *base.buffers()]
        with activations_measured({each.untyped_storage().data_ptr() for each in weights}) as held:
            yield
        memory |= {
            "base": _bytes([*base.parameters(), *base.buffers()]),
            "editor": _bytes([*module.parameters(), *module.buffers()]),
            "activations": held.most,
        }

    def _skip(self) -> None:
        position = self.position
        position.skipped += 1
        position.skipped_in_a_row += 1
        if position.skipped_in_a_row < SKIPPED_IN_A_ROW:
            return
        kept = f"; the last checkpoint is kept in {self.files}" if self.files is not None else ""
        raise TrainingDiverged(
            f"{self.trainee.method}: the training diverged: {SKIPPED_IN_A_ROW} passes in a row gave infinite or "
            f"undefined gradients at step {position.step}{kept}. Use a smaller step_size, or load the model in a wider "
            "type."
        )

    def _apply(self, gradients: list[Tensor]) -> None:
        """Clip, and step."""
        norm = _norm(gradients)
        scale = (self.settings.gradient_clip / norm).clamp(max=1.0)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient * scale
        rate = self.trainee.step_scale(self.position.step)
        for name, optimiser in self.optimisers.items():
            for group, base in zip(optimiser.param_groups, self.base_rates[name], strict=True):
                group["lr"] = base * rate
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def _validate(self, *, first: bool = False) -> None:
        position = self.position
        validation = self.trainee.validate()
        position.history.append({"step": position.step, **validation.figures})
        if first or validation.value < position.best_value:
            value = validation.value if math.isfinite(validation.value) else math.inf
            position.best_step, position.best_value = position.step, value
            self.best = {name: tensor.detach().clone() for name, tensor in self.trainee.module.state_dict().items()}
        if not first:
            self.trainee.validated(validation)
        self.tell.validation(position.step, validation.figures, best=position.best_step == position.step)

    # ---- what is kept

    def save(self) -> None:
        """Write a checkpoint: the state, the best one so far, the optimisers' and the position."""
        now = self.clock()
        self.position.seconds += now - self.timed_from
        self.saved_at = self.timed_from = now
        if self.files is None:
            return
        tensors = {f"state.{name}": tensor for name, tensor in self.trainee.module.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for label, optimiser in self.optimisers.items():
            for index, state in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{label}.{index}.{key}": tensor for key, tensor in state.items()}
        self.files.store_checkpoint(tensors, asdict(self.position))

    def record(self) -> dict[str, Any]:
        """What the training took, and how it went."""
        position, settings = self.position, self.settings
        state = [each for o in self.optimisers.values() for one in o.state.values() for each in one.values()]
        memory = {**position.memory, "optimiser": _bytes(state) + _bytes(self.parameters)}
        if next(self.trainee.base.parameters()).is_cuda:
            memory["device_peak"] = sum(torch.cuda.max_memory_allocated(d) for d in range(torch.cuda.device_count()))
        return {
            "steps": position.step,
            "ended_by": "last step" if position.step >= settings.steps else "patience",
            "best_step": position.best_step,
            "skipped_passes": position.skipped,
            "seconds": round(position.seconds, 1),
            "memory_bytes": memory,
            "history": position.history,
        }


class _Teller:
    """Lines of progress: a line at every validation, and now and then one in between."""

    def __init__(self, method: str, steps: int, told: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._method, self._steps, self._told, self._clock = method, steps, told, clock
        self._last = self._since = clock()
        self._first: int | None = None

    def __call__(self, text: str, *, now: bool = False) -> None:
        if now or self._clock() - self._last >= TELL_SECONDS:
            self._last = self._clock()
            self._told(f"{self._method}: {text}")

    def step(self, step: int, edits: int, figures: Mapping[str, float]) -> None:
        if self._first is None:
            self._first, self._since = step, self._clock()
            return
        elapsed = max(self._clock() - self._since, 1e-9)
        pace = (step - self._first) / elapsed
        left = (self._steps - step) / pace if pace else math.inf
        self(
            f"training, step {step} of {self._steps}, {_shown(figures)}, {edits * pace:.1f} edits/s, "
            f"at most {left:.0f} s left"
        )

    def validation(self, step: int, figures: Mapping[str, float], *, best: bool) -> None:
        self(f"validation at step {step}: {_shown(figures)}{' (the best so far)' if best else ''}", now=True)


def _shown(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in figures.items())


def _part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `name` and a dot, without it."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}


def _norm(parts: list[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part) for part in parts]))
    return norm


class _Kept:
    """A tensor that autograd keeps, counted as long as it does."""

    def __init__(self, tensor: Tensor, held: _Held) -> None:
        storage = tensor.untyped_storage()
        self.tensor, self._held, self._key = tensor, held, storage.data_ptr()
        held.add(self._key, storage.nbytes())

    def __del__(self) -> None:
        self._held.drop(self._key)


class _Held:
    """Bytes of the storages that autograd keeps, now and at most; each counts once."""

    def __init__(self, left_out: set[int]) -> None:
        self.most = self._now = 0
        self._left_out = left_out
        self._uses: dict[int, tuple[int, int]] = {}

    def add(self, key: int, size: int) -> None:
        if key in self._left_out:
            return
        uses, _ = self._uses.get(key, (0, size))
        self._uses[key] = (uses + 1, size)
        if not uses:
            self._now += size
            self.most = max(self.most, self._now)

    def drop(self, key: int) -> None:
        if key in self._left_out:
            return
        uses, size = self._uses.pop(key)
        if uses > 1:
            self._uses[key] = (uses - 1, size)
        else:
            self._now -= size


@contextmanager
def activations_measured(left_out: set[int]) -> Iterator[_Held]:
    """Within the block, count what autograd keeps for backward passes, besides the storages that are left out."""
    held = _Held(left_out)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: _Kept(tensor, held), lambda kept: kept.tensor):
        yield held


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}.values())
