"""Checkpoints of a training run: tensors as safetensors, the rest as JSON, each written at once or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from editguard.pocket.schedule import Schedule

_FOLDER: Final = "checkpoints"


@dataclass(frozen=True, slots=True)
class Position:
    """How far a run has come: `step` steps are done, and `batch` batches of epoch `epoch` are used."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    tokens: int = 0
    """Tokens read so far, padding included."""
    steps: int = 0
    """The length that the run had in mind."""
    seed: int = 0
    model: str = "decoder"
    """Which model is trained."""

    def belongs_to(self, schedule: Schedule) -> bool:
        """Whether a run of this schedule passes through this very state."""
        planned = Schedule(self.steps, schedule.warm_up, schedule.decay, schedule.final)
        shared = self.step <= min(planned.decay_start, schedule.decay_start)
        return shared or (self.steps == schedule.steps and self.step <= schedule.steps)


def save(run: Path, model: nn.Module, optimizers: Mapping[str, Optimizer], position: Position) -> Path:
    """Write a checkpoint into the run's folder and return where it is."""
    planned = Schedule(position.steps)
    name = f"step-{position.step:06d}"
    if position.step > planned.decay_start:
        name += f"-of-{position.steps:06d}"
    target = run / _FOLDER / name
    partial = target.with_name(f".{name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(dict(_parameters(model)), partial / "model.safetensors")
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for label, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                where = f"{label}/{index}/{key}"
                if isinstance(value, Tensor):
                    tensors[where] = value.detach().cpu().contiguous()
                else:
                    numbers[where] = value
    save_file(tensors, partial / "optimizer.safetensors")
    (partial / "position.json").write_text(json.dumps({**asdict(position), "optimizer": numbers}, indent=2) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)
    return target


def restore(checkpoint: Path, model: nn.Module, optimizers: Mapping[str, Optimizer]) -> None:
    """Put a checkpoint's tensors into a model and its optimizers."""
    restore_model(checkpoint, model)
    tensors = load_file(checkpoint / "optimizer.safetensors")
    numbers: dict[str, Any] = json.loads((checkpoint / "position.json").read_text())["optimizer"]
    for label, optimizer in optimizers.items():
        state: dict[int, dict[str, Any]] = {}
        for where, value in [*tensors.items(), *numbers.items()]:
            owner, index, key = where.split("/")
            if owner == label:
                state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def restore_model(checkpoint: Path, model: nn.Module) -> None:
    """Put a checkpoint's weights into a model."""
    weights = load_file(checkpoint / "model.safetensors")
    for name, parameter in model.named_parameters():
        parameter.data.copy_(weights[name])


def position_of(checkpoint: Path) -> Position:
    """Where the run stood when the checkpoint was written."""
    fields = json.loads((checkpoint / "position.json").read_text())
    del fields["optimizer"]
    return Position(**fields)


def newest(run: Path, schedule: Schedule | None = None) -> Path | None:
    """The run's furthest checkpoint, with a schedule: that a run of this schedule passes through."""
    found = [
        (position_of(path).step, path)
        for path in _all(run)
        if schedule is None or position_of(path).belongs_to(schedule)
    ]
    return max(found)[1] if found else None


def _all(run: Path) -> Iterator[Path]:
    return (path for path in sorted((run / _FOLDER).glob("step-*")) if (path / "position.json").exists())


def _parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Each parameter once, a tied one under its first name, on the CPU."""
    return ((name, parameter.detach().cpu().contiguous()) for name, parameter in model.named_parameters())
