"""Where a trained editor comes from: named, the model's own, cached or trained; and never another model's."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from methods.conftest import training_case

from editguard.edited import EditedModel
from editguard.edits import EditCase, EditRequest
from editguard.errors import CacheError, MethodRefused, MissingMaterial
from editguard.methods import EditMethod, Preparation, create, editor_training, methods
from editguard.methods.editor_store import load_editor
from editguard.methods.protocol import TrainedMethod
from editguard.models import LanguageModel, load_model

QUICK: dict[str, dict[str, Any]] = {
    "mend": {"rank": 4, "statistics_edits": 2, "step_size": 1e-3},
    "ke": {"lstm_width": 4, "code_width": 8, "conditioner_width": 4, "locality_examples": 1, "warm_up": 1},
    "serac": {"classifier_layers": 1, "classifier_width": 8, "false_hits": 1.0},
}
COMMON: dict[str, Any] = {
    "layers": (1, 2),
    "steps": 6,
    "edits_per_step": 2,
    "edits_per_pass": 2,
    "validation_edits": 2,
    "validate_every": 2,
}
trained_methods = pytest.mark.parametrize("name", [info.name for info in methods().values() if info.trains])


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that are trained while the test runs."""
    done: list[int] = []
    real = editor_training._Job.step

    def counted(job: Any) -> None:
        done.append(job.position.step)
        real(job)

    monkeypatch.setattr(editor_training._Job, "step", counted)
    return done


def method_for(name: str, model: LanguageModel, **changes: Any) -> EditMethod:
    settings_type: Any = methods()[name].settings_type
    known = {field.name for field in fields(settings_type)}
    common = {setting: value for setting, value in COMMON.items() if setting in known}
    return create(name, {**common, **QUICK[name], **changes}, model)


def scores(method: EditMethod, model: LanguageModel, facts: Sequence[EditRequest]) -> list[tuple[float, ...]]:
    with method.apply(EditedModel.original(model), facts[:1]) as edited:
        return [each.log_probs for each in edited.score([(fact.text, fact.target) for fact in facts])]


@trained_methods
def test_an_editor_is_trained_once_and_found_in_the_cache_afterwards(
    name: str, tmp_path: Path, training: tuple[EditCase, ...], facts: tuple[EditRequest, ...], steps: list[int]
) -> None:
    model = zoo.tiny("gpt2")
    data = Preparation(training=training, cache_dir=tmp_path)
    first = method_for(name, model)
    first.prepare(model, data)
    assert steps == list(range(6))
    first.prepare(model, data)
    first.prepare(model, Preparation())
    later, again = zoo.tiny("gpt2"), method_for(name, model)
    again.prepare(later, data)
    assert steps == list(range(6))
    assert scores(again, later, facts) == scores(first, model, facts)
    in_memory = method_for(name, model)
    in_memory.prepare(model, replace(data, cache_dir=None))
    assert len(steps) == 12
    assert scores(in_memory, model, facts) == scores(first, model, facts)
    [file] = (tmp_path / "editors").glob("*.safetensors")
    record = json.loads(file.with_suffix(".json").read_text())
    assert record["examples"] == {"trained": 7, "validation": 1, "without_rephrase": 0}
    assert set(record["memory_bytes"]) == {"base", "editor", "optimiser", "activations"}
    assert record["environment"]["torch"] == torch.__version__
    assert [line["step"] for line in record["history"]] == [0, 2, 4, 6]
    assert record["identity"]["model"] == model.fingerprint()
    assert record["seconds"] >= 0
    assert record["editor"]


@trained_methods
def test_a_training_that_is_killed_goes_on_and_ends_with_the_same_bytes(
    name: str, tmp_path: Path, training: tuple[EditCase, ...], monkeypatch: pytest.MonkeyPatch, steps: list[int]
) -> None:
    model = zoo.tiny("llama")
    for folder in ("whole", "killed"):
        if folder == "killed":
            real = editor_training._Job._apply

            def dying(job: Any, gradients: Any, real: Any = real) -> None:
                if job.position.step == 5:
                    raise KeyboardInterrupt
                real(job, gradients)

            monkeypatch.setattr(editor_training._Job, "_apply", dying)
            with pytest.raises(KeyboardInterrupt):
                method_for(name, model).prepare(model, Preparation(training=training, cache_dir=tmp_path / folder))
            monkeypatch.undo()
            assert [path.suffix for path in (tmp_path / folder / "editors").glob("[!.]*")] == [".unfinished"]
        method_for(name, model).prepare(model, Preparation(training=training, cache_dir=tmp_path / folder))
    files = {folder: sorted((tmp_path / folder / "editors").glob("[!.]*")) for folder in ("whole", "killed")}
    assert [path.name for path in files["whole"]] == [path.name for path in files["killed"]]
    assert files["whole"][1].read_bytes() == files["killed"][1].read_bytes()


@pytest.mark.parametrize("change", ["model", "settings", "data", "seed", "layers"])
def test_whatever_determines_an_editor_is_in_its_key(
    change: str, tmp_path: Path, training: tuple[EditCase, ...], steps: list[int]
) -> None:
    model = zoo.tiny("gpt2")
    data = Preparation(training=training, cache_dir=tmp_path)
    method_for("mend", model).prepare(model, data)
    other, changes = model, {}
    if change == "model":
        other = zoo.tiny("gpt2", seed=1)
    elif change == "data":
        data = replace(data, training=training[:-1])
    elif change == "seed":
        data = replace(data, seed=1)
    else:
        changes = {"settings": {"edit_weight": 0.2}, "layers": {"layers": (0, 1)}}[change]
    method_for("mend", other, **changes).prepare(other, data)
    assert len(steps) == 12
    assert len(list((tmp_path / "editors").glob("*.safetensors"))) == 2


def test_new_data_or_another_seed_replace_the_editor_of_an_instance(
    training: tuple[EditCase, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("gpt2")
    method = method_for("mend", model)
    found = []
    for data in (
        Preparation(training=training),
        Preparation(training=training, seed=1),
        Preparation(training=training),
    ):
        method.prepare(model, data)
        found.append(scores(method, model, facts))
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_is_that_of_the_matrices_alone_and_the_same_from_training_and_from_the_file(
    kind: str, tmp_path: Path, training: tuple[EditCase, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("gpt2")
    found = []
    for _ in range(2):
        method = method_for("mend", model, stored_type=kind)
        method.prepare(model, Preparation(training=training, cache_dir=tmp_path))
        found.append(scores(method, model, facts))
    assert found[0] == found[1]
    [path] = (tmp_path / "editors").glob("*.safetensors")
    state, _ = load_editor(path)
    wanted: torch.dtype = getattr(torch, kind)
    for name, tensor in state.items():
        exact = torch.float64 if name.endswith(("mean", "squares")) else torch.float32
        assert tensor.dtype == (wanted if tensor.ndim == 2 else torch.int64 if name.endswith("count") else exact), name


# ---- files that are named, and the model's own


@trained_methods
def test_a_named_editor_is_used_without_any_training_data_and_refused_for_another_model(
    name: str, tmp_path: Path, training: tuple[EditCase, ...], facts: tuple[EditRequest, ...], steps: list[int]
) -> None:
    model = zoo.tiny("gpt2")
    method = method_for(name, model)
    assert isinstance(method, TrainedMethod)
    path = method.train(model, Preparation(training=training), tmp_path / "out")
    assert path == tmp_path / "out" / f"{name}.safetensors"
    wanted = scores(method, model, facts)
    named = method_for(name, model, editor=str(path))
    named.prepare(model, Preparation())
    assert scores(named, model, facts) == wanted
    other = zoo.tiny("gpt2", seed=1)
    with pytest.raises(MethodRefused, match=f"cannot use the trained editor {path}: it was trained for the model"):
        method_for(name, other, editor=str(path)).prepare(other, Preparation(training=training))
    with pytest.raises(MethodRefused, match="it was trained with steps = 6, the setting is 7"):
        method_for(name, model, editor=str(path), steps=7).prepare(model, Preparation())
    with pytest.raises(CacheError, match="there is no trained editor"):
        method_for(name, model, editor=str(tmp_path / "none")).prepare(model, Preparation())
    assert len(steps) == 6


def test_training_into_a_folder_that_holds_another_editor_is_refused_and_the_same_one_is_kept(
    tmp_path: Path, training: tuple[EditCase, ...], steps: list[int]
) -> None:
    model = zoo.tiny("gpt2")
    method: Any = method_for("mend", model)
    path = method.train(model, Preparation(training=training), tmp_path)
    before = path.read_bytes()
    assert method.train(model, Preparation(training=training), tmp_path) == path
    assert len(steps) == 6
    with pytest.raises(CacheError, match=r"mend\.safetensors is of another editor: it was trained on other cases"):
        method.train(model, Preparation(training=training[1:]), tmp_path)
    assert path.read_bytes() == before


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with a model, to which an editor can be added."""
    model = zoo.tiny("gpt2")
    model.module.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_model_brings_its_own_editor(
    saved: Path, tmp_path: Path, training: tuple[EditCase, ...], facts: tuple[EditRequest, ...], steps: list[int]
) -> None:
    model = load_model(saved, device="cpu")
    trainer: Any = method_for("mend", model)
    trainer.train(model, Preparation(training=training), saved / "editors")
    assert len(steps) == 6
    lines: list[str] = []
    for data in (Preparation(), Preparation(training=training), Preparation(training=training, seed=5)):
        method = method_for("mend", model)
        method.prepare(model, replace(data, on_progress=lines.append))
        assert scores(method, model, facts) == scores(trainer, model, facts)
    assert len(steps) == 6
    assert lines == []
    for change, data, said in (
        ({}, Preparation(training=training[1:]), "it was trained on other cases"),
        ({"edit_weight": 0.3}, Preparation(training=training), "it was trained with edit_weight = 0.1"),
    ):
        before = len(steps)
        method_for("mend", model, **change).prepare(model, replace(data, on_progress=lines.append))
        assert len(steps) == before + 6
        assert any("is not used" in line and said in line for line in lines)
    with pytest.raises(MissingMaterial, match="--editguard-training"):
        method_for("mend", model, edit_weight=0.3).prepare(model, Preparation())


def test_the_editor_of_a_model_that_was_changed_since_is_not_used(
    saved: Path, tmp_path: Path, training: tuple[EditCase, ...], steps: list[int]
) -> None:
    model = load_model(saved, device="cpu")
    trainer: Any = method_for("mend", model)
    trainer.train(model, Preparation(training=training), saved / "editors")
    shutil.copytree(saved, tmp_path / "copy")
    changed = zoo.tiny("gpt2", seed=1)
    changed.module.save_pretrained(tmp_path / "copy")
    other = load_model(tmp_path / "copy", device="cpu")
    lines: list[str] = []
    method_for("mend", other).prepare(other, Preparation(training=training, on_progress=lines.append))
    assert len(steps) == 12
    assert "it was trained for the model" in lines[0]


def test_a_damaged_editor_in_the_cache_is_one_clear_error(tmp_path: Path, training: tuple[EditCase, ...]) -> None:
    model = zoo.tiny("gpt2")
    data = Preparation(training=training, cache_dir=tmp_path)
    method_for("mend", model).prepare(model, data)
    [path] = (tmp_path / "editors").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CacheError, match=r"is damaged .*: remove it, and train again"):
        method_for("mend", model).prepare(model, data)
    path.unlink()
    method_for("mend", model).prepare(model, data)


@trained_methods
def test_edits_in_force_do_not_get_into_the_training(
    name: str, training: tuple[EditCase, ...], facts: tuple[EditRequest, ...]
) -> None:
    model, other = zoo.tiny("gpt2"), zoo.tiny("gpt2")
    data = Preparation(training=training)
    method = method_for(name, model)
    method.prepare(other, data)
    wanted = scores(method, other, facts)
    earlier = create("ft", {"layer": 1, "step_size": 0.05}, model).apply(EditedModel.original(model), facts[1:2])
    with earlier:
        fresh = method_for(name, model)
        fresh.prepare(model, data)
        assert tuple(model.installed) == earlier.changes
    assert scores(fresh, model, facts) == wanted


def test_a_single_subject_is_too_few_and_nothing_is_written(tmp_path: Path) -> None:
    model = zoo.tiny("gpt2")
    with pytest.raises(MissingMaterial, match="about 1 subject"):
        method_for("mend", model).prepare(model, Preparation(training=[training_case(1)], cache_dir=tmp_path))
    assert not list(tmp_path.rglob("*.safetensors"))
