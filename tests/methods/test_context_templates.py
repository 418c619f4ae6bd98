"""Prefix contexts are a function of the unedited model and the seed."""

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor

from editguard.edited import AppliedEdit, EditedModel, WeightDelta
from editguard.errors import UnsupportedModel
from editguard.methods.context_templates import FIRST_WORDS, prefix_contexts
from editguard.models import LanguageModel
from editguard.models.weights import Dense


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_there_is_the_empty_context_and_then_the_asked_number_of_texts(family: str) -> None:
    contexts = prefix_contexts(zoo.tiny(family), lengths=((3, 4), (6, 2)), seed=1)
    assert len(contexts) == 7
    assert contexts[0] == ""
    assert all(text.endswith(". ") and "\n" not in text for text in contexts[1:])
    starts = [*FIRST_WORDS[:4], *FIRST_WORDS[:2]]
    assert all(text.startswith(word) for text, word in zip(contexts[1:], starts, strict=True))


def test_the_same_seed_gives_the_same_texts_and_another_seed_others() -> None:
    one, two = zoo.tiny("llama"), zoo.tiny("llama")
    assert prefix_contexts(one, seed=5) == prefix_contexts(two, seed=5)
    assert prefix_contexts(one, seed=5) != prefix_contexts(one, seed=6)


def test_models_of_one_name_with_different_weights_get_their_own_texts() -> None:
    assert prefix_contexts(zoo.tiny("gpt2", seed=0)) != prefix_contexts(zoo.tiny("gpt2", seed=1))


def test_the_texts_are_the_unedited_models_also_when_an_edit_is_in_force() -> None:
    wanted = prefix_contexts(zoo.tiny("gpt2"))
    model = zoo.tiny("gpt2")
    matrix = model.anatomy.down_projection(0)
    drawn = torch.Generator().manual_seed(0)  # no constant: a norm would take that away again
    big = WeightDelta({matrix.name: Dense(10 * torch.randn(matrix.shape, generator=drawn))})
    edited = EditedModel.original(model).extended(AppliedEdit("toy", (), (big,)))
    edited.activate()
    digest = model.weights.digest()
    assert prefix_contexts(model) == wanted
    assert model.weights.digest() == digest
    with torch.no_grad():  # the same update as a part of the model itself makes it write other texts
        twin = zoo.tiny("gpt2")
        twin.anatomy.down_projection(0).weight().add_(big.deltas[matrix.name].dense())
    assert prefix_contexts(twin) != wanted


def test_no_global_random_state_is_read_or_changed() -> None:
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        before = (torch.get_rng_state(), random.getstate())
        states.append(prefix_contexts(zoo.tiny("gpt2", seed=7)))
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1] == random.getstate()
    assert states[0] == states[1]


def test_the_lengths_decide_which_texts_a_model_gets_also_when_it_has_others_already() -> None:
    model = zoo.tiny("gpt2")
    for lengths in (((4, 2),), ((6, 3),), ((4, 2), (6, 3)), ()):
        assert prefix_contexts(model, lengths=lengths) == prefix_contexts(zoo.tiny("gpt2"), lengths=lengths)
    assert prefix_contexts(model, lengths=((4, 2), (6, 3))) == (
        *prefix_contexts(model, lengths=((4, 2),)),
        *prefix_contexts(model, lengths=((6, 3),))[1:],
    )


Pass = tuple[Tensor, Tensor]
"""Tokens (rows, width) and the logits behind each row's last one (rows, vocabulary)."""


def watched(model: LanguageModel, monkeypatch: pytest.MonkeyPatch, sharpness: float = 1.0) -> list[Pass]:
    """The passes that the model will make, its logits multiplied by the sharpness."""
    passes: list[Pass] = []
    plain = model.logits

    def logits(ids: Tensor, mask: Tensor) -> Tensor:
        found = sharpness * plain(ids, mask)
        passes.append((ids.clone(), found[:, -1]))
        return found

    monkeypatch.setattr(model, "logits", logits)
    return passes


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_text_has_the_asked_number_of_tokens_with_its_first_word_each_one_of_the_five_likeliest(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = zoo.tiny(family)
    passes = watched(model, monkeypatch)
    prefix_contexts(model, lengths=((9, 10),))
    added = len(model.encode_text("The")) - len(model.tokenizer("The", add_special_tokens=False)["input_ids"])
    assert max(ids.shape[1] for ids, _ in passes) == 9 + added - 1  # the last token is drawn and not run
    ranks = set()
    for (ids, logits), (longer, _) in pairwise(passes):
        if longer.shape[1] == ids.shape[1] + 1 and torch.equal(longer[:, :-1], ids):
            drawn = logits.gather(1, longer[:, -1:])
            ranks |= set((logits > drawn).sum(1).tolist())
    assert {0, 1} <= ranks <= set(range(5))


def test_likelier_tokens_are_drawn_more_often_and_certain_ones_always(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []
    for seed in (1, 2):
        model = zoo.tiny("gpt2")
        watched(model, monkeypatch, sharpness=1e6)
        texts.append(prefix_contexts(model, lengths=((8, 5),), seed=seed))
    assert texts[0] == texts[1]


def test_a_text_is_one_line_with_one_full_stop_whatever_the_model_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny("gpt2")
    monkeypatch.setattr(model, "decode", lambda _: " The\nred\t\u00a0 blue. . ")
    assert prefix_contexts(model, lengths=((3, 2),)) == ("", "The red blue. ", "The red blue. ")


def test_a_decoder_behind_an_encoder_writes_none() -> None:
    with pytest.raises(UnsupportedModel, match="no stream of running text"):
        prefix_contexts(zoo.tiny("t5"))
