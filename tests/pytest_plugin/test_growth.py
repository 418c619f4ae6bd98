"""How a sequence grows."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import torch
import zoo

from editguard.edited import AppliedEdit, EditedModel, WeightDelta
from editguard.edits import EditRequest
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
