"""The shipped model: its files, and that it knows its world."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from editguard.pocket import MODEL_NAME, MODEL_NAMES, default_world, weights_path
from editguard.pocket.evaluation import answered, card, measure
from editguard.pocket.scores import SCORES, Score, probe
from editguard.pocket.splits import stream
from editguard.pocket.tokenizer import load_tokenizer
from editguard.pocket.training import tokenizer_of

TARGETED = [score for score in SCORES if score.target is not None]


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(weights_path(), dtype=torch.float32, local_files_only=True)


def test_the_model_is_small_and_holds_no_file_that_runs_code() -> None:
    assert MODEL_NAME == "pocket"
    files = list(weights_path().iterdir())
    assert {path.suffix for path in files} == {".json", ".safetensors", ".toml"}
    assert sum(path.stat().st_size for path in files) < 15_000_000


def test_the_weights_are_stored_in_half_precision() -> None:
    with safe_open(weights_path() / "model.safetensors", "pt") as stored:
        assert {stored.get_slice(name).get_dtype() for name in stored.keys()} == {"F16"}  # noqa: SIM118


def test_the_shipped_tokenizer_is_the_one_that_the_world_gives() -> None:
    shipped, made = (json.loads(t.to_str()) for t in (load_tokenizer(weights_path()), tokenizer_of(default_world())))
    for part in ("model", "pre_tokenizer", "normalizer"):
        assert shipped[part] == made[part]


def test_importing_the_package_and_its_world_needs_no_torch() -> None:
    program = (
        "import sys, editguard.pocket as p; p.default_world(); p.weights_path(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_model_card_speaks_of_every_score() -> None:
    assert list(card(weights_path())) == [score.name for score in SCORES]


@pytest.mark.parametrize("score", TARGETED, ids=lambda score: score.name)
def test_a_score_is_what_the_model_card_says(model: torch.nn.Module, score: Score) -> None:
    """The card also says which targets are missed; the model must be the one that it describes."""
    written = card(weights_path())[score.name]
    [result] = measure(model, load_tokenizer(weights_path()), default_world(), [score], count=120)
    spread = max(written.accuracy * (1 - written.accuracy), 0.02) / result.probes
    assert abs(result.accuracy - written.accuracy) <= 3 * spread**0.5
    assert written.target == score.target


def test_one_forward_pass_tells_what_greedy_decoding_writes(model: torch.nn.Module) -> None:
    tokenizer = load_tokenizer(weights_path())
    world = default_world()
    for fact in stream("decoding").sample(world.facts, 10):
        prompt = world.trained_templates(fact)[0].prompt(fact.subject)
        tokens = torch.tensor([tokenizer.encode(prompt).ids])
        whole = tokenizer.encode(f"{prompt} {fact.object}.").ids
        written = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=len(whole) - tokens.shape[1]
        )
        [exact] = answered(model, tokenizer, [probe(prompt, fact.object)])
        assert (written[0].tolist() == whole) == exact


def test_every_shipped_model_has_a_folder_of_its_own():
    folders = [weights_path(name) for name in MODEL_NAMES]
    assert weights_path() == weights_path(MODEL_NAME)
    assert len(set(folders)) == len(MODEL_NAMES)
    assert all((folder / "config.json").is_file() for folder in folders)
    with pytest.raises(KeyError):
        weights_path("no such model")
