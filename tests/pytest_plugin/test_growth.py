"""How a sequence grows."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import zoo

from editguard.edited import AppliedEdit, EditedModel, WeightDelta
from editguard.edits import EditRequest
from editguard.errors import EditguardError
from editguard.models.weights import Dense
from editguard.pytest_plugin.growth import Group, Growth


class DenseMethod:
    """Adds a matrix of the request's own; notes how many updates the chain holds."""

    def __init__(self) -> None:
        self.held: list[int] = []

    def apply(self, edited: EditedModel, requests: list[EditRequest]) -> EditedModel:
        self.held.append(len(edited.changes))
        matrix = edited.model.anatomy.down_projection(1)
        seed = torch.Generator().manual_seed(int(requests[0].subject))
        change = WeightDelta({matrix.name: Dense(torch.randn(matrix.shape, generator=seed))})
        return edited.extended(AppliedEdit("dense", tuple(requests), (change,)))


def test_a_sequence_of_dense_updates_keeps_one_sum_per_checkpoint_and_the_bytes_of_each() -> None:
    model, method = zoo.tiny("gpt2"), DenseMethod()
    rest = EditedModel.original(model)
    requests = [EditRequest(prompt="{} is", subject=str(number), target="x") for number in range(6)]
    alone, chain = [model.weights.digest()], rest
    for request in requests:
        chain = method.apply(chain, [request])
        with chain:
            alone.append(model.weights.digest())
    method.held.clear()

    progress = SimpleNamespace(phase=lambda *_: nullcontext(lambda *_: None))
    configuration = SimpleNamespace(signals=False)
    growth = Growth(cast(Any, configuration), cast(Any, progress), [], [])
    group = Group(cast(Any, None), cast(Any, method), [rest])
    for checkpoint in (2, 6, 4):  # the last one lies before a checkpoint that is there already
        cell = cast(Any, SimpleNamespace(method="dense", edits=checkpoint, declaration=SimpleNamespace(checkpoints=())))
        growth._apply_one_by_one(group, cell, requests[:checkpoint])
        state = group.chain[checkpoint]
        assert state is not None
        assert state.requests == tuple(requests[:checkpoint])
        with state:
            assert model.weights.digest() == alone[checkpoint]
    assert method.held == [0, 1, 1, 2, 2, 2, 1, 2]
    assert [number for number, state in enumerate(group.chain) if state is not None] == [0, 2, 4, 6]


@pytest.mark.parametrize("memory", [None, object()], ids=["weights", "a memory of prompts"])
def test_signals_are_read_once_for_each_state_and_of_a_memory_at_checkpoints(
    memory: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def reading(chain: object, edits: int, texts: object, *, seed: int) -> Any:
        read.append(edits)
        if edits == 4:
            raise EditguardError("a prompt is too long")
        return SimpleNamespace(to_json=lambda: {"edits": edits})

    monkeypatch.setattr("editguard.measurements.signals.read_signals", reading)
    monkeypatch.setattr("editguard.pytest_plugin.growth.signal_texts", lambda *_: ["a text"])
    signals: list[dict[str, Any]] = []
    growth = Growth(cast(Any, SimpleNamespace(signals=True, seed=0)), cast(Any, None), [], signals)
    group = Group(cast(Any, None), cast(Any, None), [])
    declaration = SimpleNamespace(checkpoints=(2, 4, 5), cases=())
    cell = cast(Any, SimpleNamespace(method="toy", group="g", declaration=declaration))
    for edits in (0, 1, 2, 2, 3, 4, 5):
        growth._read_signals(group, cell, cast(Any, SimpleNamespace(memory=lambda: memory)), edits)
    assert read == ([0, 1, 2, 3, 4, 5] if memory is None else [2, 4, 5])
    assert [each["signals"]["edits"] for each in signals] == [edits for edits in read if edits != 4]
