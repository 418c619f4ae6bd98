"""Rounding is to the nearest, row by row; and after whatever happened the model has its own bytes again."""

from typing import Any

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from editguard.edited import AppliedEdit, EditedModel, WeightDelta
from editguard.errors import ConfigurationError, MethodRefused
from editguard.models import LanguageModel
from editguard.models.weights import Dense
from editguard.release.rounding import Rounding, linear_weights, quantised, rounded, scales
from editguard.release.survival import FATES, aged, named_fate

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


def fate_of(name: str, **options: object) -> Any:
    """The fate, ready to happen; a test that needs a library that is not installed is skipped."""
    if name.startswith("torchao"):
        pytest.importorskip("torchao", reason="torchao is not installed: pip install 'editguard[quantisation]'")
    if isinstance(FATES[name], Rounding):
        return named_fate(name)
    return named_fate(name, texts=zoo.SENTENCES, steps=2, learning_rate=1e-2, **options)


def scripted(model: LanguageModel, scale: float = 1.0) -> EditedModel:
    """A model with a random change of one matrix."""
    down = model.anatomy.down_projection(1)
    change = WeightDelta({down.name: Dense(scale * torch.randn(down.shape))})
    return EditedModel.original(model).extended(AppliedEdit("scripted", (), (change,)))


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", pytest.param("bart", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FATES)
def test_what_happens_to_an_edited_model_happens_to_the_edit_and_is_taken_back(family: str, name: str) -> None:
    fate = fate_of(name)
    model = zoo.tiny(family)
    down = model.anatomy.down_projection(1)
    edited = scripted(model)
    digests = {}
    for which, state in (("rest", EditedModel.original(model)), ("edited", edited)):
        with state:
            digests[which] = model.weights.digest()
    with edited:
        before = {which: each.detach().clone() for which, each in model.module.named_parameters()}
    after = aged(edited, fate)
    assert model.weights.digest() == digests["rest"]
    for _ in range(2):
        with after:
            model.weights.verify()
            changed = {which for which, each in model.module.named_parameters() if not torch.equal(each, before[which])}
            if name != "lora-merge":
                assert down.name in changed
            if isinstance(fate, Rounding) and fate.matrices:
                assert changed <= set(linear_weights(model))
                if not name.startswith("torchao"):
                    own = before[down.name].T if down.transposed else before[down.name]
                    assert torch.equal(down.weight(), quantised(own, int(name[-1])))
            elif name != "lora-merge":
                assert len(changed) > len(before) / 2
            assert all(each.dtype == before[which].dtype for which, each in model.module.named_parameters())
        with edited:
            assert model.weights.digest() == digests["edited"]
        EditedModel.original(model).activate()
        assert model.weights.digest() == digests["rest"]


def test_one_thing_happens_after_another() -> None:
    model = zoo.tiny("gpt2")
    tuned = aged(scripted(model), fate_of("fine-tuning"))
    down = model.anatomy.down_projection(1)
    with tuned:
        wanted = quantised(down.weight().detach(), 8)
    with aged(tuned, "int8"):
        assert torch.equal(down.weight(), wanted)
        model.weights.verify()
    EditedModel.original(model).activate()
    model.weights.verify()


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
    with pytest.raises(ConfigurationError, match=r"int8, int4, .*\. Did you mean 'int8'"):
        aged(EditedModel.original(model), "int9")
    down = model.anatomy.down_projection(1)
    edit = AppliedEdit("scripted", (), (WeightDelta({down.name: Dense(torch.full(down.shape, 1e6))}),))
    edited = EditedModel.original(model).extended(edit)
    with pytest.raises(MethodRefused, match="infinite"):
        aged(edited, "float16").activate()
    model.weights.verify()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("int8", {"steps": 3}, "int8 rounds weights and has no options; got steps"),
        ("int8", {"texts": ["a b c"]}, "has no options; got texts"),
        ("fine-tuning", {"step": 3}, r"and no 'step'\. Did you mean 'steps'"),
        ("fine-tuning", {"rank": 3}, "and no 'rank'"),
        ("fine-tuning", {"steps": 1.5}, "steps is a whole number, not 1.5"),
        ("fine-tuning", {"learning_rate": "fast"}, "learning_rate is a number, not 'fast'"),
        ("fine-tuning", {"learning_rate": 0}, "learning_rate is positive, not 0"),
        ("lora-merge", {"steps": -1}, "steps is at least 0, not -1"),
        ("lora-merge", {"rank": 0}, "rank and alpha are at least 1"),
        ("lora-merge", {"texts": "a text"}, "texts are a list of texts"),
    ],
)
def test_what_a_fate_does_not_understand_is_one_clear_error(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        named_fate(name, **options)


@given(
    steps=st.sampled_from([None, 30, 3]),
    rate=st.sampled_from([None, 5e-5, 5e-4]),
    texts=st.sampled_from([None, ["a b c"], ["a b", "c"]]),
)
def test_fates_have_the_same_label_when_they_were_set_the_same(
    steps: int | None, rate: float | None, texts: list[str] | None
) -> None:
    options = {key: value for key, value in (("steps", steps), ("learning_rate", rate)) if value is not None}
    found = named_fate("fine-tuning", texts=texts, otherwise=["by default"], **options)
    assert (found.label == "fine-tuning") is (steps in (None, 30) and rate in (None, 5e-5) and texts is None)
    assert found.texts == ("by default",) if texts is None else tuple(texts)
    again = named_fate("fine-tuning", texts=texts, otherwise=["by default"], **{"learning_rate": 5e-5, **options})
    assert found == again
    assert found.label == again.label
    other = named_fate("fine-tuning", texts=["a", "bc"], **options)
    assert other.label != found.label
