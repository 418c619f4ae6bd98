"""In which number format a pocket model is trained: bfloat16 where the machine multiplies it, float32 elsewhere.

A processor without instructions for bfloat16 emulates it: there a step of training took ten times that of float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for products of bfloat16 matrices."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(found.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def mixed_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Within the block, products of matrices are in bfloat16, where the device multiplies it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=multiplies_bfloat16(device))


def native_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Within the block, what turns to bfloat16 of itself, as Muon does, stays as it is where that would be emulated."""
    return nullcontext() if multiplies_bfloat16(device) else _WithoutBfloat16()


class _WithoutBfloat16(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return args[0] if func is torch.Tensor.bfloat16 else func(*args, **(kwargs or {}))
