"""Passes over prompts and answers must say what whole passes say, for decoders alone and for those with an encoder."""

import pytest
import torch
import zoo
from torch import Tensor

from editguard.models import LanguageModel, capture
from editguard.models.answer_passes import AnswerPasses, ReplayedAnswerPasses, WholeAnswerPasses, answer_passes
from editguard.models.continuation import Continuation, FullForward, Row

TEXTS = (
    ("Question: who is the mayor of Tamrin? Answer:", "Aldo Holt"),
    ("Ines Holt", "was born in Belmora; she lives in Tamrin"),
    ("The capital of Velloria is", "O"),
)
SOME = [zoo.REPRESENTATIVE[0], *zoo.PAIRED]


def pairs_of(model: LanguageModel) -> list[tuple[list[int], list[int]]]:
    return [model.encode_answer(prompt, answer) for prompt, answer in TEXTS]


def oracle(model: LanguageModel) -> AnswerPasses:
    rows = [model.forced_row(prompt, answer[:-1]) for prompt, answer in pairs_of(model)]
    if model.anatomy.encoder_layers:
        return WholeAnswerPasses(model, rows)
    return FullForward(model, [Row(row.stream, 0, row.read) for row in rows])


def loss_and_gradient(passes: AnswerPasses, module: torch.nn.Module, labels: list[int]) -> tuple[Tensor, Tensor]:
    """Of a vector that is added to the module's output everywhere, as a change of its weights would be."""
    vector = torch.linspace(-1, 1, zoo.D_MODEL, dtype=torch.float64).requires_grad_()
    handle = module.register_forward_hook(lambda _, __, output: output + vector)
    loss = -passes.logits().log_softmax(-1)[range(len(labels)), labels]
    handle.remove()
    [gradient] = torch.autograd.grad(loss.sum(), [vector])
    return loss.detach(), gradient


@pytest.mark.parametrize("family", SOME)
def test_loss_and_gradient_are_those_of_whole_passes_from_every_layer_of_either_stack(family):
    model = zoo.tiny(family, dtype=torch.float64)
    labels = [token for _, answer in pairs_of(model) for token in answer]
    for layer in range(model.anatomy.layers):
        passes = answer_passes(model, pairs_of(model), layer)
        assert isinstance(passes, ReplayedAnswerPasses | Continuation)
        module = model.anatomy.down_projection(layer).module
        ours, theirs = (loss_and_gradient(each, module, labels) for each in (passes, oracle(model)))
        assert theirs[1].abs().max() > 1e-3
        for found, wanted in zip(ours, theirs, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
        assert torch.equal(ours[1], loss_and_gradient(passes, module, labels)[1])


@pytest.mark.parametrize("family", SOME)
def test_scores_are_the_logits_of_the_answers_own_tokens(family):
    model = zoo.tiny(family, dtype=torch.float64)
    pairs = pairs_of(model)
    logits = answer_passes(model, pairs, 1).logits().split([len(answer) for _, answer in pairs])
    for of_pair, (_, answer), score in zip(logits, pairs, model.score(TEXTS), strict=True):
        own = answer[: len(answer) - len(model.closing)]
        wanted = of_pair.log_softmax(-1)[range(len(own)), own]
        # A score's numbers are float32's.
        torch.testing.assert_close(torch.tensor(score.log_probs).double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", SOME)
def test_one_token_of_an_answer_is_read_behind_the_bare_prompt(family):
    model = zoo.tiny(family, dtype=torch.float64)
    first = answer_passes(model, [(prompt, answer[:1]) for prompt, answer in pairs_of(model)], 0).logits()
    whole = answer_passes(model, pairs_of(model), 0).logits()
    places = torch.tensor([0, *(len(answer) for _, answer in pairs_of(model))]).cumsum(0)[:-1]
    torch.testing.assert_close(first, whole[places], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", SOME)
def test_neither_padding_nor_order_of_pairs_changes_a_pair(family):
    model = zoo.tiny(family, dtype=torch.float64)
    pairs = pairs_of(model)
    together = answer_passes(model, pairs, 1).logits().split([len(answer) for _, answer in pairs])
    turned = answer_passes(model, pairs[::-1], 1).logits().split([len(answer) for _, answer in pairs[::-1]])
    for pair, ours, theirs in zip(pairs, together, turned[::-1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(answer_passes(model, [pair], 1).logits(), ours, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", SOME)
def test_what_a_module_was_captured_with_is_found_where_answers_are_predicted(family):
    model = zoo.tiny(family, dtype=torch.float64)
    last = model.anatomy.layers - 1
    found = []
    for passes in (answer_passes(model, pairs_of(model), last), oracle(model)):
        with capture(model.anatomy.block(last)) as captured:
            logits = passes.logits()
        found.append(passes.at_reads(captured.value))
        torch.testing.assert_close(model.anatomy.logits(found[-1]), logits, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("lowest", range(zoo.ENCODER_LAYERS + zoo.DECODER_LAYERS))
def test_only_blocks_from_the_layer_on_are_run(lowest):
    model = zoo.tiny("t5")
    passes = answer_passes(model, pairs_of(model), lowest)
    seen: list[int] = []
    for layer in range(model.anatomy.layers):
        model.anatomy.block(layer).register_forward_hook(lambda *_, layer=layer: seen.append(layer))
    passes.logits()
    assert seen == list(range(lowest, model.anatomy.layers))


@pytest.mark.parametrize("failure", ["raises", "forgets"])
def test_a_model_whose_blocks_cannot_be_replayed_is_run_in_full(failure, monkeypatch):
    wanted = oracle(zoo.tiny("t5")).logits()
    model = zoo.tiny("t5")
    block = model.anatomy.block(3)
    whole, calls = block.forward, []

    def stateful(hidden, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:  # the first replay
            if failure == "raises":
                raise TypeError("not like this")
            return whole(hidden.roll(1, -1), *args, **kwargs)
        return whole(hidden, *args, **kwargs)

    monkeypatch.setattr(block, "forward", stateful)
    for layer in (0, 4):
        passes = answer_passes(model, pairs_of(model), layer)
        assert isinstance(passes, WholeAnswerPasses)
        torch.testing.assert_close(passes.logits(), wanted)


def test_a_decoder_that_is_given_copies_of_the_encoders_states_is_run_in_full(monkeypatch):
    """A replay could not bring it new ones."""
    model = zoo.tiny("t5")
    backbone = model.anatomy.backbone
    whole = backbone.forward
    monkeypatch.setattr(
        backbone,
        "forward",
        lambda encoder_hidden_states, **more: whole(encoder_hidden_states=encoder_hidden_states.clone(), **more),
    )
    assert isinstance(answer_passes(model, pairs_of(model), 0), WholeAnswerPasses)


def test_half_precision_is_replayed_too():
    model = zoo.tiny("t5", dtype=torch.bfloat16)
    passes = answer_passes(model, pairs_of(model), 0)
    assert isinstance(passes, ReplayedAnswerPasses)
    assert passes.logits().dtype == torch.float32


def test_passes_leave_nothing_behind():
    model = zoo.tiny("t5")
    passes = answer_passes(model, pairs_of(model), 1)
    passes.logits()
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.module.modules())
    assert all(parameter.grad is None for parameter in model.module.parameters())
    assert model.reading is None
