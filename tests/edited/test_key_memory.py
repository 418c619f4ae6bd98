"""Keys that a chain of edits remembers: state of the chain, of no consequence for the model's bytes."""

import torch
import zoo

from editguard.edited import AppliedEdit, EditedModel, WeightDelta
from editguard.edited.key_memory import KeyMemory, earlier_keys
from editguard.edits import EditRequest
from editguard.models.weights import LowRank

REQUEST = EditRequest(prompt="{} is", subject="Tamrin", target="x")


def test_keys_are_found_oldest_first_by_parameter_and_prefix() -> None:
    model = zoo.tiny("gpt2")
    name = model.anatomy.down_projection(1).name
    chain = EditedModel.original(model)
    for number in range(3):
        update = LowRank(torch.full((zoo.D_MODEL, 1), 0.1), torch.full((zoo.D_FF, 1), 0.1))
        keys = KeyMemory({name: torch.full((zoo.D_FF, number + 1), float(number))})
        chain = chain.extended(AppliedEdit("toy", (REQUEST,), (WeightDelta({name: update}), keys)))
    found = earlier_keys(chain.changes, name)
    assert found is not None
    assert found[0].tolist() == [0, 1, 1, 2, 2, 2]
    shorter = earlier_keys(chain.prefix(2).changes, name)
    assert shorter is not None
    assert shorter[0].tolist() == [0, 1, 1]
    assert earlier_keys(chain.changes, "another") is None


def test_a_memory_changes_neither_bytes_nor_prompts() -> None:
    model = zoo.tiny("gpt2")
    before = model.weights.digest()
    name = model.anatomy.down_projection(1).name
    chain = EditedModel.original(model).extended(
        AppliedEdit("toy", (REQUEST,), (KeyMemory({name: torch.ones(zoo.D_FF, 1)}),))
    )
    with chain:
        assert model.weights.digest() == before
        assert [each.prompt for each in chain.consult(["a prompt"])] == ["a prompt"]
    assert not model.installed
