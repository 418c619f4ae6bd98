"""Prefix contexts are a function of the unedited model and the seed."""

import random

import numpy as np
import pytest
import torch
import zoo

from editguard.edited import AppliedEdit, EditedModel, WeightDelta
from editguard.methods.context_templates import FIRST_WORDS, prefix_contexts
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
    big = WeightDelta({matrix.name: Dense(torch.ones(matrix.shape))})
    edited = EditedModel.original(model).extended(AppliedEdit("toy", (), (big,)))
    edited.activate()
    digest = model.weights.digest()
    assert prefix_contexts(model) == wanted
    assert model.weights.digest() == digest


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
