"""The size of what edits leave behind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import zoo
from hypothesis import given
from hypothesis import strategies as st

from editguard.edited import (
    AppliedEdit,
    Consulted,
    EditedModel,
    EditMemory,
    MemoryRow,
    PromptMemory,
    WeightDelta,
    merged,
    stored_bytes,
)
from editguard.edited.key_memory import KeyMemory
from editguard.edits import EditRequest
from editguard.models import Dense, LowRank, Masked

REQUEST = EditRequest(prompt="The capital of {} is", subject="Velloria", target="Oskar")


@dataclass(frozen=True, eq=False)
class Held:
    """A change that holds whatever it is given."""

    things: Any

    def install(self, model: object) -> None: ...

    def uninstall(self, model: object) -> None: ...


class AsTheyAre:
    """A front that changes nothing."""

    def consult(self, memory: EditMemory, prompts: Sequence[str]) -> list[Consulted]:
        return [Consulted(prompt=prompt) for prompt in prompts]


def memory_of(rows: int, continues: PromptMemory | None = None) -> PromptMemory:
    return PromptMemory("toy", EditMemory([MemoryRow.of(REQUEST)] * rows), AsTheyAre(), continues)


class Plain:
    """A change that is no dataclass."""

    def __init__(self, *tensors: torch.Tensor) -> None:
        self.tensors = tensors


class Telling(Plain):
    """One that tells what it holds."""

    def stored_tensors(self) -> Sequence[torch.Tensor]:
        return self.tensors


@pytest.mark.parametrize(
    ("delta", "numbers"),
    [
        (LowRank(torch.ones(6, 2), torch.ones(5, 2)), 4 * (12 + 10)),
        (Dense(torch.ones(6, 5)), 4 * 30),
        (Dense(torch.ones(6, dtype=torch.float64)), 8 * 6),
        (Dense(torch.ones(6, 5, dtype=torch.bfloat16)), 2 * 30),
        (Masked.keeping(LowRank(torch.ones(6, 2), torch.ones(5, 2)), torch.ones(6, 5).bool()), 4 * 22 + 4),
    ],
)
def test_a_weight_delta_is_as_large_as_its_factors(delta: Any, numbers: int) -> None:
    assert stored_bytes([WeightDelta({"a": delta})]) == numbers


def test_names_and_text_have_no_size_and_keys_of_a_memory_have() -> None:
    memory = memory_of(1)
    assert stored_bytes([]) == stored_bytes([memory]) == stored_bytes([Held("text"), Held(None), Held(3)]) == 0
    assert stored_bytes([memory, KeyMemory({"a": torch.ones(5, 3)})]) == 60


def test_tensors_are_found_in_mappings_lists_and_dataclasses_within_each_other() -> None:
    inner: Mapping[str, Any] = {"x": [torch.ones(2), (torch.ones(3), Held({4: torch.ones(4)}))]}
    assert stored_bytes([Held(inner)]) == 4 * 9


def test_what_changes_share_counts_once() -> None:
    keys = torch.ones(100)
    assert stored_bytes([Held(keys), Held([keys, keys])]) == 400
    assert stored_bytes([Held(keys[:30]), Held(keys[20:50])]) == 4 * 50
    assert stored_bytes([Held(keys[:30]), Held(keys[60:])]) == 4 * 70
    assert stored_bytes([Held(keys.reshape(10, 10).T)]) == 400
    assert stored_bytes([Held(keys.clone()), Held(keys)]) == 800
    assert stored_bytes([Held(torch.ones(())), Held(torch.ones(0))]) == 4


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=6))
def test_parts_of_one_tensor_take_the_bytes_that_any_of_them_has(ends: list[tuple[int, int]]) -> None:
    whole = torch.zeros(40)
    parts = [slice(min(pair), max(pair)) for pair in ends]
    touched = {place for part in parts for place in range(*part.indices(40))}
    assert stored_bytes([Held(whole[part]) for part in parts]) == 4 * len(touched)


def test_a_change_that_does_not_tell_makes_the_size_unknown() -> None:
    assert stored_bytes([Held(torch.ones(2)), Telling(torch.ones(3))]) == 20
    assert stored_bytes([Held(Telling(torch.ones(3)))]) == 12
    assert stored_bytes([Held(torch.ones(2)), Plain(torch.ones(3))]) is None


def test_a_long_chain_of_memories_and_a_thing_that_holds_itself_are_walked() -> None:
    memory = None
    for number in range(3000):
        memory = memory_of(number % 3, memory)
    assert memory is not None
    assert stored_bytes([memory]) == 0
    ring: list[Any] = [torch.ones(2)]
    ring.append(ring)
    assert stored_bytes([Held(ring)]) == 8


def test_the_model_that_a_change_speaks_of_is_not_part_of_it() -> None:
    model = zoo.tiny("gpt2")
    assert stored_bytes([Held([model, model.anatomy.down_projection(1)])]) == 0


def test_a_chain_is_as_large_as_what_it_holds_and_smaller_when_dense_updates_are_merged() -> None:
    model = zoo.tiny("gpt2")
    matrix = model.anatomy.down_projection(1)
    chain = EditedModel.original(model)
    assert chain.stored_bytes() == 0
    for _ in range(3):
        change = WeightDelta({matrix.name: Dense(torch.ones(matrix.shape))})
        chain = chain.extended(AppliedEdit("ft", (REQUEST,), (change,)))
    size = 4 * matrix.d_out * matrix.d_in
    assert chain.stored_bytes() == 3 * size
    assert merged(chain, since=0).stored_bytes() == size
    assert chain.prefix(1).stored_bytes() == size
