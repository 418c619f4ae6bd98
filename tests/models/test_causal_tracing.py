"""Restored runs against hooks of this file's own, the invariants of restoration, and what tracing reports."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
import zoo
from torch import Tensor, nn

from editguard.edits import EditRequest
from editguard.errors import AmbiguousTokens, InvalidEdit, InvalidSettings, UnsupportedModel
from editguard.models import LanguageModel
from editguard.models.causal_tracing import (
    PreparedFact,
    Restoration,
    causal_trace,
    clean_runs,
    embedding_deviation,
    known_facts,
    prepare_fact,
    restored_layers,
    restored_runs,
    subject_tokens,
)
from editguard.models.indirect_effects import KINDS, CausalTrace, FactTrace, Kind, TraceSettings, suggest_layers

FACTS = (
    EditRequest(prompt="The capital of {} is", subject="Velloria", target="Tamrin"),
    EditRequest(prompt="Question: who is the mother of {}? Answer:", subject="Quintessa Marlowe-Vane", target="Oskar"),
    EditRequest(prompt="{} was born in", subject="Aldo Holt", target="Belmora"),
)
SETTINGS = TraceSettings(draws=2, noise=3.0, seed=4)
OTHERS = [family for family in zoo.FAMILIES if family not in zoo.REPRESENTATIVE]
EVERY_LAYER = tuple(range(zoo.LAYERS))


def prepared(model: LanguageModel, facts: Sequence[EditRequest] = FACTS, sigma: float = 1.5) -> list[PreparedFact]:
    return [prepare_fact(model, fact, SETTINGS, sigma) for fact in facts]


def restored(model: LanguageModel, facts: list[PreparedFact], *runs: tuple[int, int, Restoration]) -> list[float]:
    return restored_runs(model, facts, clean_runs(model, facts), runs)


def parts(model: LanguageModel, kind: Kind, layer: int) -> nn.Module:
    """The modules by their names in the library, so that nothing of ours says which they are."""
    module = model.module
    if model.anatomy.family == "llama":
        block = module.model.layers[layer]
        return {"block": block, "mlp": block.mlp, "attention": block.self_attn}[kind]
    block = module.transformer.h[layer]
    return {"block": block, "mlp": block.mlp, "attention": block.attn}[kind]


def answers_probability(model: LanguageModel, fact: PreparedFact) -> float:
    ids = torch.tensor([fact.ids])
    return float(model.logits(ids, torch.ones_like(ids))[0, -1].double().softmax(-1)[fact.answer])


def noisy(model: LanguageModel, fact: PreparedFact, draw: int) -> torch.utils.hooks.RemovableHandle:
    """Noise on the embeddings of the subject's tokens, one after the other."""

    def change(_: nn.Module, __: object, output: Tensor) -> Tensor:
        moved = output.clone()
        for number, position in enumerate(fact.subject):
            moved[0, position] += fact.noise[draw][number].to(moved)
        return moved

    return model.module.get_input_embeddings().register_forward_hook(change)


def clean_state(model: LanguageModel, fact: PreparedFact, module: nn.Module) -> Tensor:
    seen: list[Tensor] = []
    handle = module.register_forward_hook(
        lambda _, __, output: seen.append((output[0] if isinstance(output, tuple) else output).clone())
    )
    answers_probability(model, fact)
    handle.remove()
    return seen[0]


def by_hand(
    model: LanguageModel, fact: PreparedFact, draw: int, kind: Kind, layers: Sequence[int], positions: Sequence[int]
) -> float:
    """One restored run of one row, with hooks of its own."""
    states = {layer: clean_state(model, fact, parts(model, kind, layer)) for layer in layers}
    with ExitStack() as hooks:
        hooks.callback(noisy(model, fact, draw).remove)
        for layer, state in states.items():

            def change(_: nn.Module, __: object, output: object, state: Tensor = state) -> object:
                tensor = (output[0] if isinstance(output, tuple) else output).clone()
                tensor[0, list(positions)] = state[0, list(positions)]
                return (tensor, *output[1:]) if isinstance(output, tuple) else tensor

            hooks.callback(parts(model, kind, layer).register_forward_hook(change).remove)
        return answers_probability(model, fact)


every_family = pytest.mark.parametrize(
    "family", [*zoo.REPRESENTATIVE, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)

# ---- restored runs


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_row_of_a_batch_is_the_run_that_it_would_be_alone(family: str, kind: Kind) -> None:
    model = zoo.tiny(family)
    facts = prepared(model)
    runs = [
        (number, draw, Restoration(kind, layers, positions))
        for number, fact in enumerate(facts)
        for draw in (0, 1)
        for layers, positions in (
            ((1,), (fact.subject.stop - 1,)),
            ((0, 1), (fact.subject.start,)),
            ((2,), (len(fact.ids) - 1,)),
            ((1, 2, 3), (fact.subject.start, len(fact.ids) - 2)),
        )
    ]
    found = restored(model, facts, *runs)
    for (number, draw, what), value in zip(runs, found, strict=True):
        oracle = by_hand(model, facts[number], draw, kind, what.layers, what.positions)
        assert value == pytest.approx(oracle, rel=1e-4)
    assert len({round(value, 9) for value in found}) > len(found) // 2


@every_family
def test_restoring_everything_gives_the_clean_run_and_nothing_the_corrupted_one(family: str) -> None:
    model = zoo.tiny(family)
    facts = prepared(model)
    everything = [Restoration("block", EVERY_LAYER, tuple(range(len(fact.ids)))) for fact in facts]
    found = restored(model, facts, *((number, 1, what) for number, what in enumerate(everything)))
    nothing = restored(model, facts, *((number, 1, Restoration()) for number in range(len(facts))))
    for fact, clean, corrupted in zip(facts, found, nothing, strict=True):
        assert clean == pytest.approx(answers_probability(model, fact), rel=1e-3)
        handle = noisy(model, fact, 1)
        assert corrupted == pytest.approx(answers_probability(model, fact), rel=1e-3)
        handle.remove()
    assert nothing != pytest.approx(found, rel=0.1)


@every_family
def test_the_last_blocks_output_at_the_last_token_is_the_clean_answer(family: str) -> None:
    model = zoo.tiny(family)
    facts = prepared(model)
    runs = [
        (number, 0, Restoration("block", (zoo.LAYERS - 1,), (len(fact.ids) - 1,))) for number, fact in enumerate(facts)
    ]
    for fact, value in zip(facts, restored(model, facts, *runs), strict=True):
        assert value == pytest.approx(answers_probability(model, fact), rel=1e-3)


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_a_blocks_parts_restored_together_at_a_token_in_layer_zero_differ_from_its_output_by_the_noise(
    family: str,
) -> None:
    """Where nothing was corrupted, block and parts say the same; at the subject the parts leave the noise in."""
    model = zoo.tiny(family)
    [fact] = facts = prepared(model, FACTS[:1])
    before, at = fact.subject.start - 1, fact.subject.start
    values = {
        (kind, position): restored(model, facts, (0, 0, Restoration(kind, EVERY_LAYER, (position,))))[0]
        for kind in KINDS
        for position in (before, at)
    }
    [corrupted] = restored(model, facts, (0, 0, Restoration()))
    for kind in KINDS:
        assert values[kind, before] == pytest.approx(corrupted, rel=1e-4)
        assert values[kind, at] != pytest.approx(corrupted, rel=1e-4)


def test_the_window_lies_around_its_layer_and_ends_with_the_model() -> None:
    assert [restored_layers("mlp", layer, 3, 5) for layer in (0, 2, 4)] == [(0, 1), (1, 2, 3), (3, 4)]
    assert [restored_layers("mlp", layer, 2, 5) for layer in (0, 2, 4)] == [(0,), (1, 2), (3, 4)]
    assert restored_layers("attention", 20, 10, 48) == tuple(range(15, 25))
    assert restored_layers("block", 2, 3, 5) == (2,)
    assert [TraceSettings().window_for(layers) for layers in (48, 8, 2)] == [10, 2, 1]


# ---- the subject and the noise


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("The capital of {} is", "Velloria"),
        ("{} was born in", "Aldo Holt"),
        ("who is the mother of {}? Answer:", "Quintessa Marlowe-Vane"),
        ("She knows {}", "Ines Holt"),
        ("({}) lives in", "Oskar"),
        ("the city of {} is", "京都"),
        ("{} is a city", "京都"),
    ],
)
def test_the_subjects_tokens_are_all_those_that_hold_a_part_of_it(family: str, prompt: str, subject: str) -> None:
    model = zoo.tiny(family)
    fact = EditRequest(prompt=prompt, subject=subject, target="x")
    found, ids = subject_tokens(model, fact), model.encode(fact.text)
    assert subject in model.decode(ids[found.start : found.stop])
    shorter = model.decode(ids[found.start + 1 : found.stop]), model.decode(ids[found.start : found.stop - 1])
    assert all(subject not in part for part in shorter)


def test_a_subject_that_is_not_there_is_one_clear_error() -> None:
    model = zoo.tiny("gpt2")
    with pytest.raises(AmbiguousTokens):
        model.subject_end("The capital of Velloria is", "Oskaria")


def test_noise_is_three_deviations_of_the_subjects_embeddings_and_depends_on_seed_and_fact_alone() -> None:
    model = zoo.tiny("gpt2")
    ids = [token for fact in FACTS for at in subject_tokens(model, fact) for token in [model.encode(fact.text)[at]]]
    table = model.module.get_input_embeddings().weight
    assert embedding_deviation(model, FACTS) == pytest.approx(float(table[ids].double().std()), rel=1e-6)
    many = TraceSettings(draws=400)
    noise = prepare_fact(model, FACTS[1], many, 0.7).noise
    assert noise.shape == (400, len(subject_tokens(model, FACTS[1])), zoo.D_MODEL)
    assert float(noise.std()) == pytest.approx(0.7, rel=0.02)
    torch.manual_seed(1)
    assert torch.equal(prepare_fact(model, FACTS[1], many, 0.7).noise, noise)
    assert not torch.equal(prepare_fact(model, FACTS[1], TraceSettings(draws=400, seed=1), 0.7).noise, noise)
    assert not torch.equal(prepared(model)[0].noise[0, 0], prepared(model)[2].noise[0, 0])


# ---- whole traces


def knowing(family: str, count: int, batch_size: int = 32) -> tuple[LanguageModel, list[EditRequest]]:
    """The first random model that knows so many facts: its own answers, where these survive being written and read."""
    asked = [
        EditRequest(prompt=prompt, subject=subject, target="other")
        for subject in ("Velloria", "Aldo Holt", "Quintessa Marlowe-Vane", "Ines Holt", "Oskaria", "Tamrin", "Belmora")
        for prompt in ("The capital of {} is", "{} was born in", "Question: who is {}? Answer:", "Copy {}:")
    ]
    for seed in range(40):
        model = zoo.tiny(family, seed=seed, batch_size=batch_size)
        answers = [tops[0][0].strip() for tops in model.next_tokens([fact.text for fact in asked], 1)]
        facts = [replace(fact, previous=answer) for fact, answer in zip(asked, answers, strict=True) if answer]
        known = known_facts(model, facts)[0]
        if len(known) >= count:
            return model, known[:count]
    raise AssertionError(f"no {family} model knows {count} facts")


def test_a_trace_is_the_same_for_every_batch_size_and_on_every_call() -> None:
    traces = []
    for size, state in ((1, 0), (7, 1), (64, 2)):
        torch.manual_seed(state)
        model, facts = knowing("gpt2", 2, size)
        traces.append(causal_trace(model, facts, SETTINGS))
    for trace in traces[1:]:
        for one, other in zip(traces[0].facts, trace.facts, strict=True):
            assert one.corrupted == pytest.approx(other.corrupted, rel=1e-4)
            for kind in KINDS:
                torch.testing.assert_close(one.probabilities[kind], other.probabilities[kind], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_every_cell_of_a_trace_is_its_restored_run_averaged_over_the_draws(family: str) -> None:
    model, facts = knowing(family, 2)
    settings = TraceSettings(draws=2, window=2, seed=1)
    trace = causal_trace(model, facts, settings)
    sigma = 3.0 * embedding_deviation(model, facts)
    assert trace.sigma == pytest.approx(sigma)
    for fact, traced in zip(facts, trace.facts, strict=True):
        one = prepare_fact(model, fact, settings, sigma)
        assert traced.clean == pytest.approx(answers_probability(model, one), rel=1e-4)
        positions = {0, one.subject.start, one.subject.stop - 1, len(one.ids) - 1}
        for kind in KINDS:
            for position in positions:
                for layer in EVERY_LAYER:
                    layers = (layer,) if kind == "block" else tuple(at for at in (layer - 1, layer) if at >= 0)
                    runs = [by_hand(model, one, draw, kind, layers, (position,)) for draw in (0, 1)]
                    assert float(traced.probabilities[kind][position, layer]) == pytest.approx(sum(runs) / 2, rel=1e-4)


def test_facts_that_the_model_does_not_know_are_left_out_and_counted() -> None:
    model, known = knowing("gpt2", 2)
    settings = TraceSettings(draws=1, kinds=("block",))
    trace = causal_trace(model, [FACTS[0], *known, FACTS[1]], settings)
    assert trace.sigma == causal_trace(model, known, settings).sigma  # their subjects do not count either
    assert [fact.text for fact in trace.facts] == [fact.text for fact in known]
    assert trace.unknown == (FACTS[0].text, FACTS[1].text)
    with pytest.raises(InvalidEdit, match="knows none of the 2 facts"):
        causal_trace(model, FACTS[:2], SETTINGS)


def test_a_trace_leaves_nothing_behind_and_says_how_far_it_is() -> None:
    model, facts = knowing("opt", 1)
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.module.modules()]
    state, said = torch.get_rng_state(), list[str]()
    causal_trace(model, facts, SETTINGS, on_progress=said.append)
    assert said == ["traced 1 of 1 facts"]
    assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.module.modules()]
    assert torch.equal(state, torch.get_rng_state())
    model.weights.verify()


def test_half_precision_is_traced_too() -> None:
    model = zoo.tiny("llama", dtype=torch.bfloat16)
    [fact] = facts = prepared(model, FACTS[:1])
    [value] = restored(model, facts, (0, 0, Restoration("block", (zoo.LAYERS - 1,), (len(fact.ids) - 1,))))
    assert value == pytest.approx(answers_probability(model, fact), rel=2e-2)


@pytest.mark.parametrize("wrong", [{"kinds": ()}, {"kinds": ("head",)}, {"draws": 0}, {"noise": 0.0}, {"window": 0}])
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidSettings, match=next(iter(wrong))):
        TraceSettings(**wrong)


# ---- effects and suggestions, from figures made up


def made_up(tables: Sequence[Tensor], *, subject: tuple[int, int] = (1, 3), corrupted: float = 0.1) -> CausalTrace:
    """A trace of MLPs whose probabilities are given, (tokens, layers) for each fact."""
    facts = tuple(
        FactTrace(
            text="t",
            answer="a",
            tokens=tuple("abcdefgh"[: len(table)]),
            subject=subject,
            clean=0.9,
            corrupted=corrupted,
            probabilities={"mlp": table.double()},
        )
        for table in tables
    )
    settings = TraceSettings(kinds=("mlp",))
    return CausalTrace("made up", "0" * 16, tables[0].shape[1], settings, 1.0, 1, facts, (), 1.0)


def test_effects_are_differences_from_the_corrupted_run_by_role() -> None:
    one = torch.tensor([[0.1, 0.1], [0.2, 0.1], [0.3, 0.1], [0.4, 0.6], [0.1, 0.3], [0.3, 0.5], [0.1, 0.9]])
    other = torch.tensor([[0.1, 0.1], [0.1, 0.1], [0.1, 0.1], [0.2, 0.2], [0.1, 0.1]])
    trace = made_up([one, other])
    assert trace.facts[0].roles == (
        None,
        "first subject token",
        "middle subject tokens",
        "last subject token",
        "further tokens",
        "further tokens",
        "last token",
    )
    found = {
        role: [round(value, 6) for value in effect.tolist()] for role, effect in trace.average_effects("mlp").items()
    }
    assert found == {
        "first subject token": [0.05, 0.0],
        "middle subject tokens": [0.1, 0.0],
        "last subject token": [0.2, 0.3],
        "further tokens": [0.1, 0.3],  # mean of a fact's tokens; the other fact has none
        "last token": [0.0, 0.4],
    }
    assert trace.total_effect == pytest.approx(0.8)
    assert json.loads(json.dumps(trace.as_dict()))["average_effects"]["mlp"]["last token"] == pytest.approx(
        [0.0, 0.4], abs=1e-6
    )


def test_a_subjects_only_token_is_its_last_one_and_a_prompts_last_token_is_no_subjects() -> None:
    table = torch.zeros(4, 2)
    assert made_up([table], subject=(1, 1)).facts[0].roles == (
        None,
        "last subject token",
        "further tokens",
        "last token",
    )
    ended = made_up([table], subject=(2, 3))
    assert ended.facts[0].roles == (None, None, "first subject token", "last token")
    with pytest.raises(InvalidEdit, match="ends with its subject"):
        suggest_layers(ended)


def peaked(facts: int, layers: int, rise: dict[int, float], spread: float, seed: int = 0) -> CausalTrace:
    drawn = torch.Generator().manual_seed(seed)
    tables = [0.2 + spread * torch.randn(6, layers, generator=drawn) for _ in range(facts)]
    for table in tables:
        for layer, more in rise.items():
            table[3, layer] += more
        table[5] += torch.arange(layers) / layers  # the last token's effect must not be gone by
    return made_up(tables)


def test_the_suggested_layers_are_those_of_the_highest_effect_with_their_figures() -> None:
    found = suggest_layers(peaked(20, 12, {4: 0.3, 5: 0.4, 6: 0.2, 9: 0.45}, 0.01))
    assert (found.kind, found.layer, found.facts) == ("mlp", 9, 20)
    assert found.layers in ((3, 4, 5, 6), (4, 5, 6, 7))  # four of twelve; what is left over is noise
    assert found.warning == ""
    assert found.effects[9] == pytest.approx(0.55, abs=0.01)
    assert found.standard_errors[9] == pytest.approx(0.01 / 20**0.5, rel=0.6)
    assert suggest_layers(peaked(20, 12, {4: 0.3, 5: 0.4, 6: 0.2, 9: 0.45}, 0.01), width=3).layers == (4, 5, 6)
    assert len(found.effects) == len(found.standard_errors) == 12
    assert len(suggest_layers(peaked(20, 48, {4: 0.3}, 0.01)).layers) == 5


def test_a_flat_effect_is_said_to_be_flat_as_often_as_the_level_says() -> None:
    doubted = [suggest_layers(peaked(30, 8, {}, 0.05, seed)).warning for seed in range(60)]
    assert sum("flat" in warning for warning in doubted) >= 50
    assert suggest_layers(peaked(30, 8, {2: 0.2}, 0.05)).warning == ""


def test_few_facts_and_noise_without_effect_are_said() -> None:
    assert "too few" in suggest_layers(peaked(2, 8, {2: 0.2}, 0.01)).warning
    assert suggest_layers(peaked(1, 8, {2: 0.2}, 0.01)).standard_errors == ()
    trace = made_up([torch.full((6, 4), 0.95)] * 5, corrupted=0.95)
    assert "nothing to restore" in suggest_layers(trace).warning


def test_a_model_with_two_streams_is_not_traced() -> None:
    with pytest.raises(UnsupportedModel, match=r"tiny-t5 cannot be traced.* two"):
        causal_trace(zoo.tiny("t5"), FACTS, SETTINGS)
