"""The trained editors that come with the pocket model: for this model, these settings and these cases, and small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import editguard
from editguard.edited import EditedModel
from editguard.methods import Preparation, create, editor_training, methods
from editguard.methods.editor_store import load_editor
from editguard.models import LanguageModel, load_model
from editguard.pocket import T5_MODEL_NAME, weights_path
from editguard.probes.pocket import pocket_cases, pocket_training_cases

FOLDER = weights_path() / "editors"
TRAINED = [info.name for info in methods().values() if info.trains]
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load_model("pocket", device="cpu")


@pytest.mark.parametrize("name", TRAINED)
def test_a_suite_uses_the_shipped_editor_whatever_its_seed_and_trains_nothing(
    name: str, model: LanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """When this fails, train it again by the command that `docs/train-an-editor.md` gives."""
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


@pytest.mark.parametrize("name", TRAINED)
def test_the_record_beside_an_editor_is_its_own(name: str) -> None:
    record: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    state, identity = load_editor(FOLDER / f"{name}.safetensors")
    assert record["identity"] == identity
    assert (identity["method"], identity["seed"]) == (name, 0)
    assert record["best_step"] <= record["steps"]
    assert record["examples"]["trained"] + record["examples"]["validation"] == 2_000
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_editors_and_all_weights_of_the_package_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 10 * MEGABYTE
    package = Path(editguard.__file__).parent
    assert sum(path.stat().st_size for path in package.rglob("*.safetensors")) < 38 * MEGABYTE


@pytest.mark.parametrize("name", TRAINED)
def test_the_embedded_t5_has_settings_with_which_an_editor_is_trained_in_minutes(name: str) -> None:
    settings: Any = create(name, {}, load_model(T5_MODEL_NAME, device="cpu")).settings
    assert settings.steps * settings.edits_per_step <= 4_000
    assert settings.layers == (2, 3, 6, 7)
