"""The smaller model of a model's own family, and what it is trained on."""

import pytest
import torch
import zoo

from editguard.errors import MethodRefused
from editguard.methods.counterfactual_model import answer_losses, as_language_model, smaller, untrained
from editguard.models import LanguageModel
from editguard.models.answer_rows import answer_rows

PAIRS = [("The capital of Velloria is Tamrin The capital of Velloria is", "Tamrin"), ("Ines Holt", "Aldo Holt")]


def small(family: str, *, seed: int = 0) -> LanguageModel:
    model = zoo.tiny(family)
    return as_language_model(untrained(model, None, None, seed), model.tokenizer, model.name, 32)


@pytest.mark.parametrize("family", zoo.EVERY)
def test_every_family_has_a_smaller_model_with_the_same_tokens_that_answers_and_learns(family: str) -> None:
    model, found = zoo.tiny(family), small(family)
    assert found.anatomy.family == model.anatomy.family or family == "gemma3"
    assert found.anatomy.d_model < model.anatomy.d_model
    assert found.anatomy.layers <= model.anatomy.layers
    assert bool(found.anatomy.encoder_layers) == bool(model.anatomy.encoder_layers)
    assert found.module.get_input_embeddings().weight.shape[0] == model.module.get_input_embeddings().weight.shape[0]
    assert found.opening == model.opening
    assert len(found.generate([prompt for prompt, _ in PAIRS], max_new_tokens=2)) == 2
    found.module.requires_grad_(True)
    losses, right = answer_losses(found, PAIRS)
    losses.mean().backward()
    assert losses.shape == right.shape == (2,)
    gradients = [parameter.grad for parameter in found.module.parameters() if parameter.ndim > 1]
    assert sum(each is not None and bool(each.any()) for each in gradients) > len(gradients) / 2


def test_the_size_can_be_chosen_in_whole_heads() -> None:
    model = zoo.tiny("llama")
    config = smaller(model.config, 3, 16)
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (3, 16, zoo.D_FF)
    for width in (4, 12):
        with pytest.raises(MethodRefused, match="no multiple of the width of this model's attention heads, which is 8"):
            smaller(model.config, None, width)
    assert model.config.hidden_size == zoo.D_MODEL


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_loss_of_a_decoder_counts_the_answer_and_the_end_of_the_text(family: str) -> None:
    model = zoo.tiny(family)
    losses, _ = answer_losses(model, PAIRS)
    [end] = model.end_ids
    for (prompt, answer), loss in zip(PAIRS, losses, strict=True):
        before, after = model.encode_answer(prompt, answer)
        ids = torch.tensor([[*before, *after, end]])
        logits = model.logits(ids, torch.ones_like(ids))[0].log_softmax(-1)
        wanted = [logits[len(before) - 1 + n, token] for n, token in enumerate((*after, end))]
        torch.testing.assert_close(loss, -torch.stack(wanted).mean(), rtol=1e-4, atol=1e-5)


def test_the_loss_behind_an_encoder_is_that_of_the_closed_answer() -> None:
    model = zoo.tiny("t5")
    losses, right = answer_losses(model, PAIRS)
    rows = answer_rows(model, PAIRS, 0)
    logits = rows.passes.logits()
    torch.testing.assert_close(losses, rows.losses(logits), rtol=1e-4, atol=1e-5)
    assert right.dtype == torch.bool


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_an_answer_is_learnt_to_its_end(family: str) -> None:
    model = small(family)
    module = model.module.requires_grad_(True)
    adam = torch.optim.Adam(module.parameters(), lr=2e-2)
    for _ in range(60):
        losses, right = answer_losses(model, PAIRS)
        adam.zero_grad()
        losses.mean().backward()
        adam.step()
    module.requires_grad_(False)
    assert bool(right.all())
    said = model.generate([prompt for prompt, _ in PAIRS], max_new_tokens=12)
    assert [each.text for each in said] == [answer for _, answer in PAIRS]
    assert all(each.stopped for each in said)
