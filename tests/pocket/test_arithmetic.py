"""Training multiplies in bfloat16 only where the processor does."""

from __future__ import annotations

import pytest
import torch
from torch.optim import Muon

from editguard.pocket.arithmetic import mixed_precision, multiplies_bfloat16, native_precision

CPU = torch.device("cpu")


@pytest.fixture(params=[True, False], ids=["instructions for bfloat16", "none"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    found: bool = request.param
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": found, "amx_bf16": False})
    return found


def test_products_are_in_bfloat16_where_the_processor_multiplies_it(native: bool) -> None:
    assert multiplies_bfloat16(CPU) is native
    with mixed_precision(CPU):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype is (torch.bfloat16 if native else torch.float32)


def test_a_step_of_muon_is_in_the_same_format(native: bool) -> None:
    formats: set[torch.dtype] = set()
    parameter = torch.nn.Parameter(torch.eye(4))
    parameter.grad = torch.arange(16.0).reshape(4, 4)
    optimizer = Muon([parameter])
    plain = torch.addmm

    def watched(*arguments: torch.Tensor, **options: float) -> torch.Tensor:
        formats.add(arguments[1].dtype)
        return plain(*arguments, **options)

    with native_precision(CPU), pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "addmm", watched)
        optimizer.step()
    assert formats == {torch.bfloat16 if native else torch.float32}
    assert parameter.dtype is torch.float32
