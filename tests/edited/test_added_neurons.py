"""Neurons beside an MLP: what they add, what they leave alone to the bit, and that a chain of them is one branch."""

from collections.abc import Callable

import pytest
import torch
import zoo
from torch import Tensor

from editguard.edited import AddedNeurons, AppliedEdit, EditedModel, WeightDelta, added_neurons
from editguard.edited.added_neurons import Neurons, in_force, joined, with_neurons
from editguard.edits import EditRequest
from editguard.models import LanguageModel, capture
from editguard.models.hooks import stop_after
from editguard.models.weights import LowRank

REQUEST = EditRequest(prompt="{} is", subject="Tamrin", target="x")
IDS = torch.arange(5, 41).reshape(3, 12)
PROMPTS = ("The capital of Velloria is", "Ines Holt", "Question: who is the mayor of Tamrin? Answer:")


def neurons(
    count: int = 3, seed: int = 0, activation: str = "relu", bias: float = 0.0, dtype: torch.dtype = torch.float32
) -> Neurons:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(count, zoo.D_MODEL, generator=generator, dtype=torch.float64) for _ in range(2))
    return Neurons(keys.to(dtype), torch.full((count,), bias, dtype=dtype), values.T.to(dtype), activation)


def edit(layer: int, added: Neurons) -> AppliedEdit:
    return AppliedEdit("toy", (REQUEST,), (AddedNeurons(layer, added),))


def with_edits(model: LanguageModel, *edits: AppliedEdit) -> EditedModel:
    return EditedModel(model, edits)


def logits(edited: EditedModel) -> Tensor:
    with edited, torch.no_grad():
        return edited.model.logits(IDS, torch.ones_like(IDS))


def around_the_mlp(model: LanguageModel, layer: int) -> tuple[Tensor, Tensor]:
    """What a block's MLP reads and puts out, (tokens, d_model), under the edits in force."""
    module = model.anatomy.up_projections(layer)[0].module
    with torch.no_grad(), capture(module, "input") as entering, capture(model.anatomy.mlp(layer)) as leaving:
        model.forward(IDS, torch.ones_like(IDS))
    return entering.value.reshape(-1, zoo.D_MODEL), leaving.value.reshape(-1, zoo.D_MODEL)


# ---- the formula


@pytest.mark.parametrize("name", ["relu", "gelu", "silu"])
def test_what_is_added_is_v_act_of_k_x_plus_b(name: str) -> None:
    added = neurons(activation=name, bias=0.3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(2, 5, zoo.D_MODEL, dtype=torch.float64, generator=generator) for _ in range(2))
    act = getattr(torch.nn.functional, name)
    for row in range(2):
        for token in range(5):
            wanted = y[row, token].clone()
            for number in range(3):
                pre = sum(float(added.keys[number, axis] * x[row, token, axis]) for axis in range(zoo.D_MODEL)) + 0.3
                wanted += act(torch.tensor(pre, dtype=torch.float64)) * added.values[:, number]
            torch.testing.assert_close(with_neurons(y, x, added)[row, token], wanted)


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_the_mlp_of_every_family_gets_it_added(family: str) -> None:
    model = zoo.tiny(family, dtype=torch.float64)
    added = neurons(bias=0.1, dtype=torch.float64)
    x, y = around_the_mlp(model, 2)
    with with_edits(model, edit(2, added)):
        moved_x, moved_y = around_the_mlp(model, 2)
    assert torch.equal(moved_x, x)
    wanted = y + torch.relu(x @ added.keys.T + added.biases) @ added.values.T
    torch.testing.assert_close(moved_y, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
@pytest.mark.parametrize("layer", range(zoo.LAYERS))
def test_the_change_of_the_output_lies_in_the_span_of_the_values(family: str, layer: int) -> None:
    model = zoo.tiny(family, dtype=torch.float64)
    added = neurons(2, activation="gelu", dtype=torch.float64)
    _, before = around_the_mlp(model, layer)
    with with_edits(model, edit(layer, added)):
        _, after = around_the_mlp(model, layer)
    change = after - before
    basis, _ = torch.linalg.qr(added.values)
    assert torch.linalg.matrix_rank(change, rtol=1e-9) == 2
    torch.testing.assert_close(change @ basis @ basis.T, change, rtol=1e-9, atol=1e-9)


def test_what_gelu_neurons_leak_is_bounded_by_their_activations() -> None:
    model = zoo.tiny("gpt2", dtype=torch.float64)
    added = neurons(4, activation="gelu", bias=-3.0, dtype=torch.float64)
    x, before = around_the_mlp(model, 1)
    with with_edits(model, edit(1, added)):
        _, after = around_the_mlp(model, 1)
    leak = (after - before).norm(dim=-1)
    active = torch.nn.functional.gelu(added.pre_activations(x))
    assert (leak <= active.abs() @ added.values.norm(dim=0) + 1e-12).all()
    assert (leak > 0).all()


def test_sums_are_rounded_once() -> None:
    """A term a little above half a unit of bfloat16 moves the sum by one unit; rounded by itself it would not."""
    unit = torch.finfo(torch.bfloat16).eps
    added = Neurons(torch.eye(3), torch.zeros(3), torch.full((3, 3), unit / 6 * (1 + 2**-10)), "relu")
    y, x = torch.ones(1, 3, dtype=torch.bfloat16), torch.ones(1, 3, dtype=torch.bfloat16)
    assert torch.equal(with_neurons(y, x, added), torch.full((1, 3), 1 + unit, dtype=torch.bfloat16))


def test_a_float64_model_keeps_its_precision_beside_float32_neurons() -> None:
    y = torch.full((1, zoo.D_MODEL), 1 + 1e-12, dtype=torch.float64)
    moved = with_neurons(y, torch.ones_like(y), Neurons(torch.ones(1, 16), torch.zeros(1), torch.ones(16, 1), "relu"))
    assert moved.dtype == torch.float64
    torch.testing.assert_close(moved, y + 16, rtol=0, atol=1e-13)


# ---- what stays


@pytest.mark.parametrize("family", zoo.FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_relu_neurons_that_never_fire_change_no_bit(family: str, dtype: torch.dtype) -> None:
    model = zoo.tiny(family, dtype=dtype)
    before = logits(EditedModel.original(model))
    silent = with_edits(model, edit(1, neurons(bias=-1e4)), edit(3, neurons(seed=1, bias=-1e4)))
    assert torch.equal(logits(silent), before)
    assert not torch.equal(logits(with_edits(model, edit(1, neurons()))), before)


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_only_tokens_at_which_a_neuron_fires_are_touched(family: str) -> None:
    model = zoo.tiny(family)
    last = model.anatomy.layers - 1
    before = logits(EditedModel.original(model))
    x, _ = around_the_mlp(model, last)
    chosen = 17
    key = x[chosen] - x.mean(0)
    pre = x @ key
    threshold = float(pre[chosen] - 1e-3 * pre.abs().max())
    pick = Neurons(key[None], torch.tensor([-threshold]), neurons(1).values, "relu")
    fired = (x @ key > threshold).reshape(IDS.shape)
    assert fired.reshape(-1)[chosen]
    assert not fired.all()
    after = logits(with_edits(model, edit(last, pick)))
    touched = (after != before).any(-1)
    assert torch.equal(touched, fired)


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_values_of_zero_change_nothing_whatever_fires(family: str) -> None:
    model = zoo.tiny(family)
    before = logits(EditedModel.original(model))
    empty = Neurons(neurons().keys, torch.ones(3), torch.zeros(zoo.D_MODEL, 3), "gelu")
    assert torch.equal(logits(with_edits(model, edit(2, empty))), before)


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_taking_them_out_restores_everything(family: str) -> None:
    model = zoo.tiny(family)
    before, bytes_before = logits(EditedModel.original(model)), model.weights.digest()
    with with_edits(model, edit(2, neurons()), edit(2, neurons(seed=1)), edit(0, neurons(seed=2))):
        assert model.weights.digest() == bytes_before
    assert torch.equal(logits(EditedModel.original(model)), before)
    assert not any(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.module.modules())


# ---- the chain


def test_all_edits_of_a_chain_are_one_branch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny("llama")
    calls: list[int] = []

    def counted(output: Tensor, inputs: Tensor, added: Neurons) -> Tensor:
        calls.append(len(added))
        return with_neurons(output, inputs, added)

    monkeypatch.setattr(added_neurons, "with_neurons", counted)
    hooks: set[int] = set()
    chain = EditedModel.original(model)
    for number in range(6):
        chain = chain.extended(edit(1, neurons(2, seed=number)))
        with chain:
            hooks.add(sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.module.modules()))
            model.forward(IDS, torch.ones_like(IDS))
    assert calls == [2, 4, 6, 8, 10, 12]
    assert len(hooks) == 1


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_any_prefix_is_the_model_as_it_was_then(family: str, dtype: torch.dtype) -> None:
    model = zoo.tiny(family, dtype=dtype)
    matrix = model.anatomy.down_projection(2)
    update = LowRank(torch.full((matrix.d_out, 1), 0.1), torch.full((matrix.d_in, 1), 0.1))
    weights = AppliedEdit("toy", (REQUEST,), (WeightDelta({matrix.name: update}),))
    steps = [edit(2, neurons()), weights, edit(0, neurons(seed=1, activation="gelu")), edit(2, neurons(seed=2))]
    chain, states = EditedModel.original(model), [logits(EditedModel.original(model))]
    for step in steps:
        chain = chain.extended(step)
        states.append(logits(chain))
    assert len({state.float().numpy().tobytes() for state in states}) == 5
    for length in (2, 4, 0, 3, 1):
        assert torch.equal(logits(chain.prefix(length)), states[length])


def test_a_chain_in_force_can_grow_and_shrink() -> None:
    model = zoo.tiny("opt")
    short = with_edits(model, edit(1, neurons()))
    grown, other = short.extended(edit(1, neurons(seed=1))), short.extended(edit(1, neurons(seed=2)))
    wanted = {id(each): logits(each) for each in (short, grown, other)}
    for each in (grown, other, short, other, grown):
        each.activate()
        with torch.no_grad():
            assert torch.equal(model.logits(IDS, torch.ones_like(IDS)), wanted[id(each)])
    EditedModel.original(model).activate()


@pytest.mark.parametrize("activations", [("relu", "relu", "relu"), ("relu", "gelu", "relu")])
def test_the_order_of_edits_matters_only_to_rounding(activations: tuple[str, ...]) -> None:
    model = zoo.tiny("gpt2", dtype=torch.float64)
    edits = [
        edit(1, neurons(2, seed=number, activation=name, dtype=torch.float64))
        for number, name in enumerate(activations)
    ]
    one, other = logits(with_edits(model, *edits)), logits(with_edits(model, *edits[::-1]))
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    alone = logits(with_edits(model, edits[0]))
    assert (one - alone).abs().max() > 1e-3


def test_neurons_are_put_together_by_activation_in_the_order_of_their_coming() -> None:
    parts = [neurons(1, 0), neurons(2, 1, "gelu"), neurons(1, 2)]
    relu, gelu = joined(parts)
    assert (relu.activation, gelu.activation) == ("relu", "gelu")
    assert torch.equal(relu.keys, torch.cat([parts[0].keys, parts[2].keys]))
    assert torch.equal(relu.values, torch.cat([parts[0].values, parts[2].values], dim=1))
    assert torch.equal(gelu.keys, parts[1].keys)


def test_an_edit_holds_its_own_neurons_and_no_more() -> None:
    model = zoo.tiny("gpt2")
    chain = EditedModel.original(model)
    for number in range(4):
        chain = chain.extended(edit(1, neurons(2, seed=number)))
    logits(chain)
    for change in chain.changes:
        assert isinstance(change, AddedNeurons)
        sizes = [
            part.untyped_storage().nbytes() // 4 for part in vars(change.neurons).values() if isinstance(part, Tensor)
        ]
        assert sum(sizes) == 2 * (2 * zoo.D_MODEL + 1)


def test_two_models_have_branches_of_their_own() -> None:
    models = [zoo.tiny("gpt2", seed=seed) for seed in (0, 1)]
    before = [logits(EditedModel.original(model)) for model in models]
    with with_edits(models[0], edit(1, neurons())):
        assert torch.equal(logits(EditedModel.original(models[1])), before[1])
        with with_edits(models[1], edit(1, neurons(seed=1))):
            assert not torch.equal(models[1].logits(IDS, torch.ones_like(IDS)), before[1])
    assert torch.equal(logits(EditedModel.original(models[0])), before[0])


# ---- decoding, training, failures


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_cached_decoding_says_what_whole_passes_say(family: str) -> None:
    model = zoo.tiny(family)
    with with_edits(model, edit(1, neurons()), edit(3, neurons(seed=1, activation="gelu"))) as edited:
        answers = edited.generate(PROMPTS, max_new_tokens=6)
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            ids = model.encode(prompt)
            for token in answer.token_ids:
                row = torch.tensor([ids])
                with torch.no_grad():
                    assert int(model.logits(row, torch.ones_like(row))[0, -1].argmax()) == token
                ids.append(token)


def test_gradients_reach_the_neurons_and_no_weight() -> None:
    model = zoo.tiny("opt")
    given = neurons(bias=0.5)
    parts = [torch.nn.Parameter(part) for part in (given.keys, given.biases, given.values)]
    with in_force(model, 1, Neurons(*parts, "relu")):
        model.logits(IDS, torch.ones_like(IDS)).square().mean().backward()
    assert all(part.grad is not None and part.grad.abs().max() > 0 for part in parts)
    assert all(parameter.grad is None for parameter in model.module.parameters())


def test_hooks_go_when_a_pass_fails_or_ends_early() -> None:
    model = zoo.tiny("gpt2")
    before = logits(EditedModel.original(model))

    def broken(*_: object) -> None:
        raise RuntimeError("the power went out")

    down = model.anatomy.down_projection(1).module
    handle = down.register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="power"), in_force(model, 1, neurons()):
        model.forward(IDS, torch.ones_like(IDS))
    handle.remove()
    edited = with_edits(model, edit(1, neurons()))
    wanted = logits(edited)
    with edited, torch.no_grad():
        with stop_after(model.anatomy.up_projections(1)[0].module, "input"):
            model.forward(IDS, torch.ones_like(IDS))
        short = torch.tensor([[7, 8]])
        model.forward(short, torch.ones_like(short))
        assert torch.equal(model.logits(IDS, torch.ones_like(IDS)), wanted)
    assert torch.equal(logits(EditedModel.original(model)), before)


@pytest.mark.parametrize(
    "parts",
    [
        lambda n: (n.keys, n.biases[:2], n.values),
        lambda n: (n.keys, n.biases, n.values[:, :2]),
        lambda n: (n.keys, n.biases, n.values.T.contiguous().reshape(3, 16)),
    ],
)
def test_parts_of_different_neurons_are_refused(parts: Callable[[Neurons], tuple[Tensor, Tensor, Tensor]]) -> None:
    with pytest.raises(ValueError, match="same neurons"):
        Neurons(*parts(neurons()), "relu")
