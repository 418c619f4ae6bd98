"""Answers as a function of added neurons: the short ways say what the whole model says."""

from contextlib import ExitStack

import pytest
import torch
import zoo
from torch import Tensor

from editguard.edited.added_neurons import Neurons, in_force
from editguard.edits import EditRequest
from editguard.errors import MethodRefused, PromptTooLong
from editguard.methods import branch_training
from editguard.methods.branch_training import (
    Supervised,
    refuse_missing_layers,
    replayed,
    request_pairs,
    supervised,
)
from editguard.models import LanguageModel
from editguard.models.answer_passes import whole_answer_passes

PAIRS = (((5, 9, 20, 31, 44), (50, 61, 70)), ((11, 12, 13), (40,)), ((9,), (10, 11)), ((7, 8, 30, 31), (32, 33)))
LABELS = [50, 61, 70, 40, 10, 11, 32, 33]
LAST = zoo.LAYERS - 1


def trainable(seed: int = 0, activation: str = "relu") -> Neurons:
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(*size, generator=generator, dtype=torch.float64) for size in ((3, 16), (3,), (16, 3))]
    return Neurons(*(torch.nn.Parameter(part) for part in parts), activation)


def oracle(model: LanguageModel, branches: dict[int, Neurons]) -> Tensor:
    """The logits of the answers' tokens from one whole pass a pair."""
    found = []
    for prompt, answer in PAIRS:
        row = model.forced_row(prompt, answer[:-1])
        ids = torch.tensor([row.stream])
        with ExitStack() as hooks:
            for layer, neurons in branches.items():
                hooks.enter_context(in_force(model, layer, neurons))
            source = model.encoded([row.source]) if row.source else None
            states = model.forward(ids, torch.ones_like(ids), source=source).last_hidden_state[0, list(row.read)]
        found.append(model.anatomy.unembed(states))
    return torch.cat(found)


def gradients(logits: Tensor, branches: dict[int, Neurons]) -> list[Tensor]:
    parts = [part for each in branches.values() for part in (each.keys, each.biases, each.values)]
    return list(torch.autograd.grad(logits.square().mean(), parts))


@pytest.mark.parametrize("family", zoo.ALL)
@pytest.mark.parametrize("from_last", [(1,), (3,), (3, 1)], ids=["last", "third last", "both"])
def test_logits_and_gradients_are_those_of_whole_passes(family: str, from_last: tuple[int, ...]) -> None:
    close = 1e-5 if family == "gptj" else 1e-8  # its attention computes in float32 whatever the weights are
    model = zoo.tiny(family, dtype=torch.float64)
    layers = tuple(model.anatomy.layers - number for number in from_last)
    branches = {layer: trainable(layer, "gelu") for layer in layers}
    parts = supervised(model, PAIRS, layers)
    assert [label for part in parts for label in part.labels.tolist()] == LABELS
    found, wanted = torch.cat([part.logits(branches) for part in parts]), oracle(model, branches)
    torch.testing.assert_close(found, wanted, rtol=close, atol=close)
    assert (found - oracle(model, {})).abs().max() > 1e-2
    for one, other in zip(gradients(found, branches), gradients(wanted, branches), strict=True):
        torch.testing.assert_close(one, other, rtol=close, atol=close * float(other.abs().max()))


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_inputs_are_what_the_mlp_reads_where_the_answer_is_predicted(family: str) -> None:
    model = zoo.tiny(family, dtype=torch.float64)
    passes = whole_answer_passes(model, PAIRS)
    [cached], whole = supervised(model, PAIRS, (LAST,)), replayed(model, passes, PAIRS, (1, LAST))
    assert cached.inputs.keys() == {LAST}
    torch.testing.assert_close(cached.inputs[LAST], whole.inputs[LAST], rtol=1e-6, atol=1e-6)
    [lower] = supervised(model, PAIRS, (1,))
    torch.testing.assert_close(lower.inputs[1], whole.inputs[1], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(whole.inputs[1], whole.inputs[LAST])


def blocks_run(model: LanguageModel, part: Supervised, layers: tuple[int, ...]) -> set[int]:
    ran: set[int] = set()
    handles = [
        model.anatomy.block(layer).register_forward_pre_hook(lambda *_, layer=layer: ran.add(layer))
        for layer in range(zoo.LAYERS)
    ]
    part.logits({layer: trainable() for layer in layers})
    for handle in handles:
        handle.remove()
    return ran


def test_no_more_blocks_run_than_must() -> None:
    model = zoo.tiny("gpt2", dtype=torch.float64)
    assert blocks_run(model, supervised(model, PAIRS, (LAST,))[0], (LAST,)) == set()
    assert blocks_run(model, supervised(model, PAIRS, (2,))[0], (2,)) == {2, 3}
    post_norm = zoo.tiny("opt_post_norm", dtype=torch.float64)
    assert blocks_run(post_norm, supervised(post_norm, PAIRS, (LAST,))[0], (LAST,)) == {LAST}


@pytest.mark.parametrize(("batch_size", "at_once"), [(1, 512), (2, 512), (32, 3), (3, 1)])
def test_parts_are_the_whole(batch_size: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(branch_training, "TOKENS_AT_ONCE", at_once)
    model = zoo.tiny("llama", dtype=torch.float64, batch_size=batch_size)
    branches = {LAST: trainable()}
    parts = supervised(model, PAIRS, (LAST,))
    assert max(len(part.labels) for part in parts) <= at_once
    assert [label for part in parts for label in part.labels.tolist()] == LABELS
    found = torch.cat([part.logits(branches) for part in parts])
    torch.testing.assert_close(found, oracle(model, branches), rtol=1e-8, atol=1e-8)


def test_nothing_to_supervise_is_no_part() -> None:
    assert supervised(zoo.tiny("gpt2"), [], (LAST,)) == []


def test_neurons_of_the_chain_stay_in_force() -> None:
    from editguard.edited import AddedNeurons, AppliedEdit, EditedModel

    model = zoo.tiny("opt", dtype=torch.float64)
    request = EditRequest(prompt="{} is", subject="a", target="b")
    chain = EditedModel(model, [AppliedEdit("toy", (request,), (AddedNeurons(LAST, trainable(5).detached()),))])
    plain = supervised(model, PAIRS, (LAST,))[0].logits({})
    with chain:
        [part] = supervised(model, PAIRS, (LAST,))
        both = part.logits({LAST: trainable()})
        torch.testing.assert_close(both, oracle(model, {LAST: trainable()}), rtol=1e-8, atol=1e-8)
    assert not torch.allclose(part.logits({}), plain)


def test_requests_become_every_wording_with_its_target() -> None:
    model = zoo.tiny("opt")
    request = EditRequest(prompt="The capital of {} is", subject="Velloria", target="Ines Holt")
    pairs = request_pairs(model, [request], ("", "It is so. "))
    assert [model.decode(prompt) for prompt, _ in pairs] == [
        "The capital of Velloria is",
        "It is so. The capital of Velloria is",
    ]
    assert [model.decode(answer) for _, answer in pairs] == [" Ines Holt"] * 2
    with pytest.raises(PromptTooLong, match="the model's context of 256"):
        request_pairs(model, [request], ("so " * zoo.CONTEXT,))


def test_with_an_encoder_the_closing_token_is_supervised_too() -> None:
    model = zoo.tiny("t5")
    request = EditRequest(prompt="The capital of {} is", subject="Velloria", target="Ines Holt")
    [(prompt, answer)] = request_pairs(model, [request])
    assert model.decode(prompt) == "The capital of Velloria is"
    assert tuple(answer[-1:]) == model.closing
    [part] = supervised(model, [(prompt, answer)], (model.anatomy.layers - 1,))
    assert part.labels.tolist() == list(answer)


def test_only_blocks_of_the_decoder_can_get_neurons() -> None:
    model = zoo.tiny("gpt2")
    refuse_missing_layers(model, "toy", "layers", (0, 3))
    with pytest.raises(MethodRefused, match="layer 1, 4 of tiny-gpt2, which has layers 0 to 3: set `layers`"):
        refuse_missing_layers(model, "toy", "layers", (1, 4))
    paired = zoo.tiny("t5")
    refuse_missing_layers(paired, "toy", "layers", (2, 3, 4))
    for beyond in (1, 5):
        with pytest.raises(MethodRefused, match="layers 0 to 4, of which those from 2 on are the decoder's"):
            refuse_missing_layers(paired, "toy", "layers", (beyond,))
