"""A short training on other text: what it does to weights, by hand; and to nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn

from editguard.edited import AppliedEdit, EditedModel, ReplacedWeights, WeightDelta
from editguard.errors import MethodRefused
from editguard.methods.lora import LoraSettings, adapted_matrices
from editguard.models import LanguageModel, load_model
from editguard.models.weights import Dense, Replacement
from editguard.release import further_training
from editguard.release.further_training import FineTuning, FurtherTraining, LoraMerge
from editguard.release.survival import aged

TEXTS = tuple(zoo.SENTENCES)
KINDS = (FineTuning, LoraMerge)
kinds = pytest.mark.parametrize("kind", KINDS)
families = pytest.mark.parametrize("family", [*zoo.QUICK, pytest.param("bart", marks=pytest.mark.slow)])


def training(kind: type[Any] = FineTuning, **more: Any) -> Any:
    return kind(**{"texts": TEXTS, "steps": 3, "batch_size": 3, "learning_rate": 1e-2, **more})


def edited_model(model: LanguageModel) -> EditedModel:
    down = model.anatomy.down_projection(1)
    delta = Dense(torch.randn(down.shape, generator=torch.Generator().manual_seed(1)))
    return EditedModel.original(model).extended(AppliedEdit("scripted", (), (WeightDelta({down.name: delta}),)))


def values(state: EditedModel) -> dict[str, Tensor]:
    with state:
        return {name: each.detach().clone() for name, each in state.model.module.named_parameters()}


def loss(state: EditedModel, of: FurtherTraining) -> float:
    with state, torch.no_grad():
        return float(sum(each() for each in of.losses(state.model))) / of.steps


@kinds
@families
def test_the_loss_on_its_text_falls(family: str, kind: type[Any]) -> None:
    model = zoo.tiny(family)
    edited, fate = edited_model(model), training(kind, steps=8, batch_size=len(TEXTS))
    assert loss(aged(edited, fate), fate) < loss(edited, fate) - 0.02
    model.weights.verify()


@kinds
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_no_step_changes_nothing(family: str, kind: type[Any]) -> None:
    edited = edited_model(zoo.tiny(family))
    before, after = values(edited), values(aged(edited, training(kind, steps=0)))
    assert all(torch.equal(after[name], value) for name, value in before.items())


@kinds
def test_the_seed_alone_decides(kind: type[Any]) -> None:
    found = []
    for seed, disturbed in ((0, 1), (0, 2), (5, 1)):
        torch.manual_seed(disturbed)
        found.append(values(aged(edited_model(zoo.tiny("gpt2")), training(kind, seed=seed))))
    one, again, other = found
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_the_seed_is_of_what_adapters_begin_with_too() -> None:
    edited = edited_model(zoo.tiny("gpt2"))  # all texts at every step, so that their order is no matter
    settings = {"batch_size": len(TEXTS), "dropout": 0.0}
    one, other = (values(aged(edited, training(LoraMerge, seed=seed, **settings))) for seed in (0, 1))
    name = adapted_matrices(edited.model, LoraSettings())[0].name
    assert (one[name] - other[name]).norm() > 0.1 * (one[name] - values(edited)[name]).norm()


def by_hand(model: LanguageModel, module: nn.Module, text: str) -> Tensor:
    """Mean negative log-likelihood of what follows, from one whole pass."""
    if model.anatomy.encoder_layers:
        words = text.split()
        half = len(words) // 2
        before, after = model.encode_answer(" ".join(words[:half]), " ".join(words[half:]))
        fed = torch.tensor([[*model.opening, *after[:-1]]])
        logits = module(input_ids=torch.tensor([before]), decoder_input_ids=fed).logits[0]
    else:
        ids = model.encode_text(text)
        after, logits = ids[2:], module(input_ids=torch.tensor([ids])).logits[0, 1:-1]
    return nn.functional.cross_entropy(logits[-len(after) :], torch.tensor(after))


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", pytest.param("qwen2", marks=pytest.mark.slow)])
def test_fine_tuning_is_adamw_on_every_parameter_from_the_edited_ones_on(family: str) -> None:
    model = zoo.tiny(family, dtype=torch.float64)  # some gradients are zero but for rounding, which Adam would enlarge
    edited = edited_model(model)
    fate = training(batch_size=len(TEXTS), learning_rate=1e-3, weight_decay=0.1)
    with edited:
        module = copy.deepcopy(model.module).requires_grad_(True)
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=0.1)
    for _ in range(fate.steps):
        optimiser.zero_grad()
        torch.stack([by_hand(model, module, text) for text in TEXTS]).mean().backward()
        optimiser.step()
    found = values(aged(edited, fate))
    for name, wanted in module.named_parameters():
        torch.testing.assert_close(found[name], wanted.detach(), atol=1e-7, rtol=1e-6)


def test_texts_take_turns_and_each_step_has_its_own() -> None:
    model = zoo.tiny("gpt2")
    fate = training(steps=len(TEXTS), batch_size=2)
    with torch.no_grad():
        each = sorted(float(by_hand(model, model.module, text)) for text in TEXTS)
        found = [float(loss()) for loss in fate.losses(model)]
    assert sum(found) / len(found) == pytest.approx(sum(each) / len(each), rel=1e-5)
    assert len(set(found)) > 1


@families
def test_a_merge_adds_a_low_rank_product_to_queries_and_values_alone(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    real = further_training.low_rank_adapters

    def kept(*args: Any, **options: Any) -> Any:
        context = real(*args, **options)

        class Watched:
            def __enter__(self) -> Any:
                seen[:] = context.__enter__()
                return list(seen)

            def __exit__(self, *error: Any) -> Any:
                return context.__exit__(*error)

        return Watched()

    monkeypatch.setattr(further_training, "low_rank_adapters", kept)
    model = zoo.tiny(family)
    edited, fate = edited_model(model), training(LoraMerge, rank=2, alpha=6)
    before, after = values(edited), values(aged(edited, fate))
    adapted = {matrix.name: matrix for matrix in adapted_matrices(model, LoraSettings())}
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(adapted)
    assert {adapter.matrix.name for adapter in seen} == set(adapted)
    for adapter in seen:
        name, matrix = adapter.matrix.name, adapter.matrix
        change = after[name].double() - before[name].double()
        product = 3 * adapter.up.detach().double() @ adapter.down.detach().double()
        torch.testing.assert_close(change, product.T if matrix.transposed else product, atol=1e-6, rtol=1e-4)
        sizes = torch.linalg.svdvals(change)
        assert sizes[1] > 0
        assert (sizes[2:] <= 1e-5 * sizes[0]).all()


@kinds
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_the_type_stays(kind: type[Any], dtype: torch.dtype) -> None:
    edited = edited_model(zoo.tiny("llama", dtype=dtype))
    before, after = values(edited), values(aged(edited, training(kind)))
    assert all(value.dtype == dtype for value in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_steps_that_are_too_small_for_the_type_add_up_before_they_are_rounded() -> None:
    model = zoo.tiny("llama", dtype=torch.bfloat16)
    edited = EditedModel.original(model)
    name = model.anatomy.down_projection(0).name
    before = values(edited)[name]
    after = values(aged(edited, training(steps=20, learning_rate=1e-5)))[name]
    large = before.abs() > 0.02  # where half the distance to the next number is 3e-5
    assert (after != before)[large].any()


@kinds
@pytest.mark.parametrize("before", ["added", "replaced", "rounded", "trained"])
def test_training_goes_on_from_whatever_has_happened_to_the_weights(kind: type[Any], before: str) -> None:
    model = zoo.tiny("gpt2")
    edited = edited_model(model)
    value = model.anatomy.down_projection(0)
    replaced = ReplacedWeights({value.name: Replacement(torch.randn(value.shape))})
    states = {
        "added": edited,
        "replaced": edited.extended(AppliedEdit("elsewhere", (), (replaced,))),
        "rounded": aged(edited, "int4"),
        "trained": aged(edited, training()),
    }
    begun = values(states[before])
    after = values(aged(states[before], training(kind, learning_rate=1e-9)))
    assert any(not torch.equal(begun[name], values(EditedModel.original(model))[name]) for name in begun)
    for name in begun:
        torch.testing.assert_close(after[name], begun[name], atol=1e-6, rtol=1e-6)


class Forbidden:
    """A change beside the weights, which no text of a training may meet."""

    def __init__(self) -> None:
        self.passes = 0
        self._handle: Any = None

    def install(self, model: LanguageModel) -> None:
        def count(module: Any, args: Any, output: Any) -> None:
            self.passes += 1

        self._handle = model.anatomy.block(0).register_forward_hook(count)

    def uninstall(self, model: LanguageModel) -> None:
        self._handle.remove()


@kinds
def test_what_stands_beside_the_weights_is_neither_trained_with_nor_lost(kind: type[Any]) -> None:
    model, beside = zoo.tiny("gpt2"), Forbidden()
    weights = edited_model(model)
    both = weights.extended(AppliedEdit("memory", (), (beside,)))
    after = aged(both, training(kind))
    assert beside.passes == 0
    plain = values(aged(weights, training(kind)))
    assert all(torch.equal(plain[name], value) for name, value in values(after).items())
    after.generate(["The capital of Velloria is"])
    assert beside.passes > 0
    EditedModel.original(model).activate()
    model.weights.verify()


@kinds
def test_what_cannot_be_trained_is_refused_and_the_model_is_as_before(kind: type[Any]) -> None:
    model = zoo.tiny("llama")
    edited = edited_model(model)
    with pytest.raises(MethodRefused, match="is empty"):
        aged(edited, training(kind, texts=()))
    with pytest.raises(MethodRefused, match=r"gave up: .* use a smaller learning_rate"):
        aged(edited, training(kind, learning_rate=1e30, steps=5))
    assert model.installed == []
    model.weights.verify()
    model.module.get_submodule("model.norm").weight = nn.Parameter(torch.empty(16, device="meta"), requires_grad=False)
    with pytest.raises(MethodRefused, match=r"would change model\.norm\.weight, which is offloaded"):
        aged(EditedModel.original(model), training(kind))


@kinds
def test_the_embedded_model_gets_its_bytes_back(kind: type[Any]) -> None:
    model = load_model("pocket", device="cpu", dtype="float32")
    edited, digest = edited_model(model), model.weights.digest()
    with edited:
        with_the_edit = model.weights.digest()
    with aged(edited, training(kind, steps=1, learning_rate=1e-3)):
        model.weights.verify()
        assert model.weights.digest() not in (digest, with_the_edit)
    with edited:
        assert model.weights.digest() == with_the_edit
    edited.prefix(0).activate()
    assert model.weights.digest() == digest
