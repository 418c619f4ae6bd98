"""T-Patcher: a neuron for each wrong token, silent elsewhere, and on all the edits before."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor

from editguard.edited import AddedNeurons, EditedModel
from editguard.edited.added_neurons import Neurons
from editguard.edited.key_memory import KeyMemory
from editguard.edits import EditRequest
from editguard.errors import InvalidSettings, MethodRefused
from editguard.methods import Preparation, create, t_patcher
from editguard.methods.patch_training import PatchProblem, PatchSettings, TrainedPatch, trained_patch
from editguard.methods.settings import Shape, resolve
from editguard.methods.t_patcher import TPatcher, TPatcherSettings, firing_rate
from editguard.models import LanguageModel, capture

LAST = zoo.LAYERS - 1
IDS = torch.arange(5, 41).reshape(3, 12)


def prepared(model: LanguageModel, **settings: Any) -> TPatcher:
    method = TPatcher(TPatcherSettings(**{"layer": LAST, "validation_tokens": 40, **settings}))
    method.prepare(model, Preparation(texts=zoo.SENTENCES))
    return method


def prepared_wide(model: LanguageModel, **settings: Any) -> TPatcher:
    """The last block of a model in which states are far apart, and a memory of 1,800 of them."""
    own = {"layer": model.anatomy.layers - 1, "validation_tokens": 200, "memory_tokens": 2000}
    method = TPatcher(TPatcherSettings(**{**own, **settings}))
    method.prepare(model, Preparation(texts=zoo.word_texts(60)))
    return method


def neurons_of(edited: EditedModel) -> list[Neurons]:
    return [change.neurons for change in edited.changes if isinstance(change, AddedNeurons)]


def states_at(model: LanguageModel, request: EditRequest, layer: int = LAST) -> Tensor:
    """What the MLP reads where the tokens of the target are predicted."""
    prompt, answer = model.encode_answer(request.text, request.target)
    ids = torch.tensor([[*prompt, *answer[:-1]]])
    module = model.anatomy.up_projections(layer)[0].module
    with torch.no_grad(), capture(module, "input") as captured:
        model.forward(ids, torch.ones_like(ids))
    return captured.value.reshape(ids.shape[1], -1)[len(prompt) - 1 :]


@pytest.fixture
def problems(monkeypatch: pytest.MonkeyPatch) -> list[PatchProblem]:
    """The problems that are handed to the training, which is cut to two steps."""
    seen: list[PatchProblem] = []

    def spied(problem: PatchProblem, settings: PatchSettings, generator: torch.Generator) -> TrainedPatch:
        seen.append(problem)
        return trained_patch(problem, replace(settings, steps=2), generator)

    monkeypatch.setattr(t_patcher, "trained_patch", spied)
    return seen


# ---- one edit


@pytest.mark.parametrize("family", ["opt", "gpt2", "llama", "t5"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_an_edit_is_answered_and_silent_on_the_memory(
    family: str, dtype: torch.dtype, facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.wide(family, dtype=dtype)
    before = model.weights.digest()
    edited = prepared_wide(model, activation="relu").apply(EditedModel.original(model), facts[:1])
    record = edited.edits[0].record
    assert record["decoded"]
    assert record["teacher_forced"]
    assert record["answer"] == facts[0].target
    assert min(record["own_activations"]) > 0
    assert record["firing_rate"] == 0  # of 200 states: the paper has one in a thousand
    with edited:
        assert model.weights.digest() == before
        [answer] = edited.generate([facts[0].text], max_new_tokens=12)
        assert answer.text.startswith(facts[0].target)


def test_text_at_which_nothing_fires_keeps_its_logits_to_the_bit(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.wide("opt")
    before = model.logits(IDS, torch.ones_like(IDS))
    edited = prepared_wide(model, steps=1).apply(EditedModel.original(model), facts[:1])
    [added] = neurons_of(edited)
    with torch.no_grad(), capture(model.anatomy.up_projections(1)[0].module, "input") as captured:
        model.forward(IDS, torch.ones_like(IDS))
    silent = (added.pre_activations(captured.value.reshape(*IDS.shape, -1)) <= 0).all(-1)
    with edited:
        after = model.logits(IDS, torch.ones_like(IDS))
    assert 0.1 < silent.float().mean() < 1
    assert torch.equal(after[silent], before[silent])
    assert (after[~silent] != before[~silent]).any(-1).all()


def test_there_is_a_neuron_for_each_wrong_token_up_to_the_limit(
    facts: tuple[EditRequest, ...], problems: list[PatchProblem]
) -> None:
    model = zoo.tiny("gpt2")
    method, original = prepared(model), EditedModel.original(model)
    long = EditRequest(prompt="The mayor of {} is", subject="Oskaria", target="Quintessa Marlowe-Vane of Velloria")
    for request in (*facts, long):
        [score] = model.score([(request.text, request.target)])
        wrong = [place for place, token in enumerate(score.answer_ids) if score.argmax_ids[place] != token]
        edited = method.apply(original, [request])
        record = edited.edits[0].record
        assert record["wrong_tokens"] == wrong
        assert len(neurons_of(edited)[0]) == record["neurons"] == min(len(wrong), 5)
        torch.testing.assert_close(problems[-1].states, states_at(model, request)[wrong[:5]], rtol=1e-4, atol=1e-5)
        assert problems[-1].labels.tolist() == list(score.answer_ids)
    assert len(wrong) > 5
    assert len(neurons_of(prepared(model, neurons=2).apply(original, [long]))[0]) == 2


def test_a_token_that_is_right_already_gets_no_neuron(problems: list[PatchProblem]) -> None:
    model = zoo.tiny("gpt2")
    prompt = "The capital of Velloria is"
    first = model.generate([prompt], max_new_tokens=1)[0].token_ids
    target = model.decode(first) + " Oskar"
    request = EditRequest(prompt="The capital of {} is", subject="Velloria", target=target.strip())
    [score] = model.score([(request.text, request.target)])
    assert score.argmax_ids[0] == score.answer_ids[0]
    record = prepared(model).apply(EditedModel.original(model), [request]).edits[0].record
    assert record["wrong_tokens"][0] > 0
    torch.testing.assert_close(
        problems[0].states, states_at(model, request)[record["wrong_tokens"]][:5], rtol=1e-4, atol=1e-5
    )


def test_behind_an_encoder_the_answer_learns_to_end(facts: tuple[EditRequest, ...]) -> None:
    """The closing token is one of the answer's: a wrong one gets a neuron, and the answer has nothing behind it."""
    model = zoo.wide("t5")
    _, target = model.encode_answer(facts[0].text, facts[0].target)
    edited = prepared_wide(model).apply(EditedModel.original(model), facts[:1])
    assert edited.edits[0].record["wrong_tokens"] == list(range(len(target)))
    [answer] = edited.generate([facts[0].text], max_new_tokens=20)
    assert answer.text == facts[0].target
    assert answer.stopped


def test_memories_are_for_training_and_for_stopping(
    facts: tuple[EditRequest, ...], problems: list[PatchProblem]
) -> None:
    model = zoo.tiny("gpt2")
    method = prepared(model)
    method.apply(EditedModel.original(model), facts[:1])
    memory = method._memories.of(model)
    assert torch.equal(problems[0].memory, memory.training)
    assert torch.equal(problems[0].validation, memory.validation)


def test_whether_it_is_said_is_found_by_decoding(facts: tuple[EditRequest, ...], problems: list[PatchProblem]) -> None:
    """Two steps are not enough for the answer, and the record says so."""
    model = zoo.tiny("gpt2")
    edited = prepared(model).apply(EditedModel.original(model), facts[:1])
    record = edited.edits[0].record
    with edited:
        _, target = model.encode_answer(facts[0].text, facts[0].target)
        [answer] = edited.generate([facts[0].text], max_new_tokens=len(target))
    assert record["answer"] == answer.text
    assert record["decoded"] == (answer.token_ids == tuple(target))
    assert record["decoded"] == record["teacher_forced"]


@pytest.mark.parametrize(
    ("family", "wanted"), [("opt", "relu"), ("gpt2", "gelu_new"), ("gpt_neox", "gelu"), ("llama", "relu")]
)
def test_the_activation_is_the_mlps_own_where_it_is_a_plain_one(
    family: str, wanted: str, facts: tuple[EditRequest, ...], problems: list[PatchProblem]
) -> None:
    model = zoo.tiny(family)
    edited = prepared(model).apply(EditedModel.original(model), facts[:1])
    assert edited.edits[0].record["activation"] == wanted
    assert neurons_of(edited)[0].activation == wanted
    chosen = prepared(model, activation="silu").apply(EditedModel.original(model), facts[:1])
    assert neurons_of(chosen)[0].activation == "silu"


def test_an_activation_that_nobody_knows_is_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, facts: tuple[EditRequest, ...], problems: list[PatchProblem]
) -> None:
    monkeypatch.setattr("editguard.methods.input_memory.mlp_activation", lambda *_: None)
    model = zoo.tiny("gpt2")
    with pytest.raises(MethodRefused, match="set `activation`"):
        prepared(model)
    assert neurons_of(prepared(model, activation="relu").apply(EditedModel.original(model), facts[:1]))


def test_another_layer_than_the_last_can_be_patched(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.wide("llama")
    edited = prepared_wide(model, layer=0).apply(EditedModel.original(model), facts[:1])
    [change] = [change for change in edited.changes if isinstance(change, AddedNeurons)]
    assert change.layer == 0
    assert edited.edits[0].record["teacher_forced"]
    assert edited.edits[0].record["decoded"]


# ---- a sequence


def test_an_edits_own_states_join_the_memory_of_later_ones_and_leave_with_it(
    facts: tuple[EditRequest, ...], problems: list[PatchProblem]
) -> None:
    model = zoo.tiny("gpt2")
    method = prepared(model)
    memory = method._memories.of(model)
    chain = method.apply(EditedModel.original(model), facts)
    own = [states_at(model, fact) for fact in facts]
    for number, problem in enumerate(problems):
        expected = torch.cat([memory.training, *own[:number]])
        torch.testing.assert_close(problem.memory, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            problem.validation, torch.cat([memory.validation, *own[:number]]), rtol=1e-4, atol=1e-5
        )
    assert [edit.record["earlier_states"] for edit in chain.edits] == [0, len(own[0]), len(own[0]) + len(own[1])]
    again = method.apply(chain.prefix(1), facts[2:])
    assert again.edits[-1].record["earlier_states"] == len(own[0])
    assert all(len([each for each in edit.changes if isinstance(each, KeyMemory)]) == 1 for edit in chain.edits)


def test_the_states_of_a_fact_that_is_edited_anew_do_not_stand_against_it(
    facts: tuple[EditRequest, ...], problems: list[PatchProblem]
) -> None:
    model = zoo.tiny("gpt2")
    method = prepared(model)
    anew = EditRequest(prompt=facts[0].prompt, subject=facts[0].subject, target="Belmora")
    chain = method.apply(EditedModel.original(model), facts[:2])
    chain = method.apply(chain, [anew])
    assert chain.edits[-1].record["earlier_states"] == len(states_at(model, facts[1]))


def test_an_edit_can_be_overwritten(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.wide("opt")
    method = prepared_wide(model)
    anew = EditRequest(prompt=facts[0].prompt, subject=facts[0].subject, target="Belmora")
    chain = method.apply(method.apply(EditedModel.original(model), facts[:1]), [anew])
    assert [edit.record["decoded"] for edit in chain.edits] == [True, True]
    assert chain.generate([anew.text], max_new_tokens=12)[0].text.startswith("Belmora")


def many_requests(count: int) -> list[EditRequest]:
    """Facts about different subjects, with targets of one to a few tokens."""
    rng = random.Random(0)
    places = ("Tamrin", "Belmora", "Oskar", "Ines Holt", "red", "green")
    names = [
        "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(3)).title() for _ in range(count)
    ]
    prompts = ("The capital of {} is", "{} was born in", "Question: who is the mayor of {}? Answer:")
    return [
        EditRequest(prompt=prompts[number % 3], subject=f"{name}{number}", target=places[number % 6])
        for number, name in enumerate(names)
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:t-patcher changes nothing")  # a neuron may answer a prompt much like its own
def test_fifty_edits_in_a_row_hold_and_leave_the_rest_alone() -> None:
    model = zoo.wide("opt")
    method = prepared_wide(model)
    requests = many_requests(50)
    chain = EditedModel.original(model)
    kept = []
    for number, request in enumerate(requests, start=1):
        chain = method.apply(chain, [request])
        scores = chain.score([(each.text, each.target) for each in requests[:number]])
        kept.append(sum(score.exact for score in scores) / number)
    assert min(kept) >= 0.98
    memory = method._memories.of(model)
    added = neurons_of(chain)
    assert sum(map(len, added)) == sum(edit.record["neurons"] for edit in chain.edits) <= 250
    assert max(firing_rate(each, memory.validation) for each in added) <= 0.01
    own = [states_at(model, request, layer=1) for request in requests]
    for number, edit in enumerate(chain.edits):
        for change in edit.changes:
            if number and isinstance(change, AddedNeurons):
                assert firing_rate(change.neurons, torch.cat(own[:number])) <= 0.01
    for number in (1, 25):
        prefix = chain.prefix(number)
        assert all(score.exact for score in prefix.score([(each.text, each.target) for each in requests[:number]]))


def test_six_edits_in_a_row_hold() -> None:
    model = zoo.wide("opt")
    method = prepared_wide(model)
    requests = many_requests(6)
    chain = method.apply(EditedModel.original(model), requests)
    assert all(score.exact for score in chain.score([(each.text, each.target) for each in requests]))
    assert [edit.record["firing_rate_on_earlier"] for edit in chain.edits] == [None, *[0.0] * 5]


def test_edits_start_from_values_of_their_own_that_seed_and_request_decide(
    facts: tuple[EditRequest, ...], problems: list[PatchProblem]
) -> None:
    model = zoo.tiny("gpt2")
    original = EditedModel.original(model)
    first = neurons_of(prepared(model).apply(original, facts[:1]))[0]
    assert torch.equal(neurons_of(prepared(model).apply(original, facts[:1]))[0].values, first.values)
    assert not torch.equal(neurons_of(prepared(model, seed=1).apply(original, facts[:1]))[0].values, first.values)
    other = neurons_of(prepared(model).apply(original, facts[1:2]))[0]
    count = min(len(first), len(other))
    assert not torch.allclose(other.values[:, :count], first.values[:, :count], atol=1.0)


# ---- settings and refusals


@pytest.mark.parametrize(("layers", "encoder"), [(8, 0), (12, 6)])
def test_the_layer_is_the_last_one_of_any_model(layers: int, encoder: int) -> None:
    found = resolve("t-patcher", TPatcher.recipe, {}, Shape("some", layers, 64, encoder_layers=encoder))
    assert found.settings.layer == layers - 1
    assert found.provenance["layer"] == "derived from depth: the last block"
    assert found.provenance["gap_margin"] == "default"


def test_the_models_of_the_sources_have_their_published_settings() -> None:
    found = resolve("t-patcher", TPatcher.recipe, {}, Shape("bart", 12, 768, encoder_layers=6))
    assert (found.settings.layer, found.settings.memory_weight) == (11, 10.0)
    assert found.provenance["layer"].startswith("published: Transformer-Patcher repository")


def test_a_training_that_breaks_down_is_refused_and_changes_nothing(
    facts: tuple[EditRequest, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> TrainedPatch:
        raise FloatingPointError("the loss became nan after 3 updates")

    model = zoo.tiny("gpt2")
    method = prepared(model)
    monkeypatch.setattr(t_patcher, "trained_patch", broken)
    with pytest.raises(MethodRefused, match=r"Velloria is Ines Holt.*nan after 3 updates.*smaller step_size"):
        method.apply(EditedModel.original(model), facts[:1])
    assert not model.installed
    model.weights.verify()


@pytest.mark.parametrize("wrong", [{"layer": -1}, {"neurons": 0}, {"memory_tokens": 0}, {"validation_tokens": 0}])
def test_impossible_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidSettings, match=next(iter(wrong))):
        TPatcherSettings(**wrong)
    with pytest.raises(InvalidSettings, match="gradient_clip"):
        create("t-patcher", {"gradient_clip": 0})


def test_the_rate_counts_states_at_which_any_neuron_fires() -> None:
    added = Neurons(torch.eye(2), torch.zeros(2), torch.ones(2, 2), "relu")
    states = torch.tensor([[1.0, -1.0], [-1.0, 2.0], [3.0, 3.0], [-1.0, 0.0]])
    assert firing_rate(added, states) == 0.75
