"""Where the modules of a model compute, when `device_map` has spread them over devices, and which weights are away.

`accelerate` moves what flows into a module to the module's device. What is made beside the model (updates, targets,
keys) is moved by the code that lets it meet a weight or a state, to `device_of` the module or to the tensor's device.

Weights that are offloaded to main memory or to disk are on the meta device while their module does not run: they can be
read (`present_value`), but a change of them would be lost with the call that brings them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

import torch
from torch import Tensor, nn

from editguard.errors import MethodRefused

if TYPE_CHECKING:
    from editguard.models.anatomy import Matrix

    _Matrices = TypeVar("_Matrices", bound=Iterable[Matrix])

OFFLOADED: Final = (
    "which is offloaded and not in memory, so that a change of it would be lost: give device_map devices with room for "
    "all of the model (more GPUs, or a smaller dtype), or choose layers that are in memory."
)
"""Why a parameter cannot be changed, and what to do about it."""


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes: its weights' device; of offloaded ones, that to which they are brought for a call.

    Raises: StopIteration: it has no weights.
    """
    device = next(module.parameters()).device
    if device.type != "meta":
        return device
    places = (getattr(hook, "execution_device", None) for part in module.modules() for hook in _hooks(part))
    return torch.device(next((place for place in places if place is not None), "cpu"))


def present_value(module: nn.Module, name: str) -> Tensor:
    """The parameter `name` of a model as it is, detached; of an offloaded one what its module would be brought."""
    parameter = module.get_parameter(name)
    if not parameter.is_meta:
        return parameter.detach()
    path, _, own = name.rpartition(".")
    for hook in _hooks(module.get_submodule(path)):
        weights = getattr(hook, "weights_map", None)
        if weights is not None:
            value: Tensor = weights[own]
            return value.detach()
    return parameter.detach()


def in_memory(method: str, matrices: _Matrices) -> _Matrices:
    """Return the matrices that a method is going to change.

    Raises: MethodRefused: one of them is offloaded.
    """
    for matrix in matrices:
        if matrix.module.get_parameter("weight").is_meta:
            raise MethodRefused(f"{method} would change {matrix.name}, {OFFLOADED}")
    return matrices


def _hooks(module: nn.Module) -> Iterator[Any]:
    """The hooks of `accelerate` on a module."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        yield from getattr(hook, "hooks", (hook,))
