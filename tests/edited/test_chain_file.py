"""A chain on disk is the chain: bytes, layout, what is shared, and nothing that is not whole."""

import json

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from editguard.edited import AppliedEdit, EditedModel, WeightDelta
from editguard.edited.added_neurons import AddedNeurons, Neurons
from editguard.edited.chain_file import read_chain, remove_chain, write_chain
from editguard.edited.key_memory import KeyMemory
from editguard.edits import EditRequest
from editguard.models.weights import Dense, LowRank, Masked, Total

REQUEST = EditRequest(prompt="{} is", subject="Ada", target="here", relation="at")
WIDE = zoo.D_FF


@pytest.fixture(scope="module")
def model():
    return zoo.tiny("gpt2")


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def change(kind, seed, name):
    left, right = drawn(seed, zoo.D_MODEL, 3), drawn(seed + 1, WIDE, 3)
    strided = LowRank(left[:, 1:2], drawn(seed, 2, WIDE).T)
    strided = LowRank(strided.left, strided.right[:, :1])
    dense = Dense(drawn(seed, WIDE, zoo.D_MODEL).T)
    return {
        "low": lambda: WeightDelta({name: LowRank(left, right)}),
        "strided": lambda: WeightDelta({name: strided}),
        "dense": lambda: WeightDelta({name: dense}),
        "masked": lambda: WeightDelta({name: Masked.keeping(LowRank(left, right), dense.delta > 0)}),
        "total": lambda: WeightDelta({name: Total(dense.delta)}),
        "keys": lambda: KeyMemory({name: right}),
        "neurons": lambda: AddedNeurons(1, Neurons(drawn(seed, 2, zoo.D_MODEL), drawn(1, 2), left[:, :2], "gelu")),
        "shared": lambda: WeightDelta({name: LowRank(left, WIDE_KEY)}),
    }[kind]()


WIDE_KEY = drawn(0, WIDE, 3)
"""One tensor that several edits hold."""
KINDS = ("low", "strided", "dense", "masked", "total", "keys", "neurons", "shared")


def chain_of(model, kinds):
    name = model.anatomy.down_projection(1).name
    chain = EditedModel.original(model)
    for seed, kind in enumerate(kinds):
        record = {"norm": 0.1 + seed, "layers": [{"at": (1, 2)}]}
        chain = chain.extended(AppliedEdit("scripted", (REQUEST,), (change(kind, seed, name),), record, 0.25))
    return chain


def state(chain):
    """What the model is: all weights, and the logits of a prompt."""
    chain.activate()
    bytes_ = [parameter.detach().numpy().tobytes() for parameter in chain.model.module.parameters()]
    answer = chain.next_tokens(["The capital of Velloria is"], 5)
    EditedModel.original(chain.model).activate()
    return bytes_, answer


@settings(max_examples=12, deadline=None)
@given(kinds=st.lists(st.sampled_from(KINDS), max_size=4))
def test_what_is_read_is_what_was_written(model, tmp_path_factory, kinds):
    path = tmp_path_factory.mktemp("chain") / "one.json"
    chain = chain_of(model, kinds)
    assert write_chain(path, chain, {"done": 3})
    found, notes = read_chain(path, model)
    assert notes == {"done": 3}
    assert state(found) == state(chain)
    assert found.stored_bytes() == chain.stored_bytes()
    assert found.requests == chain.requests
    assert [edit.seconds for edit in found.edits] == [edit.seconds for edit in chain.edits]
    assert json.dumps([dict(edit.record) for edit in found.edits]) == json.dumps(
        [dict(each.record) for each in chain.edits]
    )
    layouts = [[each.stride() for each in tensors(one)] for one in (found, chain)]
    assert layouts[0] == layouts[1]


def tensors(chain):
    for each in chain.changes:
        for delta in getattr(each, "deltas", {}).values():
            for name in ("left", "right", "delta", "total"):
                if hasattr(delta, name):
                    yield getattr(delta, name)


def test_the_newest_state_alone_is_kept_and_removed_as_a_whole(model, tmp_path):
    path = tmp_path / "states" / "one.json"
    for length in (1, 2):
        assert write_chain(path, chain_of(model, KINDS[:length]), {})
        assert len(list(path.parent.iterdir())) == 2
    write_chain(path.with_name("one-more.json"), chain_of(model, KINDS[:1]), {})
    assert len(read_chain(path, model)[0].edits) == 2
    remove_chain(path)
    assert read_chain(path, model) is None
    assert read_chain(path.with_name("one-more.json"), model) is not None
    remove_chain(path.with_name("one-more.json"))
    assert not path.parent.exists()


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_damaged_state_is_none(model, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("chain") / "one.json"
    write_chain(path, chain_of(model, ("low", "dense")), {"done": 2})
    file = data.draw(st.sampled_from(sorted(path.parent.iterdir())))
    raw = file.read_bytes()
    file.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 3))])
    assert read_chain(path, model) is None


class Unknown:
    """A change of a kind that has no form on disk."""

    def install(self, model):
        pass

    def uninstall(self, model):
        pass


@pytest.mark.parametrize(
    ("changes", "record"),
    [
        ((Unknown(),), {}),
        ((), {"a": object()}),
        ((), {"a": float("nan")}),
        ((), {"a": {1: 2}}),
        ((), {"a": drawn(0, 2)}),
    ],
)
def test_what_has_no_form_on_disk_is_not_written(model, tmp_path, changes, record):
    chain = EditedModel(model, [AppliedEdit("scripted", (REQUEST,), changes, record)])
    assert not write_chain(tmp_path / "one.json", chain, {})
    assert list(tmp_path.iterdir()) == []


def test_edits_that_share_their_numbers_share_them_again(model, tmp_path):
    chain = chain_of(model, ("shared", "low", "shared", "dense"))
    assert write_chain(tmp_path / "chain.json", chain, {})
    found = read_chain(tmp_path / "chain.json", model)
    assert found is not None
    before, after = ([each.changes[0].deltas for each in one.edits] for one in (chain, found[0]))
    rights = [next(iter(after[place].values())).right for place in (0, 2)]
    assert rights[0].untyped_storage().data_ptr() == rights[1].untyped_storage().data_ptr()
    assert all(torch.equal(right, WIDE_KEY) for right in rights)
    assert found[0].stored_bytes() == chain.stored_bytes()
    assert len(before) == len(after) == 4


def test_numbers_of_a_device_that_is_not_here_are_read_to_one_that_is(model, tmp_path):
    path = tmp_path / "one.json"
    chain = chain_of(model, KINDS)
    write_chain(path, chain, {})
    path.write_text(path.read_text().replace('"device": "cpu"', '"device": "cuda:99"'))
    assert read_chain(path, model) is None
    found = read_chain(path, model, device="cpu")
    assert found is not None
    assert state(found[0]) == state(chain)
