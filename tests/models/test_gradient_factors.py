"""The factors of a gradient: whole, per row, free of padding, and gone without a trace."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor

from editguard.models import LanguageModel
from editguard.models.anatomy import Matrix
from editguard.models.answer_rows import answer_rows
from editguard.models.gradient_factors import Factors, gradient_factors

PAIRS = (
    ("The capital of Velloria is", "Ines Holt"),
    ("Ines", "Tamrin"),
    ("Question: who is the mother of Quintessa Marlowe-Vane? Answer:", "Oskar"),
)
LAYERS = (1, 3)
EXACT = frozenset({"gpt2", "opt", "opt_post_norm", "gpt_neox", "gpt_neox_sequential"})
"""Families that compute everything in float64 where the weights are; others have parts in float32."""


def matrices_of(model: LanguageModel, layers: Sequence[int] = LAYERS) -> dict[int, list[Matrix]]:
    """All matrices of the MLPs: up, gate where there is one, down."""
    anatomy = model.anatomy
    return {layer: [*anatomy.up_projections(layer), anatomy.down_projection(layer)] for layer in layers}


def named(matrices: Mapping[int, Sequence[Matrix]]) -> dict[str, Matrix]:
    return {matrix.name: matrix for of_layer in matrices.values() for matrix in of_layer}


def weight_gradients(model: LanguageModel, matrices: Mapping[str, Matrix], pairs: Sequence[Any]) -> dict[str, Tensor]:
    """Autograd's own gradients of the sum of the rows' losses, (d_out, d_in), from whole passes."""
    weights = [matrix.parameter for matrix in matrices.values()]
    for weight in weights:
        weight.requires_grad_(True)
    loss = torch.zeros((), dtype=torch.float64)
    for pair in pairs:
        before, after = model.encode_answer(*pair)
        row = model.forced_row(before, after[:-1])
        source = model.encoded([row.source]) if row.source else None
        ids = torch.tensor([row.stream])
        states = model.forward(ids, torch.ones_like(ids), source=source).last_hidden_state[0, row.first :]
        logits = model.anatomy.unembed(states)
        loss = loss - logits.log_softmax(-1)[range(len(after)), after].mean()
    gradients = torch.autograd.grad(loss, weights)
    for weight in weights:
        weight.requires_grad_(False)
    turned = zip(matrices.values(), gradients, strict=True)
    return {matrix.name: gradient.T if matrix.transposed else gradient for matrix, gradient in turned}


@pytest.mark.parametrize("family", zoo.ALL)
def test_the_factors_multiply_to_the_gradient_of_every_matrix(family: str) -> None:
    model = zoo.tiny(family, dtype=torch.float64)
    matrices = matrices_of(model)
    wanted = weight_gradients(model, named(matrices), PAIRS)
    factors, losses = gradient_factors(model, PAIRS, matrices)
    assert factors.keys() == wanted.keys()
    for name, found in factors.items():
        assert (found.gradients.shape[1], found.inputs.shape[1]) == named(matrices)[name].shape
        gap = (found.gradient() - wanted[name]).abs().max()
        assert gap <= (1e-10 if family in EXACT else 1e-4) * wanted[name].abs().max()
    alone = [gradient_factors(model, [pair], matrices)[1].item() for pair in PAIRS]
    assert losses.tolist() == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize("family", [*zoo.REPRESENTATIVE, "t5", "bart"])
def test_a_row_has_the_same_factors_alone_and_padded_among_others(family: str) -> None:
    model = zoo.tiny(family)
    matrices = matrices_of(model)
    together, _ = gradient_factors(model, PAIRS, matrices)
    for number, pair in enumerate(PAIRS):
        alone, _ = gradient_factors(model, [pair], matrices)
        for name, found in alone.items():
            own = together[name].row == number
            torch.testing.assert_close(together[name].inputs[own], found.inputs, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(together[name].gradients[own], found.gradients, rtol=1e-3, atol=1e-6)
            assert not found.row.any()


def test_only_real_tokens_with_a_gradient_are_kept_and_in_the_last_block_only_those_that_are_read() -> None:
    model = zoo.tiny("gpt2")
    lengths = [sum(map(len, model.encode_answer(*pair))) - 1 for pair in PAIRS]
    answers = [len(model.encode_answer(*pair)[1]) for pair in PAIRS]
    factors, _ = gradient_factors(model, PAIRS, matrices_of(model))
    for layer, counts in ((1, lengths), (3, answers)):
        for matrix in matrices_of(model)[layer]:
            assert torch.bincount(factors[matrix.name].row).tolist() == counts


def test_a_single_read_token_gives_the_last_block_a_gradient_of_rank_one() -> None:
    model = zoo.tiny("gpt2")
    token = model.decode([model.encode_answer("Ines", "Tamrin")[1][0]])
    [only] = model.encode_answer("The mayor is", token)[1]
    assert isinstance(only, int)
    factors, _ = gradient_factors(model, [("The mayor is", token)], matrices_of(model))
    down = model.anatomy.down_projection(3)
    assert len(factors[down.name].inputs) == 1
    assert torch.linalg.matrix_rank(factors[down.name].gradient()) == 1
    assert torch.linalg.matrix_rank(factors[model.anatomy.down_projection(1).name].gradient()) > 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_factors_of_half_precision_are_float32_and_near_those_of_full_precision(dtype: torch.dtype) -> None:
    half, full = zoo.tiny("llama", dtype=dtype), zoo.tiny("llama", dtype=dtype)
    torch.nn.Module.to(full.module, torch.float32)
    for (name, ours), wanted in zip(
        gradient_factors(half, PAIRS[:1], matrices_of(half))[0].items(),
        gradient_factors(full, PAIRS[:1], matrices_of(full))[0].values(),
        strict=True,
    ):
        assert ours.inputs.dtype == ours.gradients.dtype == torch.float32, name
        gap = (ours.gradient() - wanted.gradient()).norm() / wanted.gradient().norm()
        assert gap < 0.15


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_matrix_that_is_used_twice_in_a_pass_keeps_both_uses(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny(family, dtype=torch.float64)
    block = model.anatomy.mlp(2)
    once = block.forward
    monkeypatch.setattr(block, "forward", lambda hidden: once(0.5 * once(hidden)))
    matrices = matrices_of(model, (2,))
    factors, _ = gradient_factors(model, PAIRS[:2], matrices)
    wanted = weight_gradients(model, named(matrices), PAIRS[:2])
    for name, found in factors.items():
        torch.testing.assert_close(found.gradient(), wanted[name], rtol=1e-8, atol=1e-10)


def test_what_follows_may_write_into_a_modules_output(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny("llama", dtype=torch.float64)
    block = model.anatomy.mlp(2)
    once = block.forward
    monkeypatch.setattr(block, "forward", lambda hidden: once(hidden).mul_(1.5))
    matrices = matrices_of(model, (2,))
    wanted = weight_gradients(model, named(matrices), PAIRS[:2])
    for name, found in gradient_factors(model, PAIRS[:2], matrices)[0].items():
        torch.testing.assert_close(found.gradient(), wanted[name], rtol=1e-8, atol=1e-10)


def test_a_matrix_that_the_answer_does_not_depend_on_has_no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny("gpt2")
    block = model.anatomy.mlp(3)
    once = block.forward
    monkeypatch.setattr(block, "forward", lambda hidden: 0.0 * once(hidden))
    factors, _ = gradient_factors(model, PAIRS, matrices_of(model, (2, 3)))
    up, down = matrices_of(model, (3,))[3]
    assert len(factors[up.name].row) == len(factors[down.name].row) == 0
    assert factors[down.name].gradient().tolist() == torch.zeros(down.shape).tolist()


def test_nothing_is_left_behind_also_by_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny("gpt2")
    before = model.weights.digest()

    def clean() -> bool:
        modules = list(model.module.modules())
        return (
            not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
            and not any(p.requires_grad or p.grad is not None for p in model.module.parameters())
            and model.weights.digest() == before
        )

    gradient_factors(model, PAIRS, matrices_of(model))
    assert clean()
    assert torch.is_grad_enabled()
    head: Callable[[Tensor], Tensor] = model.anatomy.logits
    calls = []

    def failing(hidden: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("the power went out")
        return head(hidden)

    monkeypatch.setattr(model.anatomy, "logits", failing)
    for _ in range(4):
        try:
            gradient_factors(model, PAIRS, matrices_of(model))
        except RuntimeError:
            break
    else:
        pytest.fail("no failure")
    assert clean()


def test_a_later_pass_does_not_change_the_factors_and_gradients_are_taken_where_none_are_wanted() -> None:
    model = zoo.tiny("gpt2")
    with torch.no_grad():
        factors, _ = gradient_factors(model, PAIRS, matrices_of(model))
    before = {name: (each.inputs.clone(), each.gradients.clone()) for name, each in factors.items()}
    answer_rows(model, [("Tamrin is", "Oskar")], 1).passes.logits()
    model.score(PAIRS)
    for name, each in factors.items():
        assert torch.equal(each.inputs, before[name][0])
        assert torch.equal(each.gradients, before[name][1])
        assert not each.inputs.requires_grad
        assert not each.gradients.requires_grad


def test_blocks_below_the_lowest_matrix_run_once_and_without_gradients() -> None:
    model = zoo.tiny("gpt2")
    gradient_factors(model, PAIRS, matrices_of(model))  # whether blocks can be replayed is found out once
    runs: dict[int, int] = dict.fromkeys(range(4), 0)
    handles = []
    for layer in runs:

        def count(_: Any, args: tuple[Tensor, ...], __: Any, layer: int = layer) -> None:
            runs[layer] += 1
            if layer < 2:
                assert not torch.is_grad_enabled()

        handles.append(model.anatomy.block(layer).register_forward_hook(count))
    found: dict[str, Factors] = gradient_factors(model, PAIRS, matrices_of(model, (2, 3)))[0]
    for handle in handles:
        handle.remove()
    assert found
    assert runs == {0: 1, 1: 1, 2: 2, 3: 2}
