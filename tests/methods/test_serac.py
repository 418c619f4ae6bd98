"""SERAC: who answers, what is read for it, and that everything out of scope keeps its bits."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from methods.small_serac import FAR, QUICK, counterfactual, known, seen

from editguard.edited import EditedModel, EditMemory
from editguard.edits import EditCase, EditRequest
from editguard.errors import InvalidSettings, MethodRefused, ModelNotLoaded
from editguard.methods import Preparation, create
from editguard.methods.counterfactual_model import question
from editguard.methods.scope_calibration import threshold_for
from editguard.methods.scope_classifier import SharedTokens, small_encoder
from editguard.methods.serac import Serac, SeracSettings
from editguard.models import LanguageModel

ELSEWHERE = ("Ines Holt", "Copy: red blue", "Question: who is the mayor of Tamrin? Answer:")
"""Prompts in the scope of no edit."""


def model_of(family: str = "gpt2", dtype: torch.dtype = torch.float32) -> LanguageModel:
    return zoo.tiny(family, dtype=dtype)


# ---- who answers


@pytest.mark.parametrize("family", ["gpt2", "t5"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_out_of_scope_and_with_an_empty_memory_every_bit_is_the_models_own(
    family: str, dtype: torch.dtype, facts: tuple[EditRequest, ...]
) -> None:
    model = model_of(family, dtype)
    original = EditedModel.original(model)
    wanted = seen(original, ELSEWHERE)
    method, _ = known(model, facts)
    edited = method.apply(original, facts)
    prompts = [facts[0].text, ELSEWHERE[0], facts[1].text, *ELSEWHERE[1:]]
    mixed = seen(edited, prompts)
    assert [each for prompt, each in zip(prompts, mixed, strict=True) if prompt in ELSEWHERE] == wanted
    assert seen(edited, ELSEWHERE) == wanted
    empty = method.withdraw(edited, facts)
    own = [fact.text for fact in facts]
    assert seen(empty, own) == seen(original, own)
    assert [each.route for each in empty.consult(own)] == ["plain"] * 3
    model.weights.verify()


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_in_scope_the_counterfactual_model_answers_alone_whatever_the_model_is(
    family: str, facts: tuple[EditRequest, ...]
) -> None:
    found = []
    for seed in (0, 1):
        model = zoo.tiny(family, seed=seed)
        method, _ = known(model, facts)
        edited = method.apply(EditedModel.original(model), facts)
        read = [f"{fact.statement} {fact.text}" for fact in facts]
        assert [each.prompt for each in edited.consult([fact.text for fact in facts])] == read
        answering = method.known.answering
        assert answering.module is not model.module
        found.append(seen(edited, [fact.text for fact in facts]))
        assert found[-1] == seen(EditedModel.original(answering), read)
        assert found[-1] != seen(EditedModel.original(model), [fact.text for fact in facts])
    assert found[0] == found[1]


def test_the_scope_is_decided_on_the_prompt_alone_once_for_scores_and_answers(facts: tuple[EditRequest, ...]) -> None:
    model = model_of()
    method, points = known(model, facts[:1])
    edited = method.apply(EditedModel.original(model), facts[:1])
    points.asked.clear()
    prompts = [facts[0].text, *ELSEWHERE]
    edited.score([(prompt, "Tamrin") for prompt in prompts])
    said = edited.generate(prompts, max_new_tokens=2)
    edited.score([(prompt, "Belmora") for prompt in prompts])
    assert points.asked == prompts
    assert [each.consulted.route for each in said] == ["in-scope", *["out-of-scope"] * 3]
    for each in said:
        [row] = each.consulted.retrieved
        assert row.row == facts[0].id
    assert said[0].consulted.retrieved[0].similarity == pytest.approx(math.exp(-0.25))


@pytest.mark.parametrize(("squared", "hit"), [(0.69, True), (math.log(2), False), (0.70, False)])
def test_a_prompt_is_in_scope_below_the_squared_distance_ln_2(
    squared: float, hit: bool, facts: tuple[EditRequest, ...]
) -> None:
    model = model_of()
    method, _ = known(model, facts[:1], near=math.sqrt(squared))
    [found] = method.apply(EditedModel.original(model), facts[:1]).consult([facts[0].text])
    assert (found.route == "in-scope") == hit
    assert found.retrieved[0].similarity == pytest.approx(math.exp(-squared), rel=1e-6)


def test_a_score_that_equals_the_threshold_is_no_hit(facts: tuple[EditRequest, ...]) -> None:
    model = model_of()
    for threshold, near, route in ((1.0, 0.0, "out-of-scope"), (0.0, 2.0, "in-scope"), (0.0, FAR, "out-of-scope")):
        method, _ = known(model, facts[:1], near=near, threshold=threshold)
        [found] = method.apply(EditedModel.original(model), facts[:1]).consult([facts[0].text])
        assert found.route == route


# ---- the memory


def test_the_order_of_rows_shows_nowhere(facts: tuple[EditRequest, ...]) -> None:
    model = model_of()
    prompts = [*(fact.text for fact in facts), *ELSEWHERE]
    found = []
    for order in itertools.permutations(facts):
        method, _ = known(model, facts)
        found.append(seen(method.apply(EditedModel.original(model), order), prompts))
    assert all(each == found[0] for each in found)


def test_rows_only_raise_the_score_and_without_the_last_one_all_is_as_before(facts: tuple[EditRequest, ...]) -> None:
    model = model_of()
    method, points = known(model, facts)
    points.places["Ines Holt"] = [1.0, -FAR * 2]  # nearest to the second fact, and not near
    prompts = [*(fact.text for fact in facts), *ELSEWHERE]
    chain, earlier, outputs = EditedModel.original(model), [-1.0] * len(prompts), list[Any]()
    for number, fact in enumerate(facts, 1):
        chain = method.apply(chain, [fact])
        memory = chain.memory("serac")
        assert memory is not None
        assert len(memory) == number
        scores = [each.retrieved[0].similarity for each in chain.consult(prompts)]
        assert all(now >= before for now, before in zip(scores, earlier, strict=True))
        earlier = scores
        outputs.append(seen(chain, prompts))
        assert [each.route for each in chain.consult([f.text for f in facts[:number]])] == ["in-scope"] * number
    fewer = method.withdraw(chain, [facts[2]])
    assert seen(fewer, prompts) == outputs[1] != outputs[2]


def test_a_changed_target_replaces_the_row_and_its_text(facts: tuple[EditRequest, ...]) -> None:
    model = model_of()
    other = EditRequest(prompt=facts[0].prompt, subject=facts[0].subject, target="Belmora")
    method, points = known(model, facts)
    points.places[other.statement] = points.places[facts[0].statement]
    chain = method.apply(method.apply(EditedModel.original(model), facts), [other])
    [found] = chain.consult([facts[0].text])
    assert found.prompt == question(other.statement, facts[0].text)
    assert len(chain.memory() or ()) == 3


def test_rows_are_encoded_once(facts: tuple[EditRequest, ...]) -> None:
    model = model_of()
    method, points = known(model, facts)
    chain = EditedModel.original(model)
    for fact in facts:
        chain = method.apply(chain, [fact])
        chain.consult(ELSEWHERE)
    statements = [text for text in points.asked if text in {fact.statement for fact in facts}]
    assert statements == [fact.statement for fact in facts]


def test_a_saved_memory_routes_and_answers_alike(
    tmp_path: Path, training: tuple[EditCase, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = model_of()
    method: Any = create("serac", {**QUICK, "false_hits": 1.0}, model)
    method.prepare(model, Preparation(training=training))
    original = EditedModel.original(model)
    edited = method.apply(original, facts)
    prompts = [*(fact.text for fact in facts), *ELSEWHERE]
    wanted = [(each.route, each.retrieved) for each in edited.consult(prompts)]
    edited.memory().save(tmp_path / "memory.json")
    loaded = EditMemory.load(tmp_path / "memory.json")
    assert (tmp_path / "memory.json.safetensors").is_file()
    restored = method.restore(original, loaded)
    assert [(each.route, each.retrieved) for each in restored.consult(prompts)] == wanted
    assert seen(restored, prompts) == seen(edited, prompts)
    (tmp_path / "memory.json.safetensors").unlink()
    anew = method.restore(original, EditMemory.load(tmp_path / "memory.json"))
    for found, (route, [row]) in zip(anew.consult(prompts), wanted, strict=True):
        assert (found.route, found.retrieved[0].row) == (route, row.row)
        assert found.retrieved[0].similarity == pytest.approx(row.similarity, abs=1e-5)


# ---- with networks that were trained


def trained(model: LanguageModel, training: Sequence[EditCase], **changes: Any) -> Serac:
    method = create("serac", {**QUICK, **changes}, model)
    assert isinstance(method, Serac)
    method.prepare(model, Preparation(training=training))
    return method


@pytest.mark.parametrize("form", ["embedding", "cross-attention"])
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_both_forms_train_and_record_what_they_found(
    form: str, family: str, training: tuple[EditCase, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = model_of(family)
    method = trained(model, training, form=form)
    edited = method.apply(EditedModel.original(model), facts)
    record = edited.edits[0].record
    assert record["threshold"] == 0.5
    assert record["memory_rows"] == 3
    assert record["editor"]["model"] == model.fingerprint()
    own = [fact.text for fact in facts]
    assert record["own_scores"] == [each.retrieved[0].similarity for each in edited.consult(own)]
    assert all(0 <= score <= 1 for score in record["own_scores"])
    if form == "embedding":  # a row is compared as a whole, its target included
        whole = edited.consult([fact.statement for fact in facts])
        assert [each.retrieved[0].similarity for each in whole] == [1.0] * 3
        assert all(score < 1 for score in record["own_scores"])


def test_the_base_model_is_not_run_in_training(training: tuple[EditCase, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    unanswered = tuple(
        EditCase(request=case.request, probes=tuple(_without_answer(probe) for probe in case.probes))
        for case in training
    )
    monkeypatch.setattr(model.anatomy.backbone, "forward", lambda *_, **__: pytest.fail("the base model ran"))
    for cases in (training, unanswered):
        trained(model, cases)


def _without_answer(probe: Any) -> Any:
    return replace(probe, answers=()) if probe.property == "locality" else probe


def test_false_hits_choose_the_threshold_and_need_no_other_training(
    tmp_path: Path, training: tuple[EditCase, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = model_of()
    data = Preparation(training=training, cache_dir=tmp_path)
    thresholds = []
    for rate in (0.0, 0.5, 1.0):
        method: Any = create("serac", {**QUICK, "false_hits": rate}, model)
        method.prepare(model, data)
        scores = method._editors.of(model).editor.out_of_scope_scores
        thresholds.append(method.front(model).threshold)
        assert thresholds[-1] == threshold_for(scores, rate)
        assert float((scores > thresholds[-1]).float().mean()) <= rate
    assert thresholds[0] >= thresholds[1] >= thresholds[2] == 0.0
    assert len(list((tmp_path / "editors").glob("*.safetensors"))) == 1


# ---- models to start from, and refusals


@pytest.fixture
def encoder_folder(tmp_path: Path) -> Path:
    words = zoo.tokenizer("gpt2")
    small_encoder(SharedTokens(words), 1, 8, seed=9).save_pretrained(tmp_path / "encoder")
    words.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def test_a_named_encoder_is_where_the_classifier_starts_and_is_part_of_the_key(
    encoder_folder: Path, tmp_path: Path, training: tuple[EditCase, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = model_of()
    data = Preparation(training=training, cache_dir=tmp_path / "cache")
    for seed in (9, 10):
        small_encoder(SharedTokens(model.tokenizer), 1, 8, seed=seed).save_pretrained(encoder_folder)
        method: Any = create(
            "serac", {**QUICK, "classifier_model": str(encoder_folder), "form": "cross-attention"}, model
        )
        method.prepare(model, data)
        edited = method.apply(EditedModel.original(model), facts)
        assert len(edited.consult([facts[0].text])) == 1
    assert len(list((tmp_path / "cache" / "editors").glob("*.safetensors"))) == 2


def test_a_named_counterfactual_model_answers_and_shares_the_tokens_or_is_refused(
    tmp_path: Path, training: tuple[EditCase, ...]
) -> None:
    model = model_of()
    folder = tmp_path / "small"
    counterfactual(model).module.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    method: Any = trained(model, training, counterfactual_model=str(folder), step_size=1e-9, untrained_step_size=1e-9)
    started = counterfactual(model).module.state_dict()
    for name, tensor in method.front(model).answering.module.state_dict().items():
        torch.testing.assert_close(tensor, started[name], atol=1e-6, rtol=0)
    words = zoo.tokenizer("gpt2")
    assert words.add_tokens(["Wexolian"])
    words.save_pretrained(folder)
    with pytest.raises(MethodRefused, match="it has to share the tokenizer"):
        trained(model, training, counterfactual_model=str(folder))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"threshold": 1.5}, "threshold is between 0 and 1"),
        ({"false_hits": -0.1}, "false_hits is between 0 and 1"),
        ({"hard_negatives": 2.0}, "hard_negatives is between 0 and 1"),
        ({"classifier_width": 40}, "a multiple of 32"),
        ({"counterfactual_layers": 0}, "counterfactual_layers is at least 1"),
        ({"untrained_step_size": 0.0}, "untrained_step_size is positive"),
        ({"classifier_weight": 0.0}, "classifier_weight is positive"),
        ({"schedule": 0}, "schedule is at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSettings, match=said):
        SeracSettings(**changes)


def test_what_cannot_be_loaded_or_made_is_one_clear_error(tmp_path: Path, training: tuple[EditCase, ...]) -> None:
    model = model_of()
    with pytest.raises(ModelNotLoaded, match="serac cannot load the classifier model"):
        trained(model, training, classifier_model=str(tmp_path))
    with pytest.raises(MethodRefused, match="counterfactual_width = 5 is no multiple"):
        trained(model, training, counterfactual_width=5)
    with pytest.raises(MethodRefused, match="was not prepared for this model"):
        create("serac", {}, model).apply(EditedModel.original(model), [training[0].request])


@pytest.mark.parametrize("offline", [False, True])
def test_models_to_start_from_are_looked_for_where_the_model_under_edit_was(
    offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked = zoo.tiny("gpt2"), []
    model.offline = offline

    def refused(*_: object, **options: bool) -> None:
        asked.append(options.get("local_files_only", options.get("offline")))
        raise ModelNotLoaded("not there")

    monkeypatch.setattr("editguard.methods.serac.AutoTokenizer.from_pretrained", refused)
    monkeypatch.setattr("editguard.methods.counterfactual_model.load_model", refused)
    for name in ("classifier_model", "counterfactual_model"):
        with pytest.raises(ModelNotLoaded):
            create("serac", {**QUICK, name: "someone/some-model"}, model)._started_from(model)
    assert asked == [offline, offline]
