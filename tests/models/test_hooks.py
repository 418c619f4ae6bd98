"""Hooks read and replace what flows between modules, and are always gone afterwards."""

import pytest
import torch
import zoo
from torch import nn

from editguard.models.hooks import added, capture, replaced, stop_after

PROMPT = "The capital of Velloria is"


def run(model):
    ids = torch.tensor([model.encode(PROMPT), model.encode(PROMPT)])
    with torch.no_grad():
        return model.logits(ids, torch.ones_like(ids))


def hooks(model) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.module.modules())


@pytest.mark.parametrize("family", ["gpt2", "falcon", "bloom", "opt"])
@pytest.mark.parametrize("at", ["input", "output"])
def test_replacing_a_value_by_itself_changes_nothing_and_by_another_does(family, at):
    model = zoo.tiny(family)
    before = run(model)
    for module in (model.anatomy.block(1), model.anatomy.mlp(1), model.anatomy.down_projection(1).module):
        with replaced(module, lambda value: value.clone(), at):
            assert torch.equal(run(model), before)
        with replaced(module, lambda value: value * 2 + 1, at):
            assert not torch.equal(run(model), before)
    assert hooks(model) == 0
    assert torch.equal(run(model), before)


@pytest.mark.parametrize("family", ["gpt2", "falcon"])
def test_blocks_that_return_tuples_are_read_and_replaced_alike(family):
    model = zoo.tiny(family)
    with capture(model.anatomy.block(3)) as captured:
        run(model)
    with (
        replaced(model.anatomy.block(3), lambda value: torch.zeros_like(value)),
        capture(model.anatomy.final_norm, "input") as after,
    ):
        run(model)
    assert captured.value.shape == after.value.shape == (2, len(model.encode(PROMPT)), zoo.D_MODEL)
    assert not after.value.any()


def test_captured_values_are_not_touched_by_what_the_model_does_to_them_later():
    model = zoo.tiny("falcon")  # adds attention to the MLP's output in place
    down = model.anatomy.down_projection(0)
    with capture(model.anatomy.mlp(0)) as output, capture(down.module, "input") as key:
        run(model)
    torch.testing.assert_close(output.value, key.value @ down.weight().T)


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_a_vector_is_added_at_the_position_of_each_row_alone(family):
    model = zoo.tiny(family)
    place = model.anatomy.mlp(1)
    with capture(place) as before:
        run(model)
    vectors = torch.stack([torch.ones(zoo.D_MODEL), -torch.ones(zoo.D_MODEL)])
    with added(place, [2, 4], vectors), capture(place) as after:
        run(model)
    width = len(model.encode(PROMPT))
    moved = (after.value - before.value).reshape(2, width, -1)
    expected = torch.zeros(2, width, zoo.D_MODEL)
    expected[0, 2], expected[1, 4] = 1, -1
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-5)


def test_a_pass_can_end_at_a_module_and_nothing_above_it_runs():
    model = zoo.tiny("gpt2")
    ran: list[int] = []
    handles = [
        model.anatomy.block(layer).register_forward_pre_hook(lambda *_, layer=layer: ran.append(layer))
        for layer in range(zoo.LAYERS)
    ]
    with capture(model.anatomy.mlp(1)) as captured, stop_after(model.anatomy.mlp(1)):
        run(model)
    assert ran == [0, 1]
    assert len(captured.calls) == 1
    with stop_after(model.anatomy.block(0), "input"):
        run(model)
    assert ran == [0, 1, 0]
    for handle in handles:
        handle.remove()
    assert hooks(model) == 0


def test_hooks_are_gone_after_an_exception_and_other_exceptions_pass():
    model = zoo.tiny("gpt2")
    part = model.anatomy.mlp(0)
    for context in (
        capture(part),
        replaced(part, lambda value: value),
        added(part, [0], torch.zeros(16)),
        stop_after(part),
    ):
        with pytest.raises(ZeroDivisionError), context:
            raise ZeroDivisionError
    assert hooks(model) == 0


def test_a_module_that_was_not_called_has_no_value():
    with capture(nn.Identity()) as captured:
        pass
    with pytest.raises(LookupError, match="not called"):
        _ = captured.value


def test_gradients_flow_through_captured_values():
    layer = nn.Linear(3, 3)
    with capture(layer) as captured:
        layer(torch.ones(1, 3))
    captured.value.sum().backward()
    assert layer.weight.grad is not None
