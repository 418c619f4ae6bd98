"""Rounding is to the nearest, row by row; and the model has its own bytes afterwards."""

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from editguard.edited import AppliedEdit, EditedModel, WeightDelta
from editguard.errors import ConfigurationError, MethodRefused
from editguard.models.weights import Dense
from editguard.release.survival import FATES, aged, linear_weights, quantised, rounded, scales

BITS = st.sampled_from([4, 8])


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    """(d_out, d_in), rows of very different sizes, some of zeros."""
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    sizes = torch.tensor(draw(st.lists(st.sampled_from([0.0, 1e-4, 1.0, 30.0]), min_size=rows, max_size=rows)))
    values = torch.randn(rows, columns, generator=generator) * sizes[:, None]
    return values.to(draw(st.sampled_from([torch.float32, torch.float64])))


@settings(deadline=None)
@given(matrices(), BITS)
def test_no_entry_moves_by_more_than_half_a_step_and_a_row_has_so_many_levels(weight: Tensor, bits: int) -> None:
    found, step = quantised(weight, bits), scales(weight, bits)
    assert found.shape == weight.shape
    assert found.dtype == weight.dtype
    assert ((found - weight).abs() <= step / 2 * (1 + 1e-4)).all()
    assert ((found / step).round().abs() <= 2 ** (bits - 1) - 1).all()
    assert max(len(row.unique()) for row in found.abs()) <= 2 ** (bits - 1)
    largest = weight.abs().amax(dim=1)
    torch.testing.assert_close(found.abs().amax(dim=1), largest)
    assert not found[weight == 0].any()


@settings(deadline=None)
@given(matrices(), BITS, st.integers(-8, 8))
def test_sign_scale_and_the_other_rows_do_not_matter(weight: Tensor, bits: int, power: int) -> None:
    found = quantised(weight, bits)
    assert torch.equal(quantised(-weight, bits), -found)
    assert torch.equal(quantised(weight * 2.0**power, bits), found * 2.0**power)
    assert torch.equal(quantised(weight[:1], bits), found[:1])
    torch.testing.assert_close(quantised(found, bits), found)


@given(BITS, st.integers(0, 10**6))
def test_whole_numbers_up_to_the_largest_stay(bits: int, seed: int) -> None:
    most = 2 ** (bits - 1) - 1
    weight = torch.randint(-most, most + 1, (3, 6), generator=torch.Generator().manual_seed(seed)).float()
    weight[:, 0] = most
    assert torch.equal(quantised(weight, bits), weight)


@given(matrices())
def test_a_type_keeps_what_it_can_hold(weight: Tensor) -> None:
    found = rounded(weight, torch.bfloat16)
    assert torch.equal(found, rounded(found, torch.bfloat16))
    assert ((found - weight).abs() <= weight.abs() * 2.0**-8).all()


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", pytest.param("bart", marks=pytest.mark.slow)])
@pytest.mark.parametrize("fate", FATES)
def test_what_happens_to_an_edited_model_happens_to_the_edit_and_is_taken_back(family: str, fate: str) -> None:
    model = zoo.tiny(family)
    down = model.anatomy.down_projection(1)
    edit = AppliedEdit("scripted", (), (WeightDelta({down.name: Dense(torch.randn(down.shape))}),))
    edited = EditedModel.original(model).extended(edit)
    digests = {}
    for name, state in (("rest", EditedModel.original(model)), ("edited", edited)):
        with state:
            digests[name] = model.weights.digest()
    with edited:
        before = {name: each.detach().clone() for name, each in model.module.named_parameters()}
    matrix = FATES[fate].matrices
    with aged(edited, fate):
        model.weights.verify()
        changed = {name for name, each in model.module.named_parameters() if not torch.equal(each, before[name])}
        assert down.name in changed
        assert changed <= set(linear_weights(model)) if matrix else len(changed) > len(before) / 2
        wanted = quantised(before[down.name].T if down.transposed else before[down.name], 8 if fate == "int8" else 4)
        if matrix:
            assert torch.equal(down.weight(), wanted)
    with edited:
        assert model.weights.digest() == digests["edited"]
    EditedModel.original(model).activate()
    assert model.weights.digest() == digests["rest"]


@pytest.mark.parametrize("family", [*zoo.QUICK, *(pytest.param(each, marks=pytest.mark.slow) for each in zoo.ALL)])
def test_every_linear_matrix_is_quantised_once_but_embedding_and_head(family: str) -> None:
    model = zoo.tiny(family)
    names = linear_weights(model)
    own = {name: id(each) for name, each in model.module.named_parameters(remove_duplicate=False)}
    assert len({own[name] for name in names}) == len(names)
    assert model.anatomy.down_projection(0).name in names
    kept = {id(each) for part in (model.anatomy.embedding, model.anatomy.head) for each in part.parameters()}
    assert not kept & {own[name] for name in names}
    linear = {id(m.weight) for m in model.module.modules() if isinstance(m, nn.Linear | Conv1D)}
    assert linear - kept == {own[name] for name in names}


def test_what_does_not_fit_a_type_and_what_is_no_fate_are_refused() -> None:
    model = zoo.tiny("llama")
    with pytest.raises(ConfigurationError, match=r"int8, int4\. Did you mean 'int8'"):
        aged(EditedModel.original(model), "int9")
    down = model.anatomy.down_projection(1)
    edit = AppliedEdit("scripted", (), (WeightDelta({down.name: Dense(torch.full(down.shape, 1e6))}),))
    edited = EditedModel.original(model).extended(edit)
    with pytest.raises(MethodRefused, match="infinite"):
        aged(edited, "float16").activate()
    model.weights.verify()
