"""Settings that ask for what a causal trace has found: taken from a trace of this very model, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from editguard.errors import InvalidSettings
from editguard.methods.memit import Memit
from editguard.methods.rome import Rome
from editguard.methods.settings import Shape, resolve

SUGGESTION = {"kind": "mlp", "layer": 2, "layers": [1, 2], "effects": [0.1, 0.2, 0.3, 0.0], "facts": 7, "warning": ""}


def trace(path: Path, *, fingerprint: str = "of this model", **suggestion: Any) -> Path:
    record = {"model": "m", "fingerprint": fingerprint, "suggestion": {**SUGGESTION, **suggestion}}
    path.write_text(json.dumps(record))
    return path


def shape(directory: Path | None = None) -> Shape:
    return Shape("gpt2", 4, 16, directory, fingerprint=lambda: "of this model")


def test_the_suggestion_takes_the_place_of_the_rule_by_depth_and_is_reported_as_derived(tmp_path: Path) -> None:
    file = trace(tmp_path / "trace.json")
    one = resolve("rome", Rome.recipe, {"layer": f"traced:{file}"}, shape())
    more = resolve("memit", Memit.recipe, {"layers": f"traced: {file}"}, shape())
    assert (one.settings.layer, more.settings.layers) == (2, (1, 2))
    assert one.provenance["layer"] == f"derived by tracing: {file}, effect 0.3 of the mlp over 7 facts"
    assert "effect 0.5 of the mlp over 7 facts" in more.provenance["layers"]


def test_the_model_s_own_folder_may_ask_for_a_trace_that_lies_beside_it(tmp_path: Path) -> None:
    trace(tmp_path / "trace.json")
    (tmp_path / "editguard.toml").write_text('[methods.rome]\nlayer = "traced:trace.json"\n')
    found = resolve("rome", Rome.recipe, {}, shape(tmp_path))
    assert found.settings.layer == 2
    assert found.provenance["layer"].startswith("derived by tracing: trace.json")


def test_a_trace_that_doubts_its_peak_is_taken_with_its_warning(tmp_path: Path) -> None:
    file = trace(tmp_path / "trace.json", warning="the effect is flat")
    with pytest.warns(RuntimeWarning, match=r"rome .*layer = 2 .*the effect is flat"):
        assert resolve("rome", Rome.recipe, {"layer": f"traced:{file}"}, shape()).settings.layer == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"there is no such file\). Write it with `editguard trace --json"),
        ("{", "cannot be read"),
        ("[]", "is no trace"),
        ('{"suggestion": {"layer": 1}}', "is no trace"),
    ],
)
def test_a_file_that_is_no_trace_is_refused_by_name(content: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InvalidSettings, match=message) as refusal:
        resolve("rome", Rome.recipe, {"layer": f"traced:{file}"}, shape())
    assert str(file) in str(refusal.value)
    assert "rome (override)" in str(refusal.value)


def test_a_trace_of_other_weights_is_never_used(tmp_path: Path) -> None:
    file = trace(tmp_path / "trace.json", fingerprint="of another one")
    with pytest.raises(InvalidSettings, match="a trace of other weights"):
        resolve("rome", Rome.recipe, {"layer": f"traced:{file}"}, shape())


def test_only_layers_can_be_traced_and_only_where_there_is_a_model(tmp_path: Path) -> None:
    file = trace(tmp_path / "trace.json")
    with pytest.raises(InvalidSettings, match="tracing tells layer and layers, not 'steps'"):
        resolve("rome", Rome.recipe, {"steps": f"traced:{file}"}, shape())
    with pytest.raises(InvalidSettings, match="needs a model"):
        resolve("rome", Rome.recipe, {"layer": f"traced:{file}"}, None)
