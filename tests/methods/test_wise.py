"""WISE on models: shards, their merging, thresholds, and a sequence of fifty."""

import json
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from editguard.edited import EditedModel
from editguard.edited.side_memory import Memory, SideMemory, Support
from editguard.edits import EditRequest
from editguard.errors import InvalidSettings, MethodRefused, MissingMaterial, PromptTooLong
from editguard.methods import Preparation, create
from editguard.methods.settings import Shape, resolve
from editguard.methods.wise import Wise, WiseSettings, calibrated_margins, derived, merged_memory, ties
from editguard.models import LanguageModel

TARGETS = ("Tamrin", "Belmora", "Velloria", "Aldo")
QUICK: dict[str, Any] = {
    "layer": 2,
    "steps": 12,
    "step_size": 0.1,
    "margins": (0.5, 2.0, 1.0),
    "context_lengths": ((4, 2),),
}
ELSEWHERE = ("Ines Holt", "Question: who is the mayor of Tamrin? Answer:", "Copy: red blue")


def fact(number: int, target: str | None = None) -> EditRequest:
    return EditRequest(
        prompt="The capital of {} is", subject=f"Land{number}", target=target or TARGETS[number % len(TARGETS)]
    )


def wise(model: LanguageModel, **changes: Any) -> Wise:
    method = Wise(WiseSettings(**{**QUICK, **changes}))
    method.prepare(model, Preparation(texts=zoo.SENTENCES))
    return method


def side(edited: EditedModel) -> SideMemory:
    found = edited.changes[-1]
    assert isinstance(found, SideMemory)
    return found


def probability(edited: EditedModel, request: EditRequest) -> float:
    return edited.score([(request.text, request.target)])[0].probability


# ---- merging


def test_trimming_electing_and_averaging_by_hand() -> None:
    differences = torch.tensor([[4.0, -1.0, 3.0, 0.5, 0.0], [2.0, 5.0, -1.0, -3.0, 0.0]])
    # With all entries: signs of the sums +, +, +, -, +; the agreeing ones are averaged.
    assert ties(differences, 1.0).tolist() == [3.0, 5.0, 3.0, -3.0, 0.0]
    # Three of five each: 4, -1, 3 and 2, 5, -3 remain.
    assert ties(differences, 0.6).tolist() == [3.0, 5.0, 3.0, -3.0, 0.0]
    # Two of five each: 4, 3 and 5, -3.
    assert ties(differences, 0.4).tolist() == [4.0, 5.0, 3.0, -3.0, 0.0]


@st.composite
def shards(draw: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    return torch.randn(draw(st.integers(1, 4)), 3, draw(st.integers(1, 5)), generator=generator, dtype=torch.float64)


@given(shards(), st.floats(0.1, 1.0))
@settings(deadline=None, max_examples=50)
def test_merging_returns_what_is_alone_or_alike_whatever_the_order(found: torch.Tensor, density: float) -> None:
    torch.testing.assert_close(ties(found[:1], 1.0), found[0])
    torch.testing.assert_close(ties(found[:1].repeat(3, 1, 1), 1.0), found[0])
    merged = ties(found, density)
    for order in permutations(range(len(found))):
        torch.testing.assert_close(ties(found[list(order)], density), merged)
    assert not ties(torch.zeros_like(found), density).any()
    assert (merged.abs() <= found.abs().amax(dim=0) + 1e-12).all()


def test_opposite_differences_elect_one_sign_and_average_those_who_agree() -> None:
    merged = ties(torch.tensor([[3.0], [1.0], [-2.0]]), 1.0)
    assert merged.tolist() == [2.0]
    assert ties(torch.tensor([[2.0], [-2.0]]), 1.0).tolist() == [2.0]  # a sum of zero counts as positive


def test_trimming_keeps_all_of_a_sparse_difference_that_is_sparser_than_the_density() -> None:
    """What no edit may change stays exactly zero, so it is no signal that would crowd out the rest."""
    support = Support.drawn((20, 30), 0.2, 0)
    values = torch.linspace(-1e-9, 1.0, int(support.kept().sum()))
    merged = merged_memory([Memory(support, values, 3.0)], 0.53)
    assert torch.equal(merged.difference(), Memory(support, values, 3.0).difference())


def test_a_merged_memory_answers_from_the_least_of_the_thresholds_on() -> None:
    memories = [
        Memory(Support.drawn((8, 9), 0.2, seed), torch.ones(int(Support.drawn((8, 9), 0.2, seed).kept().sum())), eps)
        for seed, eps in ((0, 2.0), (1, 1.0))
    ]
    merged = merged_memory(memories, 1.0)
    assert merged.threshold == 1.0
    union = memories[0].support.kept() | memories[1].support.kept()
    assert torch.equal(merged.difference(), union.float())
    assert torch.equal(merged.support.kept(), union)


# ---- edits


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
@pytest.mark.parametrize("matrix", ["down", "up"])
def test_an_edit_moves_its_prompt_and_prompts_below_the_threshold_keep_every_bit(family: str, matrix: str) -> None:
    model = zoo.tiny(family)
    original, request = EditedModel.original(model), fact(0)
    pairs = [(prompt, "Oskar Holt") for prompt in ELSEWHERE]
    before = original.score(pairs)
    edited = wise(model, matrix=matrix, steps=40, threshold_ratio=1.0 - 1e-4).apply(original, [request])
    assert probability(edited, request) > 1.2 * probability(original, request)
    record, state = edited.edits[0].record, side(edited)
    stirred = {}
    decide = state.decide
    try:
        for prompt in ELSEWHERE:
            state.decide = lambda *parts, prompt=prompt: stirred.setdefault(prompt, decide(*parts))  # type: ignore[method-assign]
            edited.next_tokens([prompt])
    finally:
        del state.decide
    for pair, ours, theirs in zip(pairs, before, edited.score(pairs), strict=True):
        assert (ours == theirs) == (stirred[pair[0]] == [-1])
    assert record["threshold"] == pytest.approx((1 - 1e-4) * record["activation"])
    assert [-1] in stirred.values()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_edits_stay_in_their_shards_mask_and_within_the_clamp(dtype: torch.dtype) -> None:
    model = zoo.tiny("gpt2", dtype=dtype)
    method, chain = wise(model, step_size=5.0, steps=20), EditedModel.original(model)
    supports = []
    for number in range(3):
        chain = method.apply(chain, [fact(number)])
        [memory] = side(chain).memories
        supports.append(memory.support)
        assert memory.values.dtype == torch.float32
        assert memory.values.abs().max() <= 1.0
    assert memory.values.abs().max() == 1.0  # the clamp was at work
    assert supports[0] is supports[1] is supports[2]  # one mask, shared by the versions
    share = float(supports[0].kept().float().mean())
    assert abs(share - 0.2) < 3 * (0.2 * 0.8 / (zoo.D_MODEL * zoo.D_FF)) ** 0.5
    assert chain.edits[-1].record["changed_entries"] <= int(supports[0].kept().sum())


def test_a_clamp_given_as_a_whole_number_is_a_clamp() -> None:
    model = zoo.tiny("gpt2")
    overrides = {**QUICK, "clamp": 1, "step_size": 50, "margins": (0, 2, 1)}
    method = create("wise", overrides, model)
    method.prepare(model, Preparation(texts=zoo.SENTENCES))
    [memory] = side(method.apply(EditedModel.original(model), [fact(0)])).memories
    assert memory.values.abs().max() == 1.0


def test_a_full_shard_is_closed_a_new_one_begins_at_the_original_and_two_are_merged() -> None:
    model = zoo.tiny("gpt2")
    method, chain = wise(model, shard_edits=2), EditedModel.original(model)
    states = []
    for number in range(6):
        chain = method.apply(chain, [fact(number)])
        states.append(side(chain))
    told = [(len(state.closed), state.current is None, state.edits, state.shards) for state in states]
    assert told == [
        (0, False, 1, 1),
        (1, True, 0, 1),
        (1, False, 1, 2),
        (1, True, 0, 2),
        (1, False, 1, 3),
        (2, True, 0, 3),
    ]
    [first], third, merged = states[1].closed, states[2].current, states[3].closed[0]
    assert third is not None
    assert states[2].closed == (first,)
    assert not torch.equal(third.support.bits, first.support.bits)
    outside = ~third.support.kept()
    assert not third.difference()[outside].any()  # the new copy began at the original matrix
    with_second = method.apply(chain.prefix(3), [fact(3)])
    second_record = with_second.edits[-1].record
    assert merged.threshold == min(first.threshold, second_record["threshold"])
    assert torch.equal(side(with_second).closed[0].difference(), merged.difference())
    assert states[5].closed[0] is merged
    assert [edit.record["shard"] for edit in chain.edits] == [1, 1, 2, 2, 3, 3]
    unmerged = wise(model, shard_edits=2, merge_shards=None)
    kept = EditedModel.original(model)
    for number in range(4):
        kept = unmerged.apply(kept, [fact(number)])
    assert len(side(kept).closed) == 2
    both = torch.stack([memory.difference() for memory in side(kept).closed])
    torch.testing.assert_close(merged.difference(), ties(both, WiseSettings().density))


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)],
    ids=["float32", "bfloat16"],
)
def test_fifty_edits_with_thresholds_that_only_fall_within_a_shard_and_exact_prefixes(dtype: torch.dtype) -> None:
    model = zoo.tiny("gpt2", dtype=dtype)
    method, chain = wise(model, shard_edits=20, steps=6, context_lengths=()), EditedModel.original(model)
    facts = [fact(number) for number in range(50)]
    pairs = [(request.text, request.target) for request in facts]
    asked: dict[int, list[Any]] = {0: chain.score(pairs)}
    thresholds: dict[int, list[float]] = {}
    sizes = []
    for number, request in enumerate(facts):
        chain = method.apply(chain, [request])
        record = chain.edits[-1].record
        if not record["already_true"]:
            thresholds.setdefault(record["shard"], []).append(record["threshold"])
            sizes.append(record["memory_bytes"])
            assert record["memories"] <= 2
        if number % 10 == 9:
            asked[number + 1] = chain.score(pairs)
            assert len(model.anatomy.down_projection(2).module._forward_hooks) == 1
    for of_shard in thresholds.values():
        assert of_shard == sorted(of_shard, reverse=True)
    assert len(thresholds) >= 2
    assert max(sizes) <= 2 * (zoo.D_MODEL * zoo.D_FF * 4)  # at most two memories, sparse
    for length in (20, 0, 50, 10):
        assert chain.prefix(length).score(pairs) == asked[length]
    moved = [
        after.log_prob > before.log_prob
        for before, after in zip(asked[0][40:50], chain.score(pairs)[40:50], strict=True)
    ]
    assert sum(moved) >= 8  # the latest edits are nearer to their targets than the unedited model is


def test_two_methods_in_one_process_do_not_influence_each_other() -> None:
    """Taking turns on two models, with settings of their own, gives what each gives alone."""
    models = [zoo.tiny("gpt2", seed=seed) for seed in (0, 1)]
    methods = [wise(model, steps=4 + seed) for seed, model in enumerate(models)]
    chains = [EditedModel.original(model) for model in models]
    for number in range(2):
        chains = [method.apply(chain, [fact(number)]) for method, chain in zip(methods, chains, strict=True)]
    for seed, chain in enumerate(chains):
        model = zoo.tiny("gpt2", seed=seed)
        alone, method = EditedModel.original(model), wise(model, steps=4 + seed)
        for number in range(2):
            alone = method.apply(alone, [fact(number)])
        assert torch.equal(side(alone).memories[0].values, side(chain).memories[0].values)
        assert alone.edits[-1].record["threshold"] == chain.edits[-1].record["threshold"]


# ---- materials, records, refusals


def test_the_prompt_out_of_scope_is_a_text_that_does_not_mention_the_subject() -> None:
    model = zoo.tiny("gpt2")
    method = wise(model)
    velloria = EditRequest(prompt="The capital of {} is", subject="velloria", target="Oskar")
    chosen = {
        method.apply(EditedModel.original(model), [replace(velloria, target=target)]).edits[0].record["locality_text"]
        for target in ("Oskar", "Belmora", "Aldo")
    }
    assert chosen <= {text for text in zoo.SENTENCES if "Velloria" not in text}
    method.prepare(model, Preparation(texts=("Velloria is", "In Velloria")))
    with pytest.raises(MethodRefused, match="no out-of-scope prompt"):
        method.apply(EditedModel.original(model), [velloria])


def test_calibrated_margins_are_in_the_models_own_units_and_say_so() -> None:
    model, larger = zoo.tiny("gpt2"), zoo.tiny("gpt2")
    with torch.no_grad():
        for parameter in larger.anatomy.down_projection(2).module.parameters():
            parameter *= 10
    found = []
    for each in (model, larger):
        prompts = [each.encode_text(text)[:32] for text in zoo.SENTENCES]
        margins, origin = calibrated_margins(each, each.anatomy.down_projection(2), prompts)
        alpha, beta, gamma = margins
        assert (alpha * 4, gamma * 2) == (beta, beta)
        found.append(beta)
        edited = wise(each, margins=None).apply(EditedModel.original(each), [fact(0)])
        assert edited.edits[0].record["margins"] == {"alpha, beta, gamma": list(margins), "from": origin}
        assert "calibrated" in origin
    assert found[1] == pytest.approx(10 * found[0], rel=1e-3)


def test_a_record_says_how_the_training_went_and_what_is_kept() -> None:
    model = zoo.tiny("gpt2")
    edited = wise(model).apply(EditedModel.original(model), [fact(0)])
    record = json.loads(json.dumps(dict(edited.edits[0].record)))
    assert 0 < record["updates"] <= QUICK["steps"]
    assert record["margins"] == {"alpha, beta, gamma": [0.5, 2.0, 1.0], "from": "default"}
    assert record["threshold"] == pytest.approx(0.88 * record["activation"])
    assert record["memory_bytes"] == edited.stored_bytes()
    assert (record["shard"], record["shard_edits"], record["memories"]) == (1, 1, 1)


def test_texts_are_needed_and_others_replace_them() -> None:
    model = zoo.tiny("gpt2")
    method = Wise(WiseSettings(**QUICK))
    with pytest.raises(MissingMaterial, match="running text"):
        method.prepare(model, Preparation())
    with pytest.raises(MethodRefused, match="prepare"):
        method.apply(EditedModel.original(model), [fact(0)])
    method.prepare(model, Preparation(texts=zoo.SENTENCES[:2]))
    method.prepare(model, Preparation())
    used = {
        method.apply(EditedModel.original(model), [fact(number)]).edits[0].record["locality_text"]
        for number in range(4)
    }
    assert used <= set(zoo.SENTENCES[:2])
    method.prepare(model, Preparation(texts=zoo.SENTENCES[4:6]))
    edited = method.apply(EditedModel.original(model), [fact(0)])
    assert edited.edits[0].record["locality_text"] in zoo.SENTENCES[4:6]


@pytest.mark.parametrize("family", zoo.ENCODER_DECODER)
def test_a_model_with_an_encoder_is_refused_with_the_reason(family: str) -> None:
    model = zoo.tiny(family)
    with pytest.raises(MethodRefused, match="an encoder-decoder model"):
        Wise(WiseSettings(**{**QUICK, "layer": 1})).prepare(model, Preparation(texts=zoo.SENTENCES))


def test_a_prompt_that_does_not_fit_behind_its_contexts_and_a_training_that_breaks_down_change_nothing() -> None:
    model = zoo.tiny("gpt2")
    original, method = EditedModel.original(model), wise(model)
    long = EditRequest(prompt="{} is " + "very " * 20 + "so", subject="Land", target="Tamrin")
    assert len(model.encode(long.text)) < 256
    limit = len(model.encode(long.text))
    model.config.max_position_embeddings = model.config.n_positions = limit + 1
    with pytest.raises(PromptTooLong):
        method.apply(original, [long])
    model.config.max_position_embeddings = model.config.n_positions = 256
    chain = method.apply(original, [fact(0)])
    before = side(chain).memories[0].values.clone()
    broken = wise(model, step_size=1e38, clamp=1e38)
    with pytest.raises(MethodRefused, match="Nothing was changed"):
        broken.apply(chain, [fact(1)])
    assert torch.equal(side(chain).memories[0].values, before)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("steps", 0),
        ("mask_ratio", 0.0),
        ("clamp", 0.0),
        ("density", 1.5),
        ("threshold_ratio", 0.0),
        ("merge_shards", 1),
        ("margins", (1.0, -1.0, 1.0)),
        ("weight_decay", -1.0),
    ],
)
def test_impossible_settings_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(InvalidSettings, match=setting):
        WiseSettings(**{setting: value})


def test_settings_come_from_the_source_that_speaks_of_the_model() -> None:
    def found(*where: Any, **more: Any) -> Any:
        return resolve("wise", Wise.recipe, {}, Shape(*where, **more))

    llama2, llama3 = (found("llama", 32, 4096, d_ff=d_ff).settings for d_ff in (11008, 14336))
    assert (llama2.layer, llama2.margins, llama2.threshold_ratio) == (27, (5, 20, 10), 0.88)
    assert (llama3.layer, llama3.margins, llama3.threshold_ratio) == (29, (2, 20, 10), 0.5)
    assert (llama3.steps, llama3.step_size) == (30, 0.9)
    assert found("gptj", 28, 4096).settings.margins == (15, 40, 20)
    small = found("gpt2", 12, 768).settings
    assert (small.layer, small.matrix, small.steps) == (8, "up", 40)
    unknown = found("gpt2", 8, 192)
    assert (unknown.settings.layer, unknown.settings.margins) == (6, None)
    assert "calibrated" in unknown.provenance["margins"]
    assert derived(1)["layer"][0] == 0
