"""A tiny run: interrupted or not, planned longer or not, the weights are the same to the last bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from editguard.pocket.architecture import EncoderDecoderShape, Shape, train_with_float32_attention
from editguard.pocket.checkpoints import newest, position_of
from editguard.pocket.corpus import Amounts
from editguard.pocket.decoder import sites_without_mlp
from editguard.pocket.evaluation import answered
from editguard.pocket.kinds import KINDS
from editguard.pocket.schedule import Schedule
from editguard.pocket.scores import probe
from editguard.pocket.sequence_pairs import PairBatch, encode_pairs, group_of, pair_of
from editguard.pocket.settings import SIZES, Settings, settings_of
from editguard.pocket.training import export_checkpoint, model_for, optimizers_for, tokenizer_of, train
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
TINY_T5 = replace(
    TINY, shape=EncoderDecoderShape(encoder_layers=2, decoder_layers=1, d_model=16, heads=2, d_head=8, d_ff=32)
)
TINY_OPT = replace(TINY, shape=replace(TINY.shape, family="opt"))
BOTH = pytest.mark.parametrize("settings", [TINY, TINY_T5], ids=["decoder", "t5"])

Weights = dict[str, torch.Tensor]


def weights(run: Path, settings: Settings, *, until: int | None = None) -> Weights:
    model = train(run, settings, checkpoint_every=2, until=until)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(one: Weights, other: Weights) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@BOTH
def test_a_run_that_was_interrupted_ends_with_identical_weights(tmp_path: Path, settings: Settings) -> None:
    straight = weights(tmp_path / "straight", settings)
    weights(tmp_path / "run", settings, until=5)
    found = newest(tmp_path / "run")
    assert found is not None
    assert position_of(found).step == 5
    assert same(weights(tmp_path / "run", settings), straight)


@pytest.mark.slow
def test_a_run_planned_longer_can_be_brought_to_an_end_earlier(tmp_path: Path) -> None:
    straight = weights(tmp_path / "straight", TINY)
    weights(tmp_path / "run", replace(TINY, steps=20), until=9)
    found = newest(tmp_path / "run", TINY.schedule)
    assert found is not None
    assert position_of(found).step == 6  # where the fall begins when there are 8 steps
    assert same(weights(tmp_path / "run", TINY), straight)


@pytest.mark.slow
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


def test_a_run_of_the_other_model_is_refused(tmp_path: Path) -> None:
    weights(tmp_path, TINY, until=2)
    with pytest.raises(ValueError, match="the model decoder-3-16-2-32-1280, not t5-"):
        train(tmp_path, TINY_T5)
    with pytest.raises(ValueError, match="not opt-3-16-2-32-1280"):
        train(tmp_path, TINY_OPT)


def test_checkpoints_hold_safetensors_and_json_only_and_nothing_half_written(tmp_path: Path) -> None:
    weights(tmp_path, TINY, until=2)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json", ".jsonl"}
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize(("settings", "family"), [(TINY, "gpt_neox"), (TINY_OPT, "opt")], ids=("decoder", "opt"))
def test_an_exported_model_is_half_precision_tied_and_loads_offline(
    tmp_path: Path, settings: Settings, family: str
) -> None:
    weights(tmp_path / "run", settings, until=2)
    found = newest(tmp_path / "run")
    assert found is not None
    export_checkpoint(found, tmp_path / "model", settings)
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", local_files_only=True)
    assert (model.dtype, model.config.model_type) == (torch.float16, family)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert json.loads((tmp_path / "model" / "generation_config.json").read_text())["do_sample"] is False


def test_an_exported_encoder_decoder_is_half_precision_tied_and_loads_offline(tmp_path: Path) -> None:
    weights(tmp_path / "run", TINY_T5, until=2)
    found = newest(tmp_path / "run")
    assert found is not None
    export_checkpoint(found, tmp_path / "model", TINY_T5)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model", dtype=torch.float16, local_files_only=True)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "float16"
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model", local_files_only=True)
    start = model.generation_config.decoder_start_token_id
    assert start == model.config.decoder_start_token_id == tokenizer.pad_token_id
    assert tokenizer("The capital of it is").input_ids[-1] == tokenizer.eos_token_id == model.config.eos_token_id


def test_muon_gets_every_matrix_inside_the_blocks_and_no_table() -> None:
    for settings in (TINY, TINY_OPT, TINY_T5):
        model = model_for(tokenizer_of(World(5, settings.world)), settings)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        by_optimizer = {
            label: {names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]}
            for label, optimizer in optimizers_for(model, settings).items()
        }
        assert set(names.values()) == by_optimizer["muon"] | by_optimizer["adamw"]
        assert not by_optimizer["muon"] & by_optimizer["adamw"]
        modules = {name: type(model.get_submodule(name.rpartition(".")[0])) for name in names.values()}
        linear = {n for n, kind in modules.items() if kind is torch.nn.Linear and n.endswith(".weight")}
        assert by_optimizer["muon"] == linear - {"lm_head.weight", "embed_out.weight"}


def test_an_encoder_decoder_learns_a_handful_of_facts_by_heart() -> None:
    world = World(5, TINY.world)
    tokenizer = tokenizer_of(world)
    settings = replace(TINY_T5, warm_up=10, learning_rate=5e-3, embedding_learning_rate=2e-2)
    model = model_for(tokenizer, settings)
    facts = [probe(world.trained_templates(f)[0].prompt(f.subject), f.object) for f in world.of_relation("capital")]
    group = group_of(encode_pairs(tokenizer, [p for f in facts if (p := pair_of(f)) is not None]), 1)
    assert not any(answered(model, tokenizer, facts))
    optimizers = optimizers_for(model, settings)
    for _ in range(120):
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        KINDS["t5"].backward(model, PairBatch((group,)), settings, 0)
        for optimizer in optimizers.values():
            optimizer.step()
    assert all(answered(model, tokenizer, facts))


@pytest.mark.parametrize(
    ("settings", "last"), [(TINY, "gpt_neox.layers.2.mlp"), (TINY_OPT, "model.decoder.layers.2.fc2")]
)
def test_sites_without_mlp_see_no_later_mlp_and_others_all(settings: Settings, last: str) -> None:
    model = model_for(tokenizer_of(World(5, TINY.world)), settings)
    tokens = torch.arange(6).unsqueeze(0) + 5
    sites = torch.tensor([[False, False, True, False, False, False]])
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(last).register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with sites_without_mlp(model, sites, 2):
        changed = model(input_ids=tokens).logits
    handle.remove()
    plain = model(input_ids=tokens).logits
    torch.testing.assert_close(changed[:, :2], plain[:, :2])
    torch.testing.assert_close(changed[:, 3:], plain[:, 3:])  # the last MLP of a token reaches no later token
    assert not torch.equal(changed[:, 2], plain[:, 2])
    torch.testing.assert_close(model(input_ids=tokens).logits, plain)


@pytest.mark.parametrize("settings", [TINY, TINY_OPT], ids=("decoder", "opt"))
def test_attention_in_training_is_the_models_own(settings: Settings) -> None:
    model = model_for(tokenizer_of(World(5, TINY.world)), settings)
    tokens = torch.arange(12).reshape(2, 6) + 5
    own = model(input_ids=tokens).logits
    train_with_float32_attention(model)
    torch.testing.assert_close(model(input_ids=tokens).logits, own)


def test_sizes_grow_and_the_shipped_models_keep_their_names() -> None:
    vocabulary = tokenizer_of(World(5, TINY.world))
    chosen = [settings_of("decoder", size=size) for size in SIZES]
    parameters = [sum(each.numel() for each in model_for(vocabulary, each).parameters()) for each in chosen]
    assert parameters == sorted(set(parameters))
    assert settings_of("decoder") == Settings()
    assert len({settings_of("opt", size=size).name for size in SIZES} | {each.name for each in chosen}) == 2 * len(
        SIZES
    )
    assert (settings_of("decoder").name, settings_of("t5").name) == ("decoder", "t5")
    with pytest.raises(ValueError, match="one size"):
        settings_of("t5", size="small")
