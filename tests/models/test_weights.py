"""Weights can always be given back: every push can be undone to the very same bytes."""

from contextlib import ExitStack
from unittest.mock import Mock

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from editguard.errors import MethodRefused, ModelChanged
from editguard.models.weights import Dense, LowRank, Replacement, WeightLedger, _Touched

DOWN = "transformer.h.1.mlp.c_proj.weight"
BIAS = "transformer.h.1.mlp.c_proj.bias"
OTHER = "transformer.h.2.mlp.c_proj.weight"
TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def low_rank(seed: int = 0, rank: int = 1, scale: float = 1e-2) -> LowRank:
    draw = torch.Generator().manual_seed(seed)
    return LowRank(scale * torch.randn(zoo.D_MODEL, rank, generator=draw), torch.randn(zoo.D_FF, rank, generator=draw))


def dense(seed: int = 0, shape: tuple[int, ...] = (zoo.D_MODEL,)) -> Dense:
    return Dense(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def ledger(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, WeightLedger]:
    module = zoo.module("gpt2", dtype=dtype)
    return module, WeightLedger(module)


def test_an_update_has_the_orientation_of_the_field_whatever_the_storage():
    for family in ("gpt2", "llama", "t5", "bart"):
        for square in (False, True):
            model = zoo.tiny(family, square=square)
            down = model.anatomy.down_projection(1)
            before, update = down.weight().clone(), torch.randn(down.shape)
            model.weights.push({down.name: Dense(update)})
            torch.testing.assert_close(down.weight(), before + update)
            model.weights.pop()
            left, right = torch.randn(down.d_out, 2), torch.randn(down.d_in, 2)
            model.weights.push({down.name: LowRank(left, right)})
            torch.testing.assert_close(down.weight(), before + left @ right.T)


@pytest.mark.parametrize("dtype", TYPES)
def test_the_weight_is_the_cast_of_the_pristine_one_plus_the_sum(dtype):
    module, weights = ledger(dtype)
    pristine = module.get_parameter(DOWN).detach().clone()
    updates = [low_rank(seed, scale=1e-4) for seed in range(50)]
    for update in updates:
        weights.push({DOWN: update})
    wide = torch.promote_types(dtype, torch.float32)
    total = torch.zeros_like(pristine, dtype=wide)
    for update in updates:
        total = total + (update.left @ update.right.T).T.to(wide)
    torch.testing.assert_close(module.get_parameter(DOWN).to(wide), (pristine.to(wide) + total).to(dtype).to(wide))


def test_small_updates_in_half_precision_add_up_instead_of_vanishing_one_by_one():
    module, weights = ledger(torch.bfloat16)
    before = module.get_parameter(BIAS).detach().clone()
    step = Dense(before.float() * 2.0**-11)  # a fourth of what bfloat16 can tell apart
    for _ in range(64):
        weights.push({BIAS: step})
    expected = (before.float() * (1 + 64 * 2.0**-11)).to(torch.bfloat16)
    assert torch.equal(module.get_parameter(BIAS), expected)
    assert not torch.equal(expected, before)


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(TYPES),
    steps=st.lists(
        st.one_of(st.sampled_from(["pop", "pop two", "restore", "mark", "leave"]), st.integers(0, 7)), max_size=16
    ),
)
def test_any_history_of_pushes_pops_and_marks_leaves_the_bytes_of_its_stack(dtype, steps):
    _, weights = ledger(dtype)
    digests = [weights.digest()]
    marks: list[ExitStack] = []
    for step in steps:
        if step == "restore":
            weights.restore()
            del digests[1:]
        elif step == "mark":
            marks.append(ExitStack())
            marks[-1].enter_context(weights.marked())
        elif step == "leave":
            if marks:
                marks.pop().close()
        elif step in ("pop", "pop two"):
            count = min(len(digests) - 1, 1 if step == "pop" else 2)
            weights.pop(count)
            del digests[len(digests) - count :]
        elif step > 5:
            wanted = weights.pristine(DOWN) * step
            value = weights.replacement(DOWN, wanted)
            assert value is not None
            weights.push({DOWN: value, BIAS: dense(step)} if step == 7 else {DOWN: value})
            assert torch.equal(weights.present(DOWN).T, wanted)
            digests.append(weights.digest())
        else:
            names = {0: (DOWN,), 1: (OTHER,), 2: (DOWN, OTHER)}.get(step, (DOWN, BIAS))
            weights.push({name: dense(step) if name == BIAS else low_rank(step, rank=1 + step % 2) for name in names})
            digests.append(weights.digest())
        assert weights.digest() == digests[-1]
        assert weights.depth == len(digests) - 1
        weights.verify()
    weights.restore()
    assert weights.digest() == digests[0]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("dtype", TYPES)
def test_a_value_that_replaces_another_is_there_to_the_bit_and_updates_go_on_from_it(family, dtype):
    model = zoo.tiny(family, dtype=dtype)
    name, weights = model.anatomy.down_projection(1).name, model.weights
    parameter = model.module.get_parameter(name)
    stored = parameter.detach().clone()
    stored.view(-1)[:4] = torch.tensor([-0.0, 0.0, torch.finfo(dtype).tiny, torch.finfo(dtype).max], dtype=dtype)
    value = weights.replacement(name, stored.double() if dtype != torch.float64 else stored)
    assert isinstance(value, Replacement)
    before = weights.digest()
    weights.push({name: value})
    assert torch.equal(parameter.view(torch.uint8), stored.view(torch.uint8))
    weights.verify()
    assert weights.replacement(name, parameter.detach()) is not None, "it is compared with the pristine value"
    replaced, wide = parameter.detach().clone(), torch.promote_types(dtype, torch.float32)
    weights.push({name: Dense(torch.full(value.shape, 0.5))})
    assert torch.equal(parameter, (replaced.to(wide) + 0.5).to(dtype))
    weights.pop(2)
    assert weights.digest() == before
    assert weights.replacement(name, parameter.detach()) is None


@given(count=st.integers(0, 6))
@settings(max_examples=7, deadline=None)
def test_popping_several_at_once_equals_popping_them_one_by_one(count):
    (_, one_by_one), (_, at_once) = ledger(), ledger()
    for weights in (one_by_one, at_once):
        for seed in range(6):
            weights.push({DOWN: low_rank(seed), **({BIAS: dense(seed)} if seed % 2 else {})})
    for _ in range(count):
        one_by_one.pop()
    at_once.pop(count)
    assert one_by_one.digest() == at_once.digest()


@pytest.mark.parametrize("pushes", [1, 2, 3])
def test_undoing_what_came_after_a_mark_costs_the_same_however_much_came_before(pushes, monkeypatch):
    additions = []
    for before in (0, 5, 50):
        _, weights = ledger()
        for seed in range(before):
            weights.push({DOWN: low_rank(seed), OTHER: low_rank(seed)})
        digest = weights.digest()
        counted = Mock(wraps=_Touched.plus)
        with monkeypatch.context() as patched, weights.marked():
            patched.setattr(_Touched, "plus", lambda *given, counted=counted: counted(*given))
            for number in range(pushes):
                weights.push({(DOWN, OTHER)[number % 2]: low_rank(90 + number)})
            weights.pop(pushes)
        assert weights.digest() == digest
        additions.append(counted.call_count)
    assert additions == [pushes] * 3


def test_a_mark_ends_when_what_was_in_force_at_it_is_undone():
    _, weights = ledger()
    weights.push({DOWN: low_rank(0)})
    with weights.marked():
        weights.push({DOWN: low_rank(1)})
        weights.pop(2)
        weights.push({DOWN: low_rank(2)})
        digest = weights.digest()
        weights.push({DOWN: low_rank(3)})
        weights.push({DOWN: low_rank(4)})
        weights.pop(2)
        assert weights.digest() == digest


def test_more_pops_than_pushes_are_an_error_that_changes_nothing():
    _, weights = ledger()
    weights.push({DOWN: low_rank()})
    digest = weights.digest()
    with pytest.raises(IndexError):
        weights.pop(2)
    assert (weights.digest(), weights.depth) == (digest, 1)


def test_negative_zeros_come_back_as_negative_zeros():
    module, weights = ledger()
    with torch.no_grad():
        module.get_parameter(BIAS).fill_(-0.0)
    weights.push({BIAS: dense()})
    weights.push({BIAS: dense(1)})
    weights.pop()
    weights.pop()
    assert module.get_parameter(BIAS).signbit().all()


@pytest.mark.parametrize(
    ("deltas", "problem"),
    [
        ({"transformer.h.9.mlp.c_proj.weight": low_rank()}, "no parameter"),
        ({DOWN: dense(shape=(zoo.D_FF, zoo.D_MODEL))}, r"shape \(40, 16\)"),
        ({BIAS: dense(shape=(3,))}, "shape"),
        ({DOWN: Dense(torch.full((zoo.D_MODEL, zoo.D_FF), float("nan")))}, "infinite or undefined"),
        ({DOWN: LowRank(torch.full((zoo.D_MODEL, 1), 1e30), torch.full((zoo.D_FF, 1), 1e30))}, "infinite or undefined"),
    ],
)
def test_an_impossible_update_is_refused_and_changes_nothing(deltas, problem):
    _, weights = ledger()
    weights.push({OTHER: low_rank()})
    digest = weights.digest()
    with pytest.raises(MethodRefused, match=problem):
        weights.push({OTHER: low_rank(3), **deltas})
    assert (weights.digest(), weights.depth) == (digest, 1)
    weights.verify()


def test_a_failure_while_weights_are_written_leaves_all_of_them_as_they_were(monkeypatch):
    _, weights = ledger()
    weights.push({OTHER: low_rank()})
    digest = weights.digest()
    writes, honest = [], torch.Tensor.copy_

    def fails_at_the_second(self, other):
        writes.append(self)
        if len(writes) == 2:
            raise KeyboardInterrupt
        return honest(self, other)

    monkeypatch.setattr(torch.nn.Parameter, "copy_", fails_at_the_second, raising=False)
    with pytest.raises(KeyboardInterrupt):
        weights.push({DOWN: low_rank(), OTHER: low_rank(1), BIAS: dense()})
    assert len(writes) > 2
    assert (weights.digest(), weights.depth) == (digest, 1)
    weights.verify()
    weights.restore()
    assert weights.digest() == ledger()[1].digest()


def test_one_push_cannot_name_a_tied_parameter_twice_and_either_name_means_it():
    module, weights = ledger()
    update = dense(shape=tuple(module.lm_head.weight.shape))
    before = module.lm_head.weight.detach().clone()
    weights.push({"lm_head.weight": update})
    torch.testing.assert_close(module.transformer.wte.weight, before + update.delta)
    weights.verify()
    weights.pop()
    with pytest.raises(MethodRefused, match="same parameter"):
        weights.push({"lm_head.weight": update, "transformer.wte.weight": update})
    weights.verify()


def test_verification_names_what_something_else_has_written_to():
    module, weights = ledger()
    weights.push({DOWN: low_rank()})
    weights.verify()
    with torch.no_grad():
        module.get_parameter("transformer.h.3.ln_1.bias")[5] += 1e-6
    with pytest.raises(ModelChanged, match=r"transformer\.h\.3\.ln_1\.bias changed"):
        weights.verify()


def test_verification_notices_a_write_to_an_edited_weight_and_to_a_buffer():
    module, weights = ledger()
    module.register_buffer("step", torch.zeros(2))
    weights.push({DOWN: low_rank()})
    with torch.no_grad():
        module.get_parameter(DOWN)[0, 0] += 1
        module.step[0] = 1
    with pytest.raises(ModelChanged, match=rf"step, {DOWN} changed|{DOWN}"):
        weights.verify()


def test_the_pristine_value_is_known_while_updates_are_in_force():
    module, weights = ledger()
    before = module.get_parameter(DOWN).detach().clone()
    assert torch.equal(weights.pristine(DOWN), before)
    weights.push({DOWN: low_rank()})
    assert torch.equal(weights.pristine(DOWN), before)
    assert not torch.equal(module.get_parameter(DOWN), before)


def test_two_models_in_one_process_know_nothing_of_each_other():
    (first, one), (_, two) = ledger(), ledger()
    digest = two.digest()
    one.push({DOWN: low_rank()})
    two.verify()
    assert two.digest() == digest != one.digest()
    two.push({DOWN: low_rank(1)})
    one.restore()
    assert one.digest() == digest
    assert not torch.equal(first.get_parameter(DOWN), two._module.get_parameter(DOWN))


def test_weights_that_are_not_in_memory_are_refused_with_the_reason(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model = zoo.tiny("llama")
    reference = model.score([("The capital of Velloria is", "Tamrin")])
    accelerate.disk_offload(model.module, tmp_path, execution_device="cpu")
    assert model.device == torch.device("cpu")
    assert model.score([("The capital of Velloria is", "Tamrin")]) == reference
    down = model.anatomy.down_projection(1)
    with pytest.raises(MethodRefused, match="offloaded"):
        model.weights.push({down.name: low_rank()})


def test_quantised_weights_are_refused():
    module = nn.Module()
    module.weight = nn.Parameter(torch.ones(3, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(MethodRefused, match="int8"):
        WeightLedger(module).push({"weight": dense(shape=(3, 4))})
