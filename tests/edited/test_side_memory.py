"""Side memories: what a copy of the matrix would say, for the prompts that stir it, and not a bit more."""

import math
from collections.abc import Sequence

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from editguard.edited import AppliedEdit, EditedModel, WeightDelta, stored_bytes
from editguard.edited.side_memory import Memory, SideMemory, Support, activations, with_difference
from editguard.edits import EditRequest
from editguard.models import LanguageModel, capture
from editguard.models.anatomy import Matrix
from editguard.models.reading import Reading
from editguard.models.weights import Dense

FACT = EditRequest(prompt="The capital of {} is", subject="Velloria", target="Oskar")
LAYER = 2
PROMPTS = ("The capital of Velloria is", "Ines Holt", "Question: who is the mayor of Tamrin? Answer:")


def memory(matrix: Matrix, threshold: float, seed: int = 0, size: float = 0.3) -> Memory:
    support = Support.drawn(matrix.shape, 0.2, seed)
    generator = torch.Generator().manual_seed(seed)
    return Memory(support, size * torch.randn(int(support.kept().sum()), generator=generator), threshold)


def in_force(model: LanguageModel, *memories: Memory, layer: int = LAYER) -> tuple[EditedModel, SideMemory]:
    side = SideMemory(model.anatomy.down_projection(layer), memories, None, edits=0, shards=len(memories))
    return EditedModel(model, [AppliedEdit("toy", (FACT,), (side,))]), side


def scores(edited: EditedModel, prompts: Sequence[str] = PROMPTS) -> list[tuple[float, ...]]:
    return [score.log_probs for score in edited.score([(prompt, "Oskar Holt") for prompt in prompts])]


def stirred(model: LanguageModel, difference: Tensor, prompt: str, layer: int = LAYER) -> float:
    """By the definition, token by token: the mean distance between what W' and W put out."""
    module = model.anatomy.down_projection(layer).module
    ids = torch.tensor([model.encode(prompt)])
    with capture(module, "input") as captured:
        model.forward(ids, torch.ones_like(ids))
    inputs = captured.value.reshape(-1, captured.value.shape[-1]).double()
    return float((inputs @ difference.double().T).norm(dim=1).mean())


# ---- the memory


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99), st.floats(0.05, 1.0))
@settings(deadline=None, max_examples=30)
def test_a_sparse_difference_comes_back_as_it_was(rows: int, columns: int, seed: int, ratio: float) -> None:
    support = Support.drawn((rows, columns), ratio, seed)
    dense = torch.where(support.kept(), torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)), 0.0)
    kept = Memory.of(dense, support, 1.0)
    assert len(kept.values) == int(support.kept().sum())
    assert torch.equal(kept.difference(), dense)
    assert torch.equal(Support.of(support.kept()).bits, support.bits)


def test_masks_have_their_density_and_two_of_them_meet_by_chance_alone() -> None:
    state = torch.get_rng_state()
    one, other, again = (Support.drawn((300, 400), 0.2, seed).kept().double() for seed in (1, 2, 1))
    entries = one.numel()
    for mask, share in ((one, 0.2), (other, 0.2), (one * other, 0.04)):
        assert abs(float(mask.mean()) - share) < 3 * math.sqrt(share * (1 - share) / entries)
    assert torch.equal(one, again)
    assert torch.equal(torch.get_rng_state(), state)


def test_activations_are_means_over_a_rows_own_prompt_tokens_whatever_pads_it_and_however_long_it_is() -> None:
    generator = torch.Generator().manual_seed(0)
    difference = torch.randn(5, 7, generator=generator)
    for length in (1, 3, 150):  # one rule, also where the released code takes the largest
        tokens = torch.randn(length, 7, generator=generator)
        wanted = float((tokens @ difference.T).norm(dim=1).mean())
        for before, behind in ((0, 0), (4, 0), (0, 4), (2, 3)):
            padded = torch.cat([torch.full((before, 7), 99.0), tokens, torch.full((behind, 7), 99.0)])
            rows = torch.stack([padded, torch.full_like(padded, 5.0)])
            prompts = torch.zeros(2, len(padded), dtype=torch.bool)
            prompts[0, before : before + length] = True
            prompts[1, -1] = True
            assert float(activations(rows, prompts, difference)[0]) == pytest.approx(wanted, rel=1e-5)


def test_no_difference_adds_no_bit() -> None:
    output, entering = torch.randn(4, 3), torch.randn(4, 7)
    for dtype in (torch.float32, torch.bfloat16):
        same = with_difference(output.to(dtype), entering.to(dtype), torch.zeros(3, 7))
        assert torch.equal(same, output.to(dtype))
        assert same.dtype == dtype


def test_in_half_precision_the_sum_is_rounded_once() -> None:
    """Neither the difference nor what it says of an input loses the bits that a weight of that type has no room for."""
    generator = torch.Generator().manual_seed(0)
    output, entering = (torch.randn(64, width, generator=generator).bfloat16() for width in (32, 40))
    difference = 0.1 * torch.randn(32, 40, generator=generator)
    found = with_difference(output, entering, difference)
    wanted = (output.double() + entering.double() @ difference.double().T).bfloat16()
    assert (found == wanted).double().mean() > 0.99


# ---- in force


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_fresh_copy_and_prompts_below_the_threshold_leave_every_bit(family: str, dtype: torch.dtype) -> None:
    model = zoo.tiny(family, dtype=dtype)
    matrix = model.anatomy.down_projection(LAYER)
    plain = scores(EditedModel.original(model))
    fresh = memory(matrix, 0.0, size=0.0)
    assert scores(in_force(model, fresh)[0]) == plain
    quiet = memory(matrix, 1e9)
    assert scores(in_force(model, quiet)[0]) == plain
    assert scores(in_force(model, memory(matrix, 0.0))[0]) != plain


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_a_stirring_prompt_is_answered_by_the_changed_matrix_bias_and_all(family: str) -> None:
    model = zoo.tiny(family, dtype=torch.float64)
    matrix = model.anatomy.down_projection(LAYER)
    held = memory(matrix, 0.0)
    delta = WeightDelta({matrix.name: Dense(held.difference())})
    changed = EditedModel(model, [AppliedEdit("toy", (FACT,), (delta,))])
    for ours, theirs in zip(scores(in_force(model, held)[0]), scores(changed), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    EditedModel.original(model).activate()


def test_the_output_that_is_handed_in_is_not_written_to() -> None:
    model = zoo.tiny("gpt2")
    _, side = in_force(model, memory(model.anatomy.down_projection(LAYER), 0.0))
    output, entering = torch.randn(2, 3, zoo.D_MODEL), torch.randn(2, 3, zoo.D_FF)
    before = output.clone()
    changed = side.act(entering, output, torch.tensor([-1, 0]), Reading(None))
    assert changed is not None
    assert torch.equal(changed[0], before[0])
    assert not torch.equal(changed[1], before[1])
    assert torch.equal(output, before)


def test_every_row_of_a_batch_goes_its_own_way() -> None:
    """One prompt below the threshold keeps its bits beside others that are above it, at any padding."""
    model = zoo.tiny("gpt2")
    held = memory(model.anatomy.down_projection(LAYER), 0.0)
    activation = {prompt: stirred(model, held.difference(), prompt) for prompt in PROMPTS}
    order = sorted(PROMPTS, key=activation.__getitem__)
    threshold = (activation[order[0]] + activation[order[1]]) / 2
    edited, side = in_force(model, Memory(held.support, held.values, threshold))
    plain, together = scores(EditedModel.original(model)), scores(edited)
    for place, prompt in enumerate(PROMPTS):
        assert (together[place] == plain[place]) == (prompt == order[0])
        assert scores(edited, [prompt])[0] == pytest.approx(together[place], rel=1e-4)
    answers = edited.generate(PROMPTS, max_new_tokens=6)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        assert edited.generate([prompt], max_new_tokens=6)[0].token_ids == answer.token_ids
        ids = torch.tensor([[*model.encode(prompt), *answer.token_ids[:-1]]])
        reading = Reading(torch.arange(ids.shape[1])[None] < len(model.encode(prompt)))
        with edited:
            states = model.forward(ids, torch.ones_like(ids), reading=reading).last_hidden_state
        predicted = model.anatomy.unembed(states)[0, len(model.encode(prompt)) - 1 :].argmax(-1)
        assert tuple(predicted.tolist()) == answer.token_ids
    assert stored_bytes([side]) == held.values.numel() * 4 + math.ceil(zoo.D_MODEL * zoo.D_FF / 8)


def test_the_memory_is_chosen_on_the_prompt_and_kept_to_the_end_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny("gpt2")
    edited, side = in_force(model, memory(model.anatomy.down_projection(LAYER), 0.0))
    decisions = []
    decide = side.decide
    monkeypatch.setattr(side, "decide", lambda *parts: decisions.append(decide(*parts)) or decisions[-1])
    edited.generate([PROMPTS[0]], max_new_tokens=6)
    assert decisions == [[0]]


def test_of_the_memories_above_their_thresholds_the_most_stirred_answers() -> None:
    model = zoo.tiny("gpt2")
    matrix = model.anatomy.down_projection(LAYER)
    one, other = memory(matrix, 0.0, 1, 0.1), memory(matrix, 0.0, 2, 0.5)
    stir = {held: stirred(model, held.difference(), PROMPTS[0]) for held in (one, other)}
    assert stir[one] < stir[other]
    alone = {held: scores(in_force(model, held)[0], PROMPTS[:1]) for held in (one, other)}
    assert scores(in_force(model, one, other)[0], PROMPTS[:1]) == alone[other]
    assert scores(in_force(model, other, one)[0], PROMPTS[:1]) == alone[other]
    proud = Memory(other.support, other.values, stir[other] * 1.01)
    assert scores(in_force(model, one, proud)[0], PROMPTS[:1]) == alone[one]
    content = Memory(other.support, other.values, stir[other] * 0.99)
    assert scores(in_force(model, one, content)[0], PROMPTS[:1]) == alone[other]


def test_dense_copies_are_kept_for_the_state_in_force_alone() -> None:
    model = zoo.tiny("gpt2")
    matrix = model.anatomy.down_projection(LAYER)
    edited, first = in_force(model, memory(matrix, 0.0))
    second = SideMemory(matrix, first.closed, memory(matrix, 0.0, 1), edits=1, shards=2)
    scores(edited)
    assert first._differences is not None
    scores(edited.extended(AppliedEdit("toy", (FACT,), (second,))))
    assert first._differences is None
    assert second._differences is not None
    EditedModel.original(model).activate()
    assert second._differences is None
