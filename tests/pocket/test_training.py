"""A tiny run: interrupted or not, planned longer or not, the weights are the same to the last bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from editguard.pocket.architecture import Shape
from editguard.pocket.checkpoints import newest, position_of
from editguard.pocket.corpus import Amounts
from editguard.pocket.decoder import sites_without_mlp
from editguard.pocket.schedule import Schedule
from editguard.pocket.settings import Settings
from editguard.pocket.training import export_checkpoint, model_for, tokenizer_of, train
from editguard.pocket.world import World, WorldSize

TINY = Settings(
    seed=5,
    steps=8,
    warm_up=2,
    shape=Shape(layers=3, d_model=16, heads=2, d_ff=32),
    world=WorldSize(
        people=40,
        first_names=12,
        last_names=12,
        cities=8,
        countries=3,
        universities=4,
        companies=5,
        languages=4,
        currencies=4,
    ),
    amounts=Amounts(
        contexts=60, yes_no=20, direct=20, reasoned=20, demonstrations=4, traces=8, items_of_each_task=5, ordinary=5
    ),
)

Weights = dict[str, torch.Tensor]


def weights(run: Path, settings: Settings, *, until: int | None = None) -> Weights:
    model = train(run, settings, checkpoint_every=2, until=until)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(one: Weights, other: Weights) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return weights(tmp_path_factory.mktemp("straight"), TINY)


def test_a_run_that_was_interrupted_ends_with_identical_weights(straight: Weights, tmp_path: Path) -> None:
    weights(tmp_path, TINY, until=5)
    found = newest(tmp_path)
    assert found is not None
    assert position_of(found).step == 5
    assert same(weights(tmp_path, TINY), straight)


def test_a_run_planned_longer_can_be_brought_to_an_end_earlier(straight: Weights, tmp_path: Path) -> None:
    weights(tmp_path, replace(TINY, steps=20), until=9)
    found = newest(tmp_path, TINY.schedule)
    assert found is not None
    assert position_of(found).step == 6  # where the fall begins when there are 8 steps
    assert same(weights(tmp_path, TINY), straight)


def test_a_checkpoint_of_the_fall_belongs_to_its_own_length_only(tmp_path: Path) -> None:
    weights(tmp_path, TINY)
    for steps, expected in ((8, 8), (20, 6), (4, 2)):
        found = newest(tmp_path, Schedule(steps, TINY.warm_up))
        assert found is not None
        assert position_of(found).step == expected


def test_another_seed_is_refused(tmp_path: Path) -> None:
    weights(tmp_path, TINY, until=2)
    with pytest.raises(ValueError, match="seed 5"):
        train(tmp_path, replace(TINY, seed=6))


def test_checkpoints_hold_safetensors_and_json_only_and_nothing_half_written(tmp_path: Path) -> None:
    weights(tmp_path, TINY, until=2)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json", ".jsonl"}
    assert not list(tmp_path.rglob(".*"))


def test_an_exported_model_is_half_precision_tied_and_loads_offline(tmp_path: Path) -> None:
    weights(tmp_path / "run", TINY, until=2)
    found = newest(tmp_path / "run")
    assert found is not None
    export_checkpoint(found, tmp_path / "model", TINY)
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", local_files_only=True)
    assert model.dtype == torch.float16
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert json.loads((tmp_path / "model" / "generation_config.json").read_text())["do_sample"] is False


def test_sites_without_mlp_see_no_later_mlp_and_others_all() -> None:
    model = model_for(tokenizer_of(World(5, TINY.world)), TINY)
    tokens = torch.arange(6).unsqueeze(0) + 5
    sites = torch.tensor([[False, False, True, False, False, False]])
    seen: list[torch.Tensor] = []
    handle = model.get_submodule("gpt_neox.layers.2.mlp").register_forward_hook(
        lambda _module, _inputs, output: seen.append(output)
    )
    with sites_without_mlp(model, sites, 2):
        changed = model(input_ids=tokens).logits
    handle.remove()
    plain = model(input_ids=tokens).logits
    torch.testing.assert_close(changed[:, :2], plain[:, :2])
    torch.testing.assert_close(changed[:, 3:], plain[:, 3:])  # the last MLP of a token reaches no later token
    assert not torch.equal(changed[:, 2], plain[:, 2])
    torch.testing.assert_close(model(input_ids=tokens).logits, plain)
