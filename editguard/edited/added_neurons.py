"""Neurons beside an MLP: y = MLP(x) + V act(K x + b), with the MLP and all of its weights as they were.

All neurons of a chain that stand beside one MLP act as one branch, however many edits they come from: one look at the
MLP's input, one product with all keys, one with all values. A token at which none of them is active keeps the MLP's
output to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from editguard.models.activation import activation
from editguard.models.hooks import replaced

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel


@dataclass(frozen=True, eq=False)
class Neurons:
    """The parameters of some added neurons, at least float32.

    Attributes:
        keys: K, (neurons, d_model).
        biases: b, (neurons,).
        values: V, (d_model, neurons).
        activation: the function's name, see `models.activation`.
    """

    keys: Tensor
    biases: Tensor
    values: Tensor
    activation: str

    def __post_init__(self) -> None:
        count, width = self.keys.shape
        if self.biases.shape != (count,) or self.values.shape != (width, count):
            raise ValueError(
                f"keys {tuple(self.keys.shape)}, biases {tuple(self.biases.shape)} and values "
                f"{tuple(self.values.shape)} are not those of the same neurons"
            )

    def __len__(self) -> int:
        return len(self.biases)

    def pre_activations(self, inputs: Tensor) -> Tensor:
        """K x + b, (..., neurons), for inputs x (..., d_model)."""
        return torch.nn.functional.linear(inputs.to(self.keys.dtype), self.keys, self.biases)

    def to(self, device: torch.device) -> Neurons:
        """The same neurons there."""
        return replace(self, keys=self.keys.to(device), biases=self.biases.to(device), values=self.values.to(device))

    def detached(self) -> Neurons:
        """Copies without gradients."""
        keys, biases, values = (part.detach().clone() for part in (self.keys, self.biases, self.values))
        return replace(self, keys=keys, biases=biases, values=values)


def with_neurons(output: Tensor, inputs: Tensor, neurons: Neurons) -> Tensor:
    """MLP(x) + V act(K x + b) where any activation is not zero; elsewhere MLP(x) to the bit.

    output MLP(x), inputs x: (..., d_model) of the same tokens, which one of the two may have flattened. The sum is made
    in the wider of the types, and rounded once.
    """
    active = activation(neurons.activation)(neurons.pre_activations(inputs.reshape(output.shape)))
    wide = torch.promote_types(output.dtype, active.dtype)
    moved = output.to(wide) + torch.nn.functional.linear(active, neurons.values).to(wide)
    fires = (active != 0).any(-1, keepdim=True)
    return torch.where(fires, moved.to(output.dtype), output)


@contextmanager
def in_force(model: LanguageModel, layer: int, neurons: Neurons) -> Iterator[None]:
    """Let neurons act beside a block's MLP; gradients flow to them."""
    with _attached(model, layer, lambda output, inputs: with_neurons(output, inputs, neurons)):
        yield


@dataclass(frozen=True, eq=False)
class AddedNeurons:
    """What an edit has added beside one MLP: its own neurons, and no others of the chain.

    Attributes:
        layer: the block, counted from 0.
        neurons: on any device.
    """

    layer: int
    neurons: Neurons

    def install(self, model: LanguageModel) -> None:
        """Let the neurons join the block's branch."""
        branches = _BRANCHES.setdefault(model, {})
        if self.layer not in branches:
            branches[self.layer] = _Branch(model, self.layer)
        branches[self.layer].push(self.neurons)

    def uninstall(self, model: LanguageModel) -> None:
        """Take the neurons, the newest of the block's branch, out again; an empty branch leaves no hook behind."""
        branches = _BRANCHES[model]
        branches[self.layer].pop()
        if branches[self.layer].empty:
            branches.pop(self.layer).close()


class _Branch:
    """All neurons in force beside one MLP, in the order in which they came."""

    def __init__(self, model: LanguageModel, layer: int) -> None:
        self._parts: list[Neurons] = []
        self._joined: dict[torch.device, list[Neurons]] = {}
        self._hooks = ExitStack()
        self._hooks.enter_context(_attached(model, layer, self._change))

    @property
    def empty(self) -> bool:
        return not self._parts

    def push(self, neurons: Neurons) -> None:
        self._parts.append(neurons)
        self._joined.clear()

    def pop(self) -> None:
        self._parts.pop()
        self._joined.clear()

    def close(self) -> None:
        self._hooks.close()

    def _change(self, output: Tensor, inputs: Tensor) -> Tensor:
        for neurons in self._on(output.device):
            output = with_neurons(output, inputs.to(output.device), neurons)
        return output

    def _on(self, device: torch.device) -> list[Neurons]:
        """The neurons in one piece, or in one for each activation; put together when they are first asked for."""
        if device not in self._joined:
            self._joined[device] = [each.to(device) for each in joined(self._parts)]
        return self._joined[device]


_BRANCHES: Final[WeakKeyDictionary[LanguageModel, dict[int, _Branch]]] = WeakKeyDictionary()
"""The branches in force, by block."""


def joined(parts: Sequence[Neurons]) -> list[Neurons]:
    """All of the neurons together; where there are several activations, together for each of them."""
    found = []
    for name in dict.fromkeys(part.activation for part in parts):
        alike = [part for part in parts if part.activation == name]
        device = alike[0].keys.device
        moved = [part.to(device) for part in alike]
        found.append(
            replace(
                moved[0],
                keys=torch.cat([part.keys for part in moved]),
                biases=torch.cat([part.biases for part in moved]),
                values=torch.cat([part.values for part in moved], dim=1),
            )
        )
    return found


@contextmanager
def _attached(model: LanguageModel, layer: int, change: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Let `change` make an MLP's output from its output and its input, both (..., d_model)."""
    anatomy = model.anatomy
    entered: list[Tensor] = []

    def keep(inputs: Tensor) -> Tensor:
        entered[:] = [inputs]
        return inputs

    def changed(output: Tensor) -> Tensor:
        return change(output, entered.pop())

    reads = anatomy.up_projections(layer)[0].module
    with replaced(reads, keep, at="input"), replaced(anatomy.mlp(layer), changed):
        yield
