"""A cheap look at a model before and after every test: did anything change that should not have?

The full comparison of bytes follows at the end of each group. The look here catches what tests do by accident: writing
to weights, leaving hooks behind, switching to training mode.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

SAMPLES = 64
"""Values looked at in every tensor, spread evenly."""


@dataclass(frozen=True)
class Reading:
    """What was seen of a module: by tensor name a sample of its values, its storage and its version; its hooks."""

    samples: dict[str, bytes]
    places: dict[str, tuple[int, int]]
    hooks: dict[str, int]
    training: bool


def read(module: nn.Module) -> Reading:
    """Look at every tensor of the module once, at the cost of a few values of each."""
    samples: dict[str, bytes] = {}
    places: dict[str, tuple[int, int]] = {}
    for name, tensor in _tensors(module):
        places[name] = (tensor.data_ptr() if not tensor.is_meta else 0, tensor._version)
        samples[name] = _sample(tensor)
    hooks = {
        name: count
        for name, part in module.named_modules()
        if (count := len(part._forward_hooks) + len(part._forward_pre_hooks) + len(part._backward_hooks))
    }
    return Reading(samples, places, hooks, module.training)


def changed(before: Reading, after: Reading) -> list[str]:
    """Names of what certainly differs: tensors whose sampled values did, hooks left behind, the mode."""
    wrong = sorted(
        name
        for name in before.samples.keys() | after.samples.keys()
        if before.samples.get(name) != after.samples.get(name)
    )
    wrong += [
        f"hooks on {name or 'the model'}"
        for name in sorted(before.hooks.keys() | after.hooks.keys())
        if before.hooks.get(name) != after.hooks.get(name)
    ]
    if before.training != after.training:
        wrong.append("training mode")
    return wrong


def written(before: Reading, after: Reading, *, besides: Iterable[str]) -> bool:
    """Whether a tensor was written to, or replaced, that is not among those that an edit changes."""
    allowed = set(besides)
    return any(
        before.places.get(name) != after.places.get(name)
        for name in before.places.keys() | after.places.keys()
        if name not in allowed
    )


def _tensors(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    yield from module.named_parameters()
    for name, buffer in module.named_buffers():
        if not name.endswith("inv_freq"):
            yield name, buffer


def _sample(tensor: Tensor) -> bytes:
    if tensor.is_meta or tensor.numel() == 0:
        return b""
    import torch

    flat = tensor.detach().reshape(-1)
    few = flat[:: max(1, flat.numel() // SAMPLES)][:SAMPLES]
    raw: bytes = few.contiguous().cpu().view(torch.uint8).numpy().tobytes()
    return raw
