"""A continuation must say what whole passes say, for every family, and run nothing that they need not."""

import pytest
import torch
import zoo
from torch import Tensor

from editguard.models import LanguageModel, capture
from editguard.models.continuation import Continuation, FullForward, Row, continued

ROWS = (
    Row((5, 9, 20, 31, 44, 50, 61, 70, 80), 4, (7, 8)),
    Row((11, 12, 13), 2, (2,)),
    Row((40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51), 8, (8, 9, 10, 11)),
    Row((9, 10), 0, (1,)),
)
READS = sum(len(row.read) for row in ROWS)


def vectors(dtype: torch.dtype = torch.float64) -> Tensor:
    drawn = torch.randn(len(ROWS), zoo.D_MODEL, dtype=dtype, generator=torch.Generator().manual_seed(1))
    return drawn.requires_grad_()


def loss_and_gradient(
    passes: Continuation | FullForward, module: torch.nn.Module, moved: Tensor
) -> tuple[Tensor, Tensor]:
    with passes.added(module, moved):
        logits = passes.logits()
    loss = -logits.log_softmax(-1)[range(READS), range(READS)]
    [gradient] = torch.autograd.grad(loss.sum(), [moved])
    return loss.detach(), gradient


@pytest.mark.parametrize("family", zoo.FAMILIES)
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_loss_and_gradient_are_those_of_whole_passes(family: str, dtype: torch.dtype, relative: float) -> None:
    if family == "gptj" and dtype == torch.float64:
        relative = 1e-6  # its attention computes in float32 whatever the weights are
    model = zoo.tiny(family, dtype=dtype)
    for layer in (0, 2, model.anatomy.layers - 1):
        short, full = Continuation(model, ROWS, layer), FullForward(model, ROWS)
        for module in (model.anatomy.down_projection(layer).module, model.anatomy.block(layer)):
            ours = loss_and_gradient(short, module, vectors(dtype))
            oracle = loss_and_gradient(full, module, vectors(dtype))
            for found, wanted in zip(ours, oracle, strict=True):
                assert (found - wanted).abs().max() <= relative * wanted.abs().max()
            again = loss_and_gradient(short, module, vectors(dtype))
            assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
@pytest.mark.parametrize("make", [Continuation, FullForward])
def test_what_is_captured_at_the_reads_is_what_the_logits_come_from(family: str, make: type) -> None:
    model = zoo.tiny(family, dtype=torch.float64)
    passes = make(model, ROWS, 2)
    with torch.no_grad(), capture(model.anatomy.block(3)) as last:
        logits = passes.logits()
        torch.testing.assert_close(model.anatomy.logits(passes.at_reads(last.value)), logits)


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_every_family_can_be_continued(family: str) -> None:
    assert isinstance(continued(zoo.tiny(family), ROWS, 1), Continuation)
    assert isinstance(continued(zoo.tiny(family, dtype=torch.bfloat16), ROWS, 1), Continuation)


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_rows_without_anything_before_the_start_are_continued_too(family: str) -> None:
    model = zoo.tiny(family, dtype=torch.float64)
    rows = [Row(row.ids, 0, row.read) for row in ROWS]
    torch.testing.assert_close(
        Continuation(model, rows, 1).logits(), FullForward(model, rows).logits(), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_neither_padding_nor_order_of_rows_changes_a_row(family: str) -> None:
    model = zoo.tiny(family, dtype=torch.float64)
    whole = Continuation(model, ROWS, 1).logits().split([len(row.read) for row in ROWS])
    for alone, row in zip(whole, ROWS, strict=True):
        torch.testing.assert_close(Continuation(model, [row], 1).logits(), alone, rtol=1e-6, atol=1e-6)
    turned = Continuation(model, ROWS[::-1], 1).logits().split([len(row.read) for row in ROWS[::-1]])
    for ours, theirs in zip(turned[::-1], whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_a_vector_reaches_no_earlier_position_and_no_lower_block(family: str) -> None:
    model = zoo.tiny(family)
    layer, row = 2, ROWS[0]
    full = FullForward(model, [row])
    states = []
    for moved in (torch.zeros(1, zoo.D_MODEL), torch.ones(1, zoo.D_MODEL)):
        captures = [capture(model.anatomy.block(number)) for number in range(model.anatomy.layers)]
        opened = [each.__enter__() for each in captures]
        with full.added(model.anatomy.down_projection(layer).module, moved):
            full.logits()
        for each in captures:
            each.__exit__(None, None, None)
        states.append([one.value for one in opened])
    without, with_vector = states
    for number, (before, after) in enumerate(zip(without, with_vector, strict=True)):
        assert torch.equal(before[:, : row.start], after[:, : row.start])
        assert torch.equal(before, after) == (number < layer)


def test_only_blocks_from_the_layer_on_positions_from_the_start_on_and_asked_logits_are_computed() -> None:
    model = zoo.tiny("gpt2")
    short = Continuation(model, ROWS, 2)
    seen: dict[str, list[torch.Size]] = {}
    handles = [
        module.register_forward_hook(
            lambda _, args, __, name=name: seen.setdefault(name, []).append(args[0].shape[:-1])
        )
        for name, module in (
            *((f"block {number}", model.anatomy.block(number)) for number in range(4)),
            ("head", model.anatomy.head),
        )
    ]
    short.logits()
    for handle in handles:
        handle.remove()
    longest = max(len(row.ids) - row.start for row in ROWS)
    assert seen == {
        "block 2": [(len(ROWS), longest)],
        "block 3": [(len(ROWS), longest)],
        "head": [(READS,)],
    }


def test_a_model_whose_blocks_cannot_be_replayed_is_run_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = FullForward(zoo.tiny("gpt2"), ROWS).logits()
    for failure in ("raises", "forgets"):
        model = zoo.tiny("gpt2")
        block = model.anatomy.block(3)
        whole = block.forward
        calls: list[int] = []

        def stateful(*args, failure=failure, whole=whole, calls=calls, **kwargs):
            calls.append(1)
            if len(calls) == 3:  # prefix, suffix, then the first replay
                if failure == "raises":
                    raise TypeError("not like this")
                return whole(*args, **kwargs).roll(1, -1)
            return whole(*args, **kwargs)

        monkeypatch.setattr(block, "forward", stateful)
        passes = continued(model, ROWS, 1)
        assert isinstance(passes, FullForward)
        torch.testing.assert_close(passes.logits(), wanted)
        assert isinstance(continued(model, ROWS, 1), FullForward)


def test_a_pass_leaves_nothing_behind() -> None:
    model: LanguageModel = zoo.tiny("llama")
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.module.modules()]
    state = torch.get_rng_state()
    short = continued(model, ROWS, 1)
    loss_and_gradient(short, model.anatomy.block(1), vectors())
    assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.module.modules()]
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.module.parameters())


@pytest.mark.parametrize(("start", "read"), [(3, (3,)), (-1, (0,)), (1, (0,)), (1, (3,))])
def test_rows_that_cannot_be_read_are_refused(start: int, read: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"row|positions"):
        Row((1, 2, 3), start, read)
