"""Low-rank adapters of the package `peft`, in a model for the length of a `with` block.

Inside, the modules of some matrices are wrapped in `peft`'s, and each computes W x + b + (alpha / r) B A x. Afterwards
the model has its own modules, flags and attributes again, whatever happened.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, section 4.1.
"""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import torch
from torch import Tensor, nn

from editguard.errors import MethodRefused
from editguard.models.anatomy import Matrix
from editguard.models.weights import LowRank

_NAME: Final = "editguard"
"""The adapters' name inside `peft`."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """What is trained beside one matrix; at least float32.

    Attributes:
        matrix: the matrix, whose module stays as it is inside `peft`'s.
        down: A, (rank, d_in).
        up: B, (d_out, rank); zero at first.
        scale: alpha / rank.
    """

    matrix: Matrix
    down: nn.Parameter
    up: nn.Parameter
    scale: float

    @property
    def parameters(self) -> tuple[nn.Parameter, nn.Parameter]:
        """The trained tensors."""
        return self.down, self.up

    def update(self) -> LowRank:
        """Copy what the adapter adds to the matrix, (alpha / r) B A."""
        return LowRank(self.scale * self.up.detach(), self.down.detach().T.clone())


class SeededDropout(nn.Module):
    """Dropout whose masks come from a generator of its own, in whatever mode the module is.

    The masks are drawn in main memory, so that they are the same on every device.
    """

    def __init__(self, probability: float, generator: torch.Generator) -> None:
        super().__init__()
        self._probability, self._generator = probability, generator

    def forward(self, entering: Tensor) -> Tensor:
        """Return the tensor with entries set to zero at random, the others enlarged so that the mean stays."""
        kept = torch.rand(entering.shape, generator=self._generator) >= self._probability
        return entering * kept.to(entering) / (1 - self._probability)


def require_peft() -> ModuleType:
    """Import `peft` and return it.

    Raises: MethodRefused: it is not installed.
    """
    try:
        import peft
    except ImportError as missing:
        raise MethodRefused(
            "low-rank adapters need the package peft, which cannot be imported here: pip install 'editguard[lora]'."
        ) from missing
    return peft


def first_down(rank: int, d_in: int, generator: torch.Generator) -> Tensor:
    """Draw A (rank, d_in) as `peft` does: uniform within 1 / sqrt(d_in)."""
    return (2 * torch.rand(rank, d_in, generator=generator) - 1) / math.sqrt(d_in)


@contextmanager
def low_rank_adapters(
    module: nn.Module, matrices: Sequence[Matrix], *, rank: int, alpha: int, dropout: float, generator: torch.Generator
) -> Iterator[list[Adapter]]:
    """Let the matrices compute with adapters within the block, in evaluation mode; yield these in the same order.

    Args:
        module: the Hugging Face model that the matrices are of.
        alpha: the update is alpha / rank times B A.
        dropout: share of the entries of A's input that are left out, at each pass anew.
        generator: in main memory; the only source of randomness.

    Raises: MethodRefused: `peft` is not installed.
    """
    peft = require_peft()
    names = [matrix.name.removesuffix(".weight") for matrix in matrices]
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules="|".join(map(re.escape, names)),  # a pattern that the whole name must match
        fan_in_fan_out=any(matrix.transposed for matrix in matrices),
    )
    with _own_modules_afterwards(module, names):
        module.train(False)
        module.__dict__.pop("peft_config", None)  # of an adapter that was merged: `peft` would write to it
        with torch.random.fork_rng(devices=[]):  # `peft` draws values that are not kept
            peft.inject_adapter_in_model(config, module, adapter_name=_NAME)
        yield [
            _set_up(module.get_submodule(name), matrix, dropout, generator)
            for name, matrix in zip(names, matrices, strict=True)
        ]


def _set_up(layer: Any, matrix: Matrix, dropout: float, generator: torch.Generator) -> Adapter:
    """Give an injected layer its first values, the type to be trained in, and its dropout."""
    wide = torch.promote_types(matrix.parameter.dtype, torch.float32)
    down, up = layer.lora_A[_NAME].to(wide).weight, layer.lora_B[_NAME].to(wide).weight
    with torch.no_grad():
        down.copy_(first_down(down.shape[0], down.shape[1], generator))
        up.zero_()
    if dropout:
        layer.lora_dropout[_NAME] = SeededDropout(dropout, generator)
    return Adapter(matrix, down, up, layer.scaling[_NAME])


@contextmanager
def _own_modules_afterwards(module: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Put back the named submodules, the flags of all parameters and modules, and the attributes of the model."""
    own = {name: module.get_submodule(name) for name in names}
    training = [(each, each.training) for each in module.modules()]
    requires_grad = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    attributes = dict(module.__dict__)
    try:
        yield
    finally:
        for name, submodule in own.items():
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, submodule)
        for each, flag in training:
            each.training = flag
        for parameter, flag in requires_grad:
            parameter.requires_grad = flag
        for name in module.__dict__.keys() - attributes.keys():
            delattr(module, name)
        module.__dict__.update(attributes)
