"""Weight-only quantisation by the library torchao, as the values that its integers and scales stand for.

A matrix is quantised by torchao's own `quantize_`, with its own settings, and turned back by its own `dequantize`:
these are the numbers that its kernels multiply by. What is not reproduced is the kernels' rounding of products, nor the
memory that they save. torchao itself quantises `nn.Linear` alone; here the `Conv1D` of GPT-2, which is the same with
the matrix turned, counts too.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Final

import torch
from torch import Tensor, nn

from editguard.errors import ConfigurationError

GROUPS: Final = (128, 64, 32)
"""Sizes of a group of neighbours in a row that share a scale in 4 bits; the largest that divides the row is taken. 128
is torchao's default, and its kernels know these and 256."""


@cache
def require_torchao() -> ModuleType:
    """Import `torchao.quantization` and return it.

    Raises: ConfigurationError: it is not installed.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it tells of kernels for GPUs that this machine lacks
    try:
        return import_module("torchao.quantization")
    except ImportError as missing:
        raise ConfigurationError(
            "quantisation by torchao needs the package, which cannot be imported here: "
            "pip install 'editguard[quantisation]'."
        ) from missing
    finally:
        logging.disable(before)


def quantised_by_torchao(weight: Tensor, bits: int) -> Tensor:
    """A matrix (d_out, d_in) quantised to 8 or 4 bits by torchao, and back; shape and type stay.

    8 bits: `Int8WeightOnlyConfig`, symmetric, a scale for each row. 4 bits: `IntxWeightOnlyConfig`, symmetric, a scale
    for each group of neighbours in a row (see `GROUPS`), or for each row where no size of group divides it;
    `Int4WeightOnlyConfig`, its form for GPUs, needs one. A matrix in float64, which torchao does not take, is quantised
    in float32.

    Raises: ConfigurationError: torchao is not installed.
    """
    library = require_torchao()
    rows, columns = weight.shape
    dtype = torch.float32 if weight.dtype == torch.float64 else weight.dtype
    holder = nn.Linear(columns, rows, bias=False, dtype=dtype, device=weight.device)
    with torch.no_grad():
        holder.weight.copy_(weight)
        library.quantize_(holder, _settings(library, bits, columns))
        found: Tensor = getattr(holder.weight, "dequantize")()  # noqa: B009  # a tensor of torchao's own kind
    return found.detach().to(weight.dtype)


def _settings(library: ModuleType, bits: int, columns: int) -> object:
    if bits == 8:
        return library.Int8WeightOnlyConfig(set_inductor_config=False, version=2)
    size = next((size for size in GROUPS if columns % size == 0), None)
    granularity = library.PerAxis(0) if size is None else library.PerGroup(size)
    four_bits = getattr(torch, "int4")  # noqa: B009  # torch's own stubs lack it
    return library.IntxWeightOnlyConfig(weight_dtype=four_bits, granularity=granularity)
