"""Encoders: nearness of texts."""

import numpy as np
import pytest
import torch
import zoo

from editguard.edited import AppliedEdit, EditedModel, WeightDelta
from editguard.errors import InvalidSettings
from editguard.methods.retrieval import MeanPooledEncoder, encoder
from editguard.models.weights import Dense

TEXTS = ("The capital of Velloria is", "The mayor of Tamrin is", "Copy: red blue green", "Aldo Holt was born in")


@pytest.mark.parametrize("family", ["gpt2", "t5"])
@pytest.mark.parametrize("name", ["tf-idf", "mean-pooled"])
def test_a_text_is_nearest_to_itself_and_similarities_are_cosines(name: str, family: str) -> None:
    index = encoder(name, zoo.tiny(family)).index(TEXTS)
    found = index.similarities(TEXTS)
    assert found.shape == (4, 4)
    assert np.abs(found).max() <= 1 + 1e-9
    np.testing.assert_allclose(found.diagonal(), 1)
    assert list(found.argmax(1)) == [0, 1, 2, 3]
    np.testing.assert_allclose(index.similarities(TEXTS[2:])[0], found[2])


def test_n_grams_find_the_same_subject_in_other_words() -> None:
    index = encoder("tf-idf", zoo.tiny("gpt2")).index(TEXTS)
    found = index.similarities(["Velloria's capital city?", "who governs Tamrin", "zzz"])
    assert list(found.argmax(1)[:2]) == [0, 1]
    assert not found[2].any()


def test_mean_pooling_is_over_the_unedited_models_states_and_leaves_the_edits_in_force() -> None:
    model = zoo.tiny("gpt2")
    wanted = MeanPooledEncoder(model).vectors(TEXTS)
    matrix = model.anatomy.down_projection(0)
    edited = EditedModel.original(model).extended(
        AppliedEdit("toy", (), (WeightDelta({matrix.name: Dense(torch.ones(matrix.shape))}),))
    )
    edited.activate()
    np.testing.assert_array_equal(MeanPooledEncoder(model).vectors(TEXTS), wanted)
    assert tuple(model.installed) == edited.changes
    ids = torch.tensor([model.encode_text(TEXTS[0])])
    EditedModel.original(model).activate()
    states = model.forward(ids, torch.ones_like(ids)).last_hidden_state[0]
    np.testing.assert_allclose(wanted[0], states.detach().double().mean(0).numpy(), rtol=1e-6)


def test_one_text_alone_can_be_indexed() -> None:
    for name in ("tf-idf", "mean-pooled"):
        assert encoder(name, zoo.tiny("gpt2")).index(TEXTS[:1]).similarities(TEXTS[:1])[0, 0] == pytest.approx(1)


def test_an_unknown_encoder_is_named() -> None:
    with pytest.raises(InvalidSettings, match="tf-idf"):
        encoder("tfidf", zoo.tiny("gpt2"))
