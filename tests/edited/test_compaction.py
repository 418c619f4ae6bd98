"""Merged chains: fewer matrices in memory, the same bytes in the model."""

from collections.abc import Sequence

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from editguard.edited import AppliedEdit, Consulted, EditedModel, EditMemory, MemoryRow, PromptMemory, WeightDelta
from editguard.edited.compaction import compacted, merged
from editguard.edited.side_memory import Memory, SideMemory, Support
from editguard.edits import EditRequest
from editguard.models import LanguageModel
from editguard.models.weights import Delta, Dense, LowRank, Masked, Total

FACT = EditRequest(prompt="The capital of {} is", subject="Velloria", target="Oskar")
DTYPES = (torch.float32, torch.bfloat16, torch.float64)


def edit(model: LanguageModel, kind: str, seed: int, method: str = "toy") -> AppliedEdit:
    """An edit of layer 1 (and of its bias) or 2."""
    generator = torch.Generator().manual_seed(seed)
    matrix = model.anatomy.down_projection(1 + seed % 2)
    rows, columns = matrix.shape
    whole = torch.randn(rows, columns, generator=generator) * 0.01
    factors = LowRank(whole[:, :2].clone(), whole.T[:, :2].clone())
    delta: Delta = {
        "dense": Dense(whole),
        "masked": Masked.keeping(Dense(whole), whole > 0),
        "low rank": factors,
    }[kind]
    deltas: dict[str, Delta] = {matrix.name: delta}
    if kind == "dense" and matrix.bias_name is not None:
        deltas[matrix.bias_name] = Dense(torch.randn(rows, generator=generator))
    return AppliedEdit(method, (FACT,), (WeightDelta(deltas),), {"seed": seed}, 0.5)


def chain_of(model: LanguageModel, kinds: list[str]) -> EditedModel:
    return EditedModel(model, [edit(model, kind, seed) for seed, kind in enumerate(kinds)])


def digest(edited: EditedModel) -> str:
    with edited:
        return edited.model.weights.digest()


@given(
    st.lists(st.sampled_from(["dense", "dense", "masked", "low rank"]), min_size=1, max_size=7),
    st.sets(st.integers(0, 7)),
    st.sampled_from(["gpt2", "llama"]),
    st.sampled_from(DTYPES),
)
@settings(deadline=None, max_examples=25)
def test_every_state_that_is_kept_has_the_bytes_of_the_whole_chains(
    kinds: list[str], keep: set[int], family: str, dtype: torch.dtype
) -> None:
    model = zoo.tiny(family, dtype=dtype)
    chain = chain_of(model, kinds)
    keep = {number for number in keep if number <= len(kinds)}
    wanted = {number: digest(chain.prefix(number)) for number in keep}
    states = compacted(chain, keep)
    assert states.keys() == keep
    for number in [*sorted(keep), *sorted(keep, reverse=True)]:
        assert digest(states[number]) == wanted[number]
        assert states[number].requests == chain.prefix(number).requests
    model.weights.verify()


def matrices_held(*states: EditedModel) -> int:
    """How many different dense tensors of matrices the states hold together."""
    return len(
        {
            id(delta)
            for state in states
            for change in state.changes
            for delta in change.deltas.values()
            if not isinstance(delta, LowRank) and len(delta.shape) == 2
        }
    )


def test_a_kept_state_costs_one_matrix_per_edited_parameter() -> None:
    model = zoo.tiny("gpt2")
    chain = chain_of(model, ["dense"] * 20)
    states = compacted(chain, {10, 20})
    assert matrices_held(chain) == 20
    assert matrices_held(*states.values()) == 4
    assert [len(state.edits) for state in states.values()] == [1, 2]
    assert states[20].edits[0] is states[10].edits[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sequence_merged_after_each_edit_holds_one_matrix_per_parameter_all_the_way(dtype: torch.dtype) -> None:
    model = zoo.tiny("gpt2", dtype=dtype)
    growing = whole = EditedModel.original(model)
    for seed in range(8):
        new = edit(model, "dense", seed)
        whole = whole.extended(new)
        growing = merged(growing.extended(new), since=0)
        assert matrices_held(growing) <= 2
        assert digest(growing) == digest(whole)
    [one] = growing.edits
    assert [record["seed"] for record in one.record["merged"]] == list(range(8))
    assert one.seconds == pytest.approx(4.0)
    assert growing.requests == whole.requests


class Mute:
    """A front that changes nothing."""

    def consult(self, memory: EditMemory, prompts: Sequence[str]) -> list[Consulted]:
        return [Consulted(prompt=prompt) for prompt in prompts]


def test_low_rank_edits_memories_and_other_methods_stay_apart() -> None:
    model = zoo.tiny("gpt2")
    remembering = AppliedEdit("toy", (FACT,), (PromptMemory("toy", EditMemory([MemoryRow.of(FACT)]), Mute()),))
    dense = [edit(model, "dense", seed) for seed in range(4)]
    other = edit(model, "dense", 4, method="another")
    edits = [*dense[:2], edit(model, "low rank", 7), remembering, *dense[2:], other]
    chain = EditedModel(model, edits)
    small = merged(chain, since=0)
    assert [len(one.requests) for one in small.edits] == [2, 1, 1, 2, 1]
    assert small.edits[1:3] == tuple(edits[2:4])
    assert small.edits[4] is other
    assert digest(small) == digest(chain)


def test_a_merged_edit_sets_the_sum_and_comes_off_to_the_state_before_it() -> None:
    model = zoo.tiny("gpt2")
    chain = EditedModel(model, [edit(model, kind, seed) for seed, kind in enumerate(["low rank", "dense", "dense"])])
    small = merged(chain, since=1)
    assert all(isinstance(delta, Total) for delta in small.edits[1].changes[0].deltas.values())
    before = digest(chain.prefix(1))
    small.activate()
    assert digest(small.prefix(1)) == before
    assert digest(EditedModel.original(model)) == digest(EditedModel(zoo.tiny("gpt2")))


def test_edits_without_a_change_merge_into_one_without_a_change() -> None:
    model = zoo.tiny("gpt2")
    nothing = AppliedEdit("toy", (FACT,), (), {"updates": 0}, 0.5)
    small = merged(EditedModel(model, [nothing, nothing]), since=0)
    assert [(one.changes, len(one.requests)) for one in small.edits] == [((), 2)]


@pytest.mark.parametrize("beyond", [-1, 3])
def test_states_that_do_not_exist_cannot_be_kept(beyond: int) -> None:
    chain = chain_of(zoo.tiny("gpt2"), ["dense", "dense"])
    with pytest.raises(ValueError, match="does not exist"):
        compacted(chain, {1, beyond})


def test_fine_tuning_in_sequence_keeps_its_checkpoints() -> None:
    from editguard.methods import create

    model = zoo.tiny("llama", dtype=torch.bfloat16)
    method = create("ft", {"layer": 1, "epochs": 3, "step_size": 1e-2}, model)
    chain = EditedModel.original(model)
    for target in ("Oskar", "Belmora", "Tamrin", "Aldo Holt"):
        chain = method.apply(chain, [EditRequest(prompt="{} is in", subject=f"{target} House", target=target)])
    states = compacted(chain, {2, 4})
    for number, state in states.items():
        assert digest(state) == digest(chain.prefix(number))
    assert matrices_held(*states.values()) == 2


def test_of_side_memories_in_a_row_only_the_newest_is_held_and_kept_states_answer_as_before() -> None:
    model = zoo.tiny("gpt2")
    matrix = model.anatomy.down_projection(2)
    support = Support.drawn(matrix.shape, 0.2, 0)
    count = int(support.kept().sum())

    def side(seed: int) -> AppliedEdit:
        values = torch.randn(count, generator=torch.Generator().manual_seed(seed))
        memory = SideMemory(matrix, (), Memory(support, values, 0.0), edits=seed, shards=1)
        return AppliedEdit("side", (FACT,), (memory,), {"seed": seed}, 0.5)

    def answers(edited: EditedModel) -> object:
        return edited.score([("The capital of Velloria is", "Oskar")])

    chain = EditedModel(model, [side(1), side(2), edit(model, "dense", 0), side(3), side(4), side(5)])
    wanted = {number: answers(chain.prefix(number)) for number in range(7)}
    assert len({str(each) for each in wanted.values()}) == 7
    states = compacted(chain, {0, 2, 4, 6})
    for number in (6, 2, 0, 4):
        assert answers(states[number]) == wanted[number]
        assert states[number].requests == chain.prefix(number).requests
    assert [len(states[number].changes) for number in (0, 2, 4, 6)] == [0, 1, 3, 4]
    one_by_one = EditedModel.original(model)
    for applied in (side(number) for number in range(1, 6)):
        one_by_one = merged(one_by_one.extended(applied), since=0)
    assert len(one_by_one.changes) == 1
    assert [line["seed"] for line in one_by_one.edits[0].record["merged"]] == [1, 2, 3, 4, 5]
    assert answers(one_by_one) == answers(EditedModel(model, [side(5)]))
    EditedModel.original(model).activate()
