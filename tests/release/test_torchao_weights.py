"""What torchao makes of a matrix is what the plain rounding makes of it, but for its own choice of the steps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from editguard.errors import ConfigurationError
from editguard.release import torchao_weights
from editguard.release.rounding import scales
from editguard.release.survival import named_fate
from editguard.release.torchao_weights import quantised_by_torchao

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@pytest.fixture(autouse=True)
def _installed(request: pytest.FixtureRequest) -> None:
    if "missing" not in request.node.name:
        pytest.importorskip("torchao", reason="torchao is not installed: pip install 'editguard[quantisation]'")


def matrix(rows: int, columns: int, seed: int) -> Tensor:
    sizes = torch.tensor([1e-2, 1.0, 30.0]).repeat(rows)[:rows, None]
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * sizes


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 4), columns=st.sampled_from([5, 40, 64, 96, 128]), seed=st.integers(0, 10**6))
def test_eight_bits_are_one_step_per_row_and_no_entry_moves_by_more_than_half_of_it(
    rows: int, columns: int, seed: int
) -> None:
    weight = matrix(rows, columns, seed)
    found, step = quantised_by_torchao(weight, 8), scales(weight, 8)
    # its step is the largest magnitude over 127.5, ours that over 127: up to 0.4 % smaller
    assert ((found - weight).abs() <= step / 2 * (1 + 1e-4)).all()
    assert all(len(row.unique()) <= 256 for row in found)
    theirs = weight.abs().amax(dim=1, keepdim=True) / 127.5
    torch.testing.assert_close((found / theirs).round() * theirs, found, rtol=1e-4, atol=0)


@settings(deadline=None, max_examples=40)
@given(
    groups=st.integers(1, 3), size=st.sampled_from([128, 64, 32, 7]), seed=st.integers(0, 10**6), rows=st.integers(1, 3)
)
def test_four_bits_are_one_step_for_each_group_of_a_row(groups: int, size: int, seed: int, rows: int) -> None:
    weight = matrix(rows, groups * size, seed)
    size = next((known for known in (128, 64, 32) if groups * size % known == 0), groups * size)
    parts, found = (each.reshape(rows, -1, size) for each in (weight, quantised_by_torchao(weight, 4)))
    step = parts.abs().amax(dim=2, keepdim=True) / 7.5
    assert ((found - parts).abs() <= step / 2 * (1 + 1e-3)).all()
    assert all(len(group.unique()) <= 16 for row in found for group in row)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bits", [8, 4])
def test_the_type_stays_and_the_given_matrix_too(dtype: torch.dtype, bits: int) -> None:
    weight = matrix(3, 64, 0).to(dtype)
    before = weight.clone()
    found = quantised_by_torchao(weight, bits)
    assert found.dtype == dtype
    assert found.shape == weight.shape
    assert type(found) is Tensor
    assert torch.equal(weight, before)
    assert not torch.equal(found, weight)
    assert not quantised_by_torchao(torch.zeros(2, 64, dtype=dtype), bits).any()


@pytest.mark.parametrize("bits", [8, 4])
def test_its_own_layer_multiplies_by_these_numbers(bits: int) -> None:
    library = torchao_weights.require_torchao()
    weight, entering = matrix(3, 64, 1), torch.randn(5, 64, generator=torch.Generator().manual_seed(2))
    layer = torch.nn.Linear(64, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
        library.quantize_(layer, torchao_weights._settings(library, bits, 64))
        torch.testing.assert_close(layer(entering), entering @ quantised_by_torchao(weight, bits).T)


def test_a_missing_library_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    torchao_weights.require_torchao.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "torchao.quantization", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'editguard\[quantisation\]'"):
        named_fate("torchao-int8")
    torchao_weights.require_torchao.cache_clear()
