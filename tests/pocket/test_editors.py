"""The trained editors that come with the embedded models: for these models, settings and cases, and small."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import editguard
from editguard.edited import EditedModel
from editguard.methods import Preparation, create, editor_training, methods
from editguard.methods.editor_store import load_editor
from editguard.models import LanguageModel, load_model
from editguard.pocket import MODEL_NAMES, weights_path
from editguard.probes.pocket import pocket_cases, pocket_training_cases

TRAINED = [info.name for info in methods().values() if info.trains]
MEGABYTE = 1_000_000
every_editor = pytest.mark.parametrize(("name", "model_name"), [(name, of) for of in MODEL_NAMES for name in TRAINED])


def folder(model_name: str) -> Path:
    return weights_path(model_name) / "editors"


@cache
def loaded(model_name: str) -> LanguageModel:
    return load_model(model_name, device="cpu")


@every_editor
def test_a_suite_uses_the_shipped_editor_whatever_its_seed_and_trains_nothing(
    name: str, model_name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """When this fails, train it again by the command that `docs/train-an-editor.md` gives."""
    model = loaded(model_name)
    monkeypatch.setattr(editor_training._Job, "start", lambda _: pytest.fail("an editor was trained"))
    lines: list[str] = []
    method = create(name, {}, model)
    data = Preparation(training=pocket_training_cases(), seed=7, cache_dir=tmp_path, on_progress=lines.append)
    method.prepare(model, data)
    assert lines == []
    create(name, {}, model).prepare(model, Preparation())
    case = pocket_cases(1, seed=1)[0]
    edited = method.apply(EditedModel.original(model), [case.request])
    assert edited.edits[0].record["editor"]["seed"] == 0
    before, after = (each.score([(case.request.text, case.request.target)])[0] for each in (edited.prefix(0), edited))
    assert after.mean_log_prob > before.mean_log_prob
    edited.prefix(0).activate()
    model.weights.verify()


@every_editor
def test_the_record_beside_an_editor_is_its_own(name: str, model_name: str) -> None:
    record: dict[str, Any] = json.loads((folder(model_name) / f"{name}.json").read_text())
    state, identity = load_editor(folder(model_name) / f"{name}.safetensors")
    assert record["identity"] == identity
    assert (identity["method"], identity["seed"]) == (name, 0)
    assert record["best_step"] <= record["steps"]
    assert record["examples"]["trained"] + record["examples"]["validation"] == 2_000
    assert all(tensor.isfinite().all() for tensor in state.values())


@pytest.mark.parametrize("model_name", MODEL_NAMES)
def test_the_editors_of_a_model_are_small(model_name: str) -> None:
    assert sum(path.stat().st_size for path in folder(model_name).iterdir()) < 10 * MEGABYTE


def test_all_weights_of_the_package_are_small() -> None:
    package = Path(editguard.__file__).parent
    assert sum(path.stat().st_size for path in package.rglob("*.safetensors")) < 38 * MEGABYTE
