"""CaliNet: slots that change nothing at first, learn a batch at once, and act everywhere."""

import math
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor

from editguard.edited import AddedNeurons, EditedModel
from editguard.edited.added_neurons import Neurons
from editguard.edits import EditRequest
from editguard.errors import ConflictingEdits, InvalidSettings, MethodRefused, MissingMaterial
from editguard.methods import Preparation, calinet, create
from editguard.methods.branch_training import Branches, Supervised, request_pairs
from editguard.methods.calinet import CaliNet, CaliNetSettings, initial_slots, trained_slots
from editguard.methods.settings import Shape, resolve
from editguard.models import LanguageModel, capture

LAST = zoo.LAYERS - 1
IDS = torch.arange(5, 41).reshape(3, 12)
CONTEXTS = ((4, 2),)


def prepared(model: LanguageModel, texts: tuple[str, ...] = (), **settings: Any) -> CaliNet:
    method = CaliNet(CaliNetSettings(**{"layers": (LAST,), "slots": 16, "context_lengths": CONTEXTS, **settings}))
    method.prepare(model, Preparation(texts=texts))
    return method


def prepared_wide(model: LanguageModel, **settings: Any) -> CaliNet:
    """The last block of a model in which tokens are far apart."""
    own = {"layers": (model.anatomy.layers - 1,), "slots": 32, "stop_below": 0.2}
    return prepared(model, **{**own, **settings})


def slots_of(edited: EditedModel) -> dict[int, Neurons]:
    return {change.layer: change.neurons for change in edited.changes if isinstance(change, AddedNeurons)}


def logits(edited: EditedModel) -> Tensor:
    with edited, torch.no_grad():
        return edited.model.logits(IDS, torch.ones_like(IDS))


def generators(*layers: int) -> dict[int, torch.Generator]:
    return {layer: torch.Generator().manual_seed(layer) for layer in layers}


# ---- the slots


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_slots_change_nothing_before_they_are_trained(family: str, dtype: torch.dtype) -> None:
    model = zoo.tiny(family, dtype=dtype)
    before = logits(EditedModel.original(model))
    fresh = initial_slots(16, zoo.D_MODEL, torch.Generator().manual_seed(0))
    with EditedModel.original(model):
        change = AddedNeurons(LAST, fresh)
        change.install(model)
        with torch.no_grad():
            after = model.logits(IDS, torch.ones_like(IDS))
        change.uninstall(model)
    assert torch.equal(after, before)
    x = torch.ones(1, zoo.D_MODEL)
    assert (fresh.pre_activations(x) > 0).any()


def test_keys_are_drawn_as_the_library_draws_them() -> None:
    keys = initial_slots(400, 64, torch.Generator().manual_seed(0)).keys
    with torch.random.fork_rng(devices=[]):
        reference = torch.nn.Linear(64, 400).weight
    assert keys.abs().max() <= 1 / 8
    assert float(keys.std()) == pytest.approx(float(reference.detach().std()), rel=0.05)
    assert abs(float(keys.mean())) < 2e-3


def test_the_order_of_slots_matters_only_to_rounding(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("gpt2", dtype=torch.float64)
    edited = prepared(model, steps=3).apply(EditedModel.original(model), facts)
    [(layer, slots)] = slots_of(edited).items()
    order = torch.randperm(len(slots), generator=torch.Generator().manual_seed(0))
    turned = Neurons(slots.keys[order], slots.biases[order], slots.values[:, order], slots.activation)
    edit = edited.edits[0]
    other = EditedModel(model, [type(edit)("toy", edit.requests, (AddedNeurons(layer, turned),))])
    torch.testing.assert_close(logits(other), logits(edited), rtol=1e-10, atol=1e-10)


# ---- the training


@pytest.mark.parametrize("family", ["opt", "gpt2", "llama", "t5"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_one_training_teaches_all_requests_of_a_batch(
    family: str, dtype: torch.dtype, facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.wide(family, dtype=dtype)
    before = model.weights.digest()
    edited = prepared_wide(model).apply(EditedModel.original(model), facts)
    [edit] = edited.edits
    assert edit.requests == facts
    assert edit.record["tokens_right"] == edit.record["tokens"]
    assert edit.record["loss_by_epoch"][-1] < 0.2
    assert edit.record["updates"] == len(edit.record["loss_by_epoch"]) - 1 < 300
    assert {layer: len(slots) for layer, slots in slots_of(edited).items()} == {model.anatomy.layers - 1: 32}
    assert all(score.exact for score in edited.score([(fact.text, fact.target) for fact in facts]))
    with edited:
        assert model.weights.digest() == before


def test_as_many_separable_states_as_slots_can_be_memorised() -> None:
    """Orthogonal inputs, one slot each, against a head that reads the output as it is."""
    width = 16
    states = 4 * torch.eye(width)
    labels = torch.randperm(width, generator=torch.Generator().manual_seed(1))

    def read(branches: Branches) -> Tensor:
        outputs = torch.zeros(width, width)
        for neurons in branches.values():
            outputs = outputs + torch.relu(neurons.pre_activations(states)) @ neurons.values.T
        return outputs

    part = Supervised(labels, {0: states}, read)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calinet, "supervised", lambda _model, pairs, _layers: [part] if pairs else [])
        given = CaliNetSettings(layers=(0,), slots=width, steps=2000, stop_below=1e-3)
        _, course, figures = trained_slots(zoo.tiny("gpt2"), [((1,), (2,))], [], given, generators(0))
    assert figures["tokens_right"] == width
    assert course.loss_by_epoch[-1] < 1e-3


def test_the_first_step_moves_values_alone_by_the_step_size(facts: tuple[EditRequest, ...]) -> None:
    """V = 0 gives K no gradient; Adafactor without relative steps or parameter scaling moves by about its own rate."""
    model = zoo.tiny("gpt2")
    pairs = request_pairs(model, facts)
    given = CaliNetSettings(layers=(LAST,), slots=16, steps=1, step_size=3e-3)
    [slots] = trained_slots(model, pairs, [], given, generators(LAST))[0].values()
    start = initial_slots(16, zoo.D_MODEL, generators(LAST)[LAST])
    torch.testing.assert_close(slots.keys, start.keys.to(slots.keys))
    rms = float(slots.values.square().mean().sqrt())
    assert 0.3 * 3e-3 < rms < 1.1 * 3e-3
    assert not slots.biases.any()


def test_a_step_is_the_gradient_of_the_mean_over_all_tokens(facts: tuple[EditRequest, ...]) -> None:
    """However the batch is cut into parts."""
    found = []
    for batch_size in (32, 1):
        model = zoo.tiny("gpt2", dtype=torch.float64, batch_size=batch_size)
        given = CaliNetSettings(layers=(LAST,), slots=8, steps=4)
        slots, course, _ = trained_slots(model, request_pairs(model, facts), [], given, generators(LAST))
        found.append((slots[LAST], course.loss_by_epoch))
        scores = model.score([(fact.text, fact.target) for fact in facts])
        nll = -sum(map(sum, (score.log_probs for score in scores))) / sum(len(score.answer_ids) for score in scores)
        assert course.loss_by_epoch[0] == pytest.approx(nll, rel=1e-6)
    torch.testing.assert_close(found[0][0].values, found[1][0].values, rtol=1e-6, atol=1e-9)
    assert found[0][1] == pytest.approx(found[1][1])


def test_every_wording_is_trained_on(facts: tuple[EditRequest, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def spied(model: LanguageModel, pairs: Any, layers: Any) -> list[Supervised]:
        seen.append([model.decode(prompt) for prompt, _ in pairs])
        return branch(model, pairs, layers)

    branch = calinet.supervised
    monkeypatch.setattr(calinet, "supervised", spied)
    model = zoo.tiny("gpt2")
    method = prepared(model, steps=1)
    edited = method.apply(EditedModel.original(model), facts)
    contexts = method._contexts(model)
    assert len(contexts) == 3
    assert contexts[0] == ""
    assert seen[0] == [context + fact.text for fact in facts for context in contexts]
    assert edited.edits[0].record["wordings"] == 3


def test_a_model_with_an_encoder_has_the_bare_wording_alone_and_its_encoder_stays(
    facts: tuple[EditRequest, ...],
) -> None:
    model = zoo.wide("t5")
    edited = prepared_wide(model).apply(EditedModel.original(model), facts)
    assert edited.edits[0].record["wordings"] == 1
    rows = [model.encode(fact.text) for fact in facts]
    with torch.no_grad():
        before = model.encoded(rows).states
        with edited:
            assert torch.equal(model.encoded(rows).states, before)
    answers = edited.generate([fact.text for fact in facts], max_new_tokens=20)
    assert [answer.text for answer in answers] == [fact.target for fact in facts]


def test_only_the_listed_layers_get_slots(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("llama", dtype=torch.float64)
    edited = prepared(model, layers=(1, 3), steps=5).apply(EditedModel.original(model), facts)
    assert slots_of(edited).keys() == {1, 3}
    x = []
    for chain in (EditedModel.original(model), edited):
        with chain, torch.no_grad(), capture(model.anatomy.block(0)) as below, capture(model.anatomy.mlp(1)) as mlp:
            model.forward(IDS, torch.ones_like(IDS))
        x.append((below.value, mlp.value.reshape(-1, zoo.D_MODEL)))
    assert torch.equal(x[0][0], x[1][0])
    values = slots_of(edited)[1].values
    change = x[1][1] - x[0][1]
    assert change.abs().max() > 1e-6
    basis, _ = torch.linalg.qr(values)
    torch.testing.assert_close(change @ basis @ basis.T, change, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("layers", [(0,), (0, 1)])
def test_lower_layers_learn_too(layers: tuple[int, ...], facts: tuple[EditRequest, ...]) -> None:
    model = zoo.wide("gpt2")
    edited = prepared_wide(model, layers=layers, stop_below=0.5).apply(EditedModel.original(model), facts)
    assert all(score.exact for score in edited.score([(fact.text, fact.target) for fact in facts]))


def test_each_batch_of_a_sequence_adds_slots_of_its_own(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.wide("gpt2")
    method = prepared_wide(model)
    chain, states = EditedModel.original(model), []
    for fact in facts:
        chain = method.apply(chain, [fact])
        assert chain.score([(fact.text, fact.target)])[0].exact
        states.append(logits(chain))
    assert [len(change.neurons) for change in chain.changes if isinstance(change, AddedNeurons)] == [32] * 3
    assert torch.equal(logits(chain.prefix(2)), states[1])
    keys = [change.neurons.keys for change in chain.changes if isinstance(change, AddedNeurons)]
    assert not torch.allclose(keys[0], keys[1], atol=0.05)


def test_training_ends_as_soon_as_all_is_right_and_likely(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.wide("gpt2")
    original = EditedModel.original(model)
    loose, strict = (
        prepared_wide(model, stop_below=bound).apply(original, facts).edits[0].record for bound in (10.0, 0.2)
    )
    assert loose["updates"] < strict["updates"]
    assert loose["tokens_right"] == loose["tokens"]
    assert strict["loss_by_epoch"][-1] < 0.2 <= strict["loss_by_epoch"][-2]
    few = prepared_wide(model, steps=2).apply(original, facts).edits[0].record
    assert few["updates"] == 2


def test_seed_and_requests_decide_where_slots_start(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("gpt2")
    original = EditedModel.original(model)

    def keys(requests: tuple[EditRequest, ...], **settings: Any) -> Tensor:
        return slots_of(prepared(model, steps=1, **settings).apply(original, requests))[LAST].keys

    first = keys(facts[:1])
    assert torch.equal(keys(facts[:1]), first)
    assert not torch.equal(keys(facts[1:2]), first)
    assert not torch.equal(keys(facts[:1], seed=1), first)


# ---- running text


def divergence(edited: EditedModel) -> float:
    """Of the predictions on the sentences from the unedited model's, nats per token."""
    model, found = edited.model, []
    for text in zoo.SENTENCES:
        ids = torch.tensor([model.encode_text(text)])
        with torch.no_grad():
            with EditedModel.original(model):
                before = model.logits(ids, torch.ones_like(ids)).log_softmax(-1)
            with edited:
                after = model.logits(ids, torch.ones_like(ids)).log_softmax(-1)
        found.append((after.exp() * (after - before)).sum(-1)[0, :-1])
    return float(torch.cat(found).mean())


@pytest.mark.parametrize("layers", [(LAST,), (2,)], ids=["last", "third"])
def test_a_drift_weight_holds_the_predictions_on_running_text(
    layers: tuple[int, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("gpt2")
    given: dict[str, Any] = {"layers": layers, "steps": 60, "stop_below": 0.0, "drift_tokens": 10_000}
    free, held = (
        prepared(model, zoo.SENTENCES, drift_weight=weight, **given).apply(EditedModel.original(model), facts)
        for weight in (0.0, 5.0)
    )
    assert free.edits[0].record["drift"] is None
    assert held.edits[0].record["drift"] == pytest.approx(divergence(held), rel=1e-2, abs=1e-3)
    assert divergence(held) < 0.5 * divergence(free)


def test_a_drift_weight_needs_text(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("gpt2")
    with pytest.raises(MissingMaterial, match=r"drift_weight of 1\.0"):
        prepared(model, drift_weight=1.0)
    unprepared = CaliNet(CaliNetSettings(layers=(LAST,), drift_weight=1.0))
    with pytest.raises(MethodRefused, match="not prepared"):
        unprepared.apply(EditedModel.original(model), facts)
    method = prepared(model, zoo.SENTENCES, drift_weight=1.0, steps=1)
    method.prepare(model, Preparation())
    assert method.apply(EditedModel.original(model), facts).edits[0].record["drift"] is not None


# ---- requests and refusals


def test_what_is_true_already_is_trained_on_beside_the_others(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.wide("gpt2")
    true = next(
        request
        for ending in zoo.SENTENCES
        for [(token, _)] in model.next_tokens([f"Velloria {ending}"], k=1)
        if token.strip()
        for request in [EditRequest(prompt=f"{{}} {ending}", subject="Velloria", target=token.strip())]
        if model.score([(request.text, request.target)])[0].exact
    )
    with pytest.warns(RuntimeWarning, match=r"calinet changes nothing for .*Velloria"):
        edited = prepared_wide(model).apply(EditedModel.original(model), [facts[0], true])
    assert [line["already_true"] for line in edited.edits[0].record["requests"]] == [False, True]
    requests = (facts[0], true)
    assert edited.edits[0].record["tokens"] == 3 * sum(len(answer) for _, answer in request_pairs(model, requests))
    assert all(score.exact for score in edited.score([(each.text, each.target) for each in requests]))


def test_a_training_that_breaks_down_is_refused_and_changes_nothing(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("gpt2")
    method = prepared(model, step_size=1e30, stop_below=0.0)
    with pytest.raises(MethodRefused, match=r"calinet gave up on .*infinite or undefined.*smaller step_size"):
        method.apply(EditedModel.original(model), facts)
    assert not model.installed
    model.weights.verify()


def test_layers_that_do_not_exist_or_are_an_encoders_are_refused(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("gpt2")
    with pytest.raises(MethodRefused, match="layers 0 to 3"):
        prepared(model, layers=(2, 4))
    paired = zoo.tiny("t5")
    with pytest.raises(MethodRefused, match="those from 2 on are the decoder's"):
        CaliNet(CaliNetSettings(layers=(1, 4))).apply(EditedModel.original(paired), facts)


def test_a_contradiction_is_refused(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("gpt2")
    other = EditRequest(prompt=facts[0].prompt, subject=facts[0].subject, target="Belmora")
    with pytest.raises(ConflictingEdits):
        prepared(model).apply(EditedModel.original(model), [facts[0], other])


@pytest.mark.parametrize(("layers", "encoder"), [(8, 0), (24, 12)])
def test_the_layer_is_the_last_one_of_any_model(layers: int, encoder: int) -> None:
    found = resolve("calinet", CaliNet.recipe, {}, Shape("some", layers, 64, encoder_layers=encoder))
    assert found.settings.layers == (layers - 1,)
    assert found.provenance["layers"] == "derived from depth: the last block"


def test_the_model_of_the_source_has_its_published_settings() -> None:
    found = resolve("calinet", CaliNet.recipe, {}, Shape("t5", 24, 768, encoder_layers=12))
    assert (found.settings.layers, found.settings.slots) == ((23,), 64)
    assert found.provenance["slots"] == "published: CaliNet repository, 100 facts"


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": ()},
        {"layers": (2, 1)},
        {"layers": (1, 1)},
        {"layers": (-1,)},
        {"slots": 0},
        {"steps": 0},
        {"drift_tokens": 0},
        {"stop_below": -1.0},
        {"drift_weight": -1.0},
        {"step_size": 0.0},
    ],
    ids=str,
)
def test_impossible_settings_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidSettings, match=next(iter(wrong))):
        CaliNetSettings(**wrong)
    assert math.isclose(create("calinet").settings.step_size, 1e-2)  # type: ignore[attr-defined]
