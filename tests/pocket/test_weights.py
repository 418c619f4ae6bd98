"""The shipped models: their files, and that they know their world."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping

import pytest
import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from editguard.pocket import MODEL_NAME, MODEL_NAMES, T5_MODEL_NAME, default_world, weights_path
from editguard.pocket.evaluation import answered, card, load, measure
from editguard.pocket.scores import SCORES, T5_SCORES, Score, probe
from editguard.pocket.splits import stream
from editguard.pocket.tokenizer import load_tokenizer, special_ids
from editguard.pocket.training import tokenizer_of

ASKED: Mapping[str, tuple[Score, ...]] = {MODEL_NAME: SCORES, T5_MODEL_NAME: T5_SCORES}
TARGETED = [(name, score) for name, scores in ASKED.items() for score in scores if score.target is not None]
LARGEST = 8_000_000
"""Bytes of a model folder."""
LARGEST_EDITORS = 10_000_000
"""Bytes of all editors that come with a model."""


@pytest.fixture(scope="module")
def models() -> Mapping[str, PreTrainedModel]:
    return {name: load(weights_path(name)) for name in MODEL_NAMES}


def test_the_models_go_by_these_names_and_have_folders_of_their_own() -> None:
    assert MODEL_NAMES == ("pocket", "pocket-t5")
    assert weights_path() == weights_path(MODEL_NAME)
    assert len({weights_path(name) for name in MODEL_NAMES}) == len(MODEL_NAMES)
    with pytest.raises(KeyError):
        weights_path("no such model")


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_model_is_small_and_holds_no_file_that_runs_code(name: str) -> None:
    files = [path for path in weights_path(name).iterdir() if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".toml"}
    assert sum(path.stat().st_size for path in files) <= LARGEST


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_trained_editors_of_a_model_are_small_and_hold_no_file_that_runs_code(name: str) -> None:
    files = list((weights_path(name) / "editors").glob("*"))
    assert {path.suffix for path in files} <= {".json", ".safetensors"}
    assert sum(path.stat().st_size for path in files) <= LARGEST_EDITORS


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_weights_are_stored_in_half_precision_each_once(name: str, models: Mapping[str, PreTrainedModel]) -> None:
    with safe_open(weights_path(name) / "model.safetensors", "pt") as stored:
        tensors = {key: stored.get_slice(key) for key in stored.keys()}  # noqa: SIM118
    assert {tensor.get_dtype() for tensor in tensors.values()} == {"F16"}
    assert set(tensors) == {key for key, _ in models[name].named_parameters()}


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_shipped_tokenizer_is_the_one_that_the_world_gives(name: str) -> None:
    shipped, made = (
        json.loads(tokenizer.to_str())
        for tokenizer in (load_tokenizer(weights_path(name)), tokenizer_of(default_world()))
    )
    for part in ("model", "pre_tokenizer", "normalizer"):
        assert shipped[part] == made[part]


def test_importing_the_package_and_its_world_needs_no_torch() -> None:
    program = (
        "import sys, editguard.pocket as p; p.default_world(); p.weights_path(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_model_card_speaks_of_every_score(name: str) -> None:
    assert list(card(weights_path(name))) == [score.name for score in ASKED[name]]


@pytest.mark.parametrize(("name", "score"), TARGETED, ids=[f"{name}: {score.name}" for name, score in TARGETED])
def test_a_score_is_what_the_model_card_says(models: Mapping[str, PreTrainedModel], name: str, score: Score) -> None:
    """The card also says which targets are missed; the model must be the one that it describes."""
    written = card(weights_path(name))[score.name]
    [result] = measure(models[name], load_tokenizer(weights_path(name)), default_world(), [score], count=120)
    spread = max(written.accuracy * (1 - written.accuracy), 0.02) / result.probes
    assert abs(result.accuracy - written.accuracy) <= 3 * spread**0.5
    assert written.target == score.target


def test_one_forward_pass_tells_what_greedy_decoding_writes(models: Mapping[str, PreTrainedModel]) -> None:
    tokenizer = load_tokenizer(weights_path())
    world = default_world()
    for fact in stream("decoding").sample(world.facts, 10):
        prompt = world.trained_templates(fact)[0].prompt(fact.subject)
        tokens = torch.tensor([tokenizer.encode(prompt).ids])
        whole = tokenizer.encode(f"{prompt} {fact.object}.").ids
        written = models[MODEL_NAME].generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=len(whole) - tokens.shape[1]
        )
        [exact] = answered(models[MODEL_NAME], tokenizer, [probe(prompt, fact.object)])
        assert (written[0].tolist() == whole) == exact


def test_one_forward_pass_tells_what_the_encoder_decoder_writes(models: Mapping[str, PreTrainedModel]) -> None:
    """Also of wordings that nobody was trained in: some of the answers are wrong."""
    tokenizer = load_tokenizer(weights_path(T5_MODEL_NAME))
    _, pad = special_ids(tokenizer)
    world = default_world()
    outcomes = set()
    for fact in stream("decoding").sample(world.facts, 20):
        for template in (world.trained_templates(fact)[0], world.unseen_template(fact.relation)):
            prompt = template.prompt(fact.subject)
            tokens = torch.tensor([tokenizer.encode(prompt).ids])
            whole = tokenizer.encode(f" {fact.object}.").ids
            written = models[T5_MODEL_NAME].generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=len(whole)
            )
            [exact] = answered(models[T5_MODEL_NAME], tokenizer, [probe(prompt, fact.object)])
            assert (written[0].tolist() == [pad, *whole]) == exact
            outcomes.add(exact)
    assert outcomes == {False, True}


def test_an_encoder_decoder_is_asked_one_answer_at_the_end_of_a_document(
    models: Mapping[str, PreTrainedModel],
) -> None:
    tokenizer = load_tokenizer(weights_path(T5_MODEL_NAME))
    traces = [score for score in SCORES if score.name.startswith("sub-questions")]
    with pytest.raises(ValueError, match="one answer"):
        list(measure(models[T5_MODEL_NAME], tokenizer, default_world(), traces, count=6))
