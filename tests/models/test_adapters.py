"""Adapters: what they compute, and that nothing of them stays in the model."""

import sys
from typing import Any

import peft
import pytest
import torch
import zoo

from editguard.errors import MethodRefused
from editguard.models import LanguageModel, Matrix
from editguard.models.adapters import Adapter, SeededDropout, first_down, low_rank_adapters, require_peft

RANK, ALPHA = 3, 12
every_family = pytest.mark.parametrize("family", zoo.ALL)


def matrices_of(model: LanguageModel, layers: tuple[int, ...] = (1, 3)) -> list[Matrix]:
    anatomy = model.anatomy
    return [
        matrix
        for layer in layers
        for matrix in (
            *anatomy.queries_and_values(layer),
            *anatomy.up_projections(layer),
            anatomy.down_projection(layer),
        )
    ]


def adapted(model: LanguageModel, matrices: list[Matrix], **options: Any):
    chosen = {"rank": RANK, "alpha": ALPHA, "dropout": 0.0, "generator": torch.Generator().manual_seed(5), **options}
    return low_rank_adapters(model.module, matrices, **chosen)


def logits(model: LanguageModel) -> torch.Tensor:
    ids = torch.tensor([model.encode(zoo.SENTENCES[0])])
    decoder = {"decoder_input_ids": torch.tensor([[*model.opening, 41, 9]])} if model.anatomy.encoder_layers else {}
    with torch.no_grad():
        found: torch.Tensor = model.module(input_ids=ids, **decoder).logits
    return found


def state(model: LanguageModel) -> list[object]:
    """Everything but the bytes that could be left different: objects by identity, and in their order."""
    module = model.module
    return [
        [(name, id(each), each.training) for name, each in module.named_modules()],
        [len(each._forward_hooks) + len(each._forward_pre_hooks) for each in module.modules()],
        [(name, id(each), each.requires_grad, each.grad) for name, each in module.named_parameters()],
        {name: id(value) for name, value in module.__dict__.items()},
        module.config.to_dict(),
        module.is_gradient_checkpointing,
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
    ]


def filled(adapters: list[Adapter]) -> None:
    """Give both factors values that are not zero."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for adapter in adapters:
            for parameter in adapter.parameters:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


@every_family
def test_new_adapters_change_no_bit_and_leave_the_identical_modules_behind(family: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = zoo.tiny(family, dtype=dtype)
        before, computed, bytes_before = state(model), logits(model), model.weights.digest()
        with adapted(model, matrices_of(model)) as adapters:
            assert state(model) != before
            assert torch.equal(logits(model), computed)
            filled(adapters)
            assert not torch.equal(logits(model), computed)
        assert state(model) == before
        assert torch.equal(logits(model), computed)
        assert model.weights.digest() == bytes_before


@every_family
def test_adapters_compute_what_their_updates_do_as_part_of_the_weights(family: str) -> None:
    model = zoo.tiny(family, dtype=torch.float64)
    with adapted(model, matrices_of(model)) as adapters:
        filled(adapters)
        living = logits(model)
        updates = {adapter.matrix.name: adapter.update() for adapter in adapters}
    model.weights.push(updates)
    torch.testing.assert_close(logits(model), living, rtol=1e-9, atol=1e-12)
    model.weights.pop()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_square_matrix_is_adapted_in_its_own_orientation(family: str) -> None:
    model = zoo.tiny(family, dtype=torch.float64, square=True)
    with adapted(model, [model.anatomy.down_projection(1)]) as [adapter]:
        filled([adapter])
        living, update = logits(model), adapter.update()
    model.weights.push({adapter.matrix.name: update})
    torch.testing.assert_close(logits(model), living, rtol=1e-9, atol=1e-12)


def test_an_update_is_alpha_over_rank_times_the_factors_and_of_no_higher_rank() -> None:
    model = zoo.tiny("gpt2", dtype=torch.float64)
    base = logits(model)
    found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for alpha in (1, 6, 12):
        with adapted(model, [model.anatomy.down_projection(3)], alpha=alpha) as [adapter]:
            filled([adapter])
            wanted = alpha / RANK * adapter.up @ adapter.down
            torch.testing.assert_close(adapter.update().dense(), wanted)
            assert torch.linalg.matrix_rank(wanted) == RANK
            captured: list[torch.Tensor] = []
            handle = model.anatomy.block(3).register_forward_hook(lambda _, __, out, c=captured: c.append(out))
            logits(model)
            handle.remove()
            found[alpha] = (captured[0][0] if isinstance(captured[0], tuple) else captured[0], wanted)
    unedited: list[torch.Tensor] = []
    handle = model.anatomy.block(3).register_forward_hook(lambda _, __, out: unedited.append(out))
    assert torch.equal(logits(model), base)
    handle.remove()
    plain = unedited[0][0] if isinstance(unedited[0], tuple) else unedited[0]
    for alpha in (6, 12):  # the last block's output moves in proportion
        torch.testing.assert_close(found[alpha][0] - plain, alpha * (found[1][0] - plain))


def test_an_update_is_a_copy_that_later_training_does_not_reach() -> None:
    model = zoo.tiny("llama")
    with adapted(model, matrices_of(model)) as adapters:
        filled(adapters)
        update = adapters[0].update()
        before = update.dense().clone()
        with torch.no_grad():
            for parameter in adapters[0].parameters:
                parameter += 1
        assert torch.equal(update.dense(), before)
        assert not update.left.requires_grad
        assert not update.right.requires_grad


@pytest.mark.parametrize(("dtype", "wanted"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_adapters_are_trained_in_a_wide_type_and_they_alone(dtype: torch.dtype, wanted: torch.dtype) -> None:
    model = zoo.tiny("gpt2", dtype=dtype)
    odd = next(model.module.parameters())
    odd.requires_grad_(True)
    with adapted(model, matrices_of(model)) as adapters:
        trainable = {id(each) for each in model.module.parameters() if each.requires_grad}
        assert trainable == {id(each) for adapter in adapters for each in adapter.parameters}
        assert {each.dtype for adapter in adapters for each in adapter.parameters} == {wanted}
    assert odd.requires_grad


def test_only_the_named_matrices_are_adapted() -> None:
    model = zoo.tiny("llama")
    wanted = matrices_of(model, layers=(2,))[:2]
    with adapted(model, wanted):
        wrapped = {name for name, each in model.module.named_modules() if isinstance(each, peft.tuners.lora.LoraLayer)}
    assert wrapped == {matrix.name.removesuffix(".weight") for matrix in wanted}


def test_many_matrices_are_adapted_by_their_whole_names() -> None:
    """Suffixes that stand for many names, as `peft` shortens long lists, would reach other blocks."""
    config = zoo.module("llama").config
    config.num_hidden_layers = 13
    with torch.random.fork_rng(devices=[]):
        model = LanguageModel(type(zoo.module("llama"))(config), zoo.tokenizer("llama"), name="deep")
    wanted = matrices_of(model, layers=(1, 2, 3, 4, 5, 6))
    assert len(wanted) > 20
    with adapted(model, wanted):
        wrapped = {name for name, each in model.module.named_modules() if isinstance(each, peft.tuners.lora.LoraLayer)}
    assert wrapped == {matrix.name.removesuffix(".weight") for matrix in wanted}


@pytest.mark.parametrize("when", ["while they are put in", "inside"])
def test_a_failure_leaves_the_identical_model(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny("gpt2")
    model.module.peft_config = {"left by": "an adapter that was merged"}
    before = state(model)
    inject = peft.inject_adapter_in_model

    def failing(*args: Any, **options: Any) -> Any:
        inject(*args, **options)
        raise RuntimeError("the power went out")

    if when == "while they are put in":
        monkeypatch.setattr(peft, "inject_adapter_in_model", failing)
    with pytest.raises(RuntimeError, match="power"), adapted(model, matrices_of(model)) as adapters:
        filled(adapters)
        raise RuntimeError("the power went out")
    assert state(model) == before
    assert model.module.peft_config == {"left by": "an adapter that was merged"}


def test_the_models_own_dropout_is_off_whatever_mode_the_caller_left() -> None:
    model = zoo.tiny("gpt2")  # with dropout of its own
    calm = logits(model)
    model.module.train(True)
    before = state(model)
    with adapted(model, matrices_of(model)):
        assert torch.equal(logits(model), calm)
    assert model.module.training
    assert state(model) == before


def test_first_values_come_from_the_generator_alone_and_are_as_wide_as_published() -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = zoo.tiny("llama")
        with adapted(model, matrices_of(model)) as adapters:
            found.append([adapter.down.detach().clone() for adapter in adapters])
            assert not any(adapter.up.any() for adapter in adapters)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert len({tuple(each.flatten().tolist()[:4]) for each in found[0]}) == len(found[0])
    values = first_down(50, 400, torch.Generator().manual_seed(0))
    assert values.shape == (50, 400)
    assert 0.99 / 20 < values.abs().max() <= 1 / 20
    assert abs(float(values.mean())) < 1e-3
    theirs = torch.nn.Linear(400, 50, bias=False)
    with torch.random.fork_rng(devices=[]):
        torch.nn.init.kaiming_uniform_(theirs.weight, a=5**0.5)
    assert float(values.std()) == pytest.approx(float(theirs.weight.detach().std()), rel=0.02)


def test_dropout_is_seeded_keeps_the_mean_and_works_in_evaluation_mode() -> None:
    ones = torch.ones(200, 300)
    dropout = SeededDropout(0.25, torch.Generator().manual_seed(4)).train(False)
    before = torch.get_rng_state()
    first, second = dropout(ones), dropout(ones)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, second)
    assert first.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float(first.mean()) == pytest.approx(1, abs=0.01)
    again = SeededDropout(0.25, torch.Generator().manual_seed(4))
    assert torch.equal(again(ones), first)
    assert dropout(ones.bfloat16()).dtype == torch.bfloat16


def test_dropout_reaches_the_adapter_and_not_the_matrix() -> None:
    model = zoo.tiny("llama")
    computed = logits(model)
    with adapted(model, matrices_of(model), dropout=0.5) as adapters:
        assert torch.equal(logits(model), computed)
        filled(adapters)
        assert not torch.equal(logits(model), logits(model))


def test_without_the_package_the_refusal_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny("gpt2")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MethodRefused, match=r"pip install 'editguard\[lora\]'"):
        require_peft()
    with pytest.raises(MethodRefused, match="peft"), adapted(model, matrices_of(model)):
        pass
