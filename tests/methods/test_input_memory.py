"""Memories of an MLP's inputs: training and validation apart, and always the unedited model's."""

import pytest
import torch
import zoo
from hypothesis import given
from hypothesis import strategies as st

from editguard.edited import AddedNeurons, AppliedEdit, EditedModel
from editguard.edited.added_neurons import Neurons
from editguard.edits import EditRequest
from editguard.errors import MethodRefused, MissingMaterial
from editguard.methods import Preparation
from editguard.methods.input_memory import InputMemories, InputMemory, divided
from editguard.models import LanguageModel
from editguard.models.text_states import mlp_inputs

REQUEST = EditRequest(prompt="{} is", subject="Tamrin", target="x")


def prepared(model: LanguageModel, layer: int = 1, **data: object) -> InputMemory:
    memories = InputMemories("toy", 60, 20)
    memories.prepare(model, layer, Preparation(**{"texts": zoo.SENTENCES, **data}))  # type: ignore[arg-type]
    return memories.of(model)


@given(
    texts=st.lists(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), min_size=2, max_size=60).filter(
        lambda texts: len(set(texts)) > 1
    ),
    training=st.integers(1, 50_000),
    validation=st.integers(1, 50_000),
)
def test_no_text_is_in_both_parts_and_none_is_lost(texts: list[str], training: int, validation: int) -> None:
    one, other = divided(texts, training, validation)
    assert not set(one) & set(other)
    assert sorted([*one, *other]) == sorted(set(texts))
    assert one
    assert other


def test_texts_are_divided_in_proportion_to_what_is_wanted() -> None:
    one, other = divided([str(number) for number in range(900)], 40_000, 5_000)
    assert (len(one), len(other)) == (800, 100)


def test_both_parts_are_the_blocks_inputs_in_at_least_float32() -> None:
    model = zoo.tiny("opt", dtype=torch.bfloat16)
    memory = prepared(model, 2, seed=4)
    one, other = divided(zoo.SENTENCES, 60, 20)
    for found, texts, tokens in ((memory.training, one, 60), (memory.validation, other, 20)):
        assert found.dtype == torch.float32
        assert torch.equal(found, mlp_inputs(model, 2, texts, tokens=tokens, seed=4).float())
    assert memory.activation == "relu"
    assert memory.record == {"training": 60, "validation": 20, "layer": 2, "seed": 4}


def test_they_are_the_unedited_models_also_when_prepared_late() -> None:
    model = zoo.tiny("gpt2")
    wanted = prepared(zoo.tiny("gpt2"), 3)
    neurons = Neurons(torch.ones(1, 16), torch.ones(1), torch.ones(16, 1), "relu")
    chain = EditedModel(model, [AppliedEdit("toy", (REQUEST,), (AddedNeurons(1, neurons),))])
    with chain:
        found = prepared(model, 3)
        assert tuple(model.installed) == chain.changes
    assert torch.equal(found.training, wanted.training)


def test_the_same_data_is_collected_once_and_other_data_replaces_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny("gpt2")
    memories = InputMemories("toy", 60, 20)
    memories.prepare(model, 1, Preparation(texts=zoo.SENTENCES))
    first = memories.of(model)
    memories.prepare(model, 1, Preparation(texts=zoo.SENTENCES))
    memories.prepare(model, 1, Preparation())
    assert memories.of(model) is first
    memories.prepare(model, 1, Preparation(texts=zoo.SENTENCES, seed=1))
    second = memories.of(model)
    assert not torch.equal(second.training, first.training)
    memories.prepare(model, 1, Preparation(texts=zoo.SENTENCES[1:]))
    assert not torch.equal(memories.of(model).training, first.training)


@pytest.mark.parametrize("texts", [(), ("one text",), ("one text", "one text")])
def test_without_two_different_texts_it_says_what_it_misses(texts: tuple[str, ...]) -> None:
    model = zoo.tiny("gpt2")
    memories = InputMemories("toy", 60, 20)
    with pytest.raises(MissingMaterial, match=r"toy needs running text.*--editguard-corpus"):
        memories.prepare(model, 1, Preparation(texts=texts))
    with pytest.raises(MethodRefused, match="toy was not prepared"):
        memories.of(model)


def test_the_user_sees_what_is_going_on() -> None:
    said: list[str] = []
    prepared(zoo.tiny("gpt2"), on_progress=said.append)
    assert any(line.startswith("toy: training memory of layer 1's inputs, ") for line in said)
    assert any("validation memory" in line for line in said)
