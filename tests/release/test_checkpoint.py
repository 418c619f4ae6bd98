"""A checkpoint over its base is the checkpoint, to the bit; what cannot be is refused with what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import zoo
from release.scripted import base, saved
from safetensors.torch import load_file, save_file
from torch import Tensor

from editguard.edited import EditedModel, ReplacedWeights
from editguard.errors import ReleaseError
from editguard.release.candidate import read_candidate

QUICK = ("gpt2", "llama", "gpt_neox", "t5")
"""Conv1D with tied head; untied; a head under another name in files; an encoder with a shared embedding."""
FAMILIES = [*QUICK, *(pytest.param(each, marks=pytest.mark.slow) for each in zoo.ALL if each not in QUICK)]


def changed(folder: Path, into: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    """A copy of a model folder with other tensors."""
    shutil.copytree(folder, into)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, into / "model.safetensors", metadata={"format": "pt"})
    return into


def disturb(tensors: dict[str, Tensor]) -> None:
    """Other values in every third tensor, some of which no sum with the old ones would give."""
    for place, name in enumerate(sorted(tensors)):
        if place % 3 == 0 and tensors[name].is_floating_point() and name != "final_logits_bias":
            flat = tensors[name].view(-1)
            flat[0], flat[1] = -0.0, flat[1] * 1e-12


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("gpt2", tmp_path_factory.mktemp("models") / "gpt2")


@pytest.mark.parametrize("family", FAMILIES)
def test_over_its_base_a_checkpoint_has_its_own_bytes_and_answers_and_leaves_the_base_alone(
    family: str, tmp_path: Path
) -> None:
    folder = saved(family, tmp_path / "base")
    other = changed(folder, tmp_path / "other", disturb)
    model, alone = base(folder), base(other)
    rest = model.weights.digest()
    candidate = read_candidate(other, model)
    assert model.weights.digest() == rest
    prompts = ["The capital of Velloria is", "Ines Holt was born in"]
    edited = candidate.apply(EditedModel.original(model), ())
    with edited:
        assert model.weights.digest() == alone.weights.digest() != rest
        assert edited.next_tokens(prompts) == alone.next_tokens(prompts)
    EditedModel.original(model).activate()
    assert model.weights.digest() == rest
    model.weights.verify()
    [change] = candidate.changes
    assert isinstance(change, ReplacedWeights)
    ours, theirs = (dict(each.module.named_parameters()) for each in (model, alone))
    assert set(change.deltas) == {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert candidate.tells == f"{len(change.deltas)} of {len(ours)} weight tensors differ from the base"


def test_what_identifies_a_candidate_is_its_content(gpt2: Path, tmp_path: Path) -> None:
    def one(tensors: dict[str, Tensor]) -> None:
        tensors["transformer.h.1.mlp.c_proj.weight"][0, 0] += 1

    model = base(gpt2)
    first, second = (changed(gpt2, tmp_path / name, disturb) for name in ("first", "second"))
    third = changed(gpt2, tmp_path / "third", one)
    contents = [read_candidate(each, model).settings.content for each in (first, second, third)]
    assert contents[0] == contents[1] != contents[2]
    assert read_candidate(gpt2, model).changes == ()


def test_a_checkpoint_in_several_files_is_the_same(gpt2: Path, tmp_path: Path) -> None:
    other = changed(gpt2, tmp_path / "other", disturb)
    base(other).module.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    model = base(gpt2)
    contents = [read_candidate(each, model).settings.content for each in (other, tmp_path / "shards")]
    assert contents[0] == contents[1]
    index = tmp_path / "shards" / "model.safetensors.index.json"
    record = json.loads(index.read_text())
    for wrong in ("../other/model.safetensors", "model.bin", "gone.safetensors"):
        record["weight_map"]["transformer.wte.weight"] = wrong
        index.write_text(json.dumps(record))
        with pytest.raises(ReleaseError, match=r"model\.safetensors\.index\.json names"):
            read_candidate(tmp_path / "shards", model)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_values_are_cast_to_the_types_of_the_base(gpt2: Path, tmp_path: Path, dtype: str) -> None:
    other = changed(gpt2, tmp_path / "other", disturb)
    half = changed(other, tmp_path / "half", lambda all_: all_.update({n: t.bfloat16() for n, t in all_.items()}))
    for folder in (other, half):
        model, alone = base(gpt2, dtype), base(folder, dtype)
        with read_candidate(folder, model).apply(EditedModel.original(model), ()):
            assert model.weights.digest() == alone.weights.digest()


def config(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def ends_elsewhere(folder: Path) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": 7}))


def other_words(folder: Path) -> None:
    zoo.tokenizer("llama").save_pretrained(folder)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def gone(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (config(n_head=4), "not the same architecture as .*: config.json differs in n_head"),
        (config(vocab_size=341), "config.json differs in vocab_size"),
        (config(tie_word_embeddings=False), "differs in tie_word_embeddings"),
        (config(model_type="llama"), "not the same architecture"),
        (ends_elsewhere, "generation_config.json differs in eos_token_id"),
        (other_words, "another tokenizer than .*: it differs in content"),
        (pickled, r"pickled weights \(pytorch_model.bin\).*python -c"),
        (adapter, "holds an adapter.*merge_and_unload"),
        (cut, "damaged or cut short"),
        (gone("config.json"), "holds no config.json"),
        (gone("model.safetensors"), "neither model.safetensors nor model.safetensors.index.json"),
    ],
)
def test_a_folder_that_is_no_edit_of_the_base_is_refused(
    gpt2: Path, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    shutil.copytree(gpt2, tmp_path / "other")
    damage(tmp_path / "other")
    with pytest.raises(ReleaseError, match=said) as refused:
        read_candidate(tmp_path / "other", base(gpt2))
    assert "\n" not in str(refused.value)


WTE, HEAD, DOWN = "transformer.wte.weight", "lm_head.weight", "transformer.h.1.mlp.c_proj.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda all_: all_.pop(DOWN), f"lacks 1 tensor of the base, {DOWN}"),
        (lambda all_: all_.update({"patch": torch.ones(1)}), "1 tensor that the base has not, patch"),
        (lambda all_: all_.update({DOWN: all_[DOWN][:, :-1].clone()}), "has the shape .40, 15., the base has .40, 16."),
        (lambda all_: all_.update({DOWN: all_[DOWN].to(torch.int8)}), "stored as torch.int8"),
        (lambda all_: all_.update({DOWN: all_[DOWN] * float("inf")}), "cannot be put into the base.*infinite"),
        (lambda all_: all_.update({HEAD: all_[WTE] + 1}), "uses one matrix as .* has two that differ"),
    ],
)
def test_tensors_that_the_base_cannot_hold_are_refused(
    gpt2: Path, tmp_path: Path, change: Callable[[dict[str, Tensor]], object], said: str
) -> None:
    other = changed(gpt2, tmp_path / "other", change)
    model = base(gpt2)
    rest = model.weights.digest()
    with pytest.raises(ReleaseError, match=said):
        read_candidate(other, model).apply(EditedModel.original(model), ())
    assert model.weights.digest() == rest


def test_tied_weights_that_are_stored_twice_and_equal_are_one(gpt2: Path, tmp_path: Path) -> None:
    def twice(tensors: dict[str, Tensor]) -> None:
        tensors[WTE] = tensors[WTE] * 2
        tensors[HEAD] = tensors[WTE].clone()

    candidate = read_candidate(changed(gpt2, tmp_path / "other", twice), base(gpt2))
    assert [set(change.deltas) for change in candidate.changes] == [{WTE}]  # type: ignore[attr-defined]


def test_a_buffer_that_differs_is_refused(tmp_path: Path) -> None:
    folder = saved("bart", tmp_path / "base")
    other = changed(folder, tmp_path / "other", lambda all_: all_["final_logits_bias"].add_(1))
    with pytest.raises(ReleaseError, match="another final_logits_bias than the base"):
        read_candidate(other, base(folder))


def test_a_folder_without_a_tokenizer_is_read_with_the_bases(gpt2: Path, tmp_path: Path) -> None:
    other = changed(gpt2, tmp_path / "other", disturb)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (other / name).unlink()
    assert read_candidate(other, base(gpt2)).changes
    with pytest.raises(ReleaseError, match="there is no folder"):
        read_candidate(tmp_path / "nowhere", base(gpt2))
