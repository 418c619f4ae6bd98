"""`editguard train`, from its arguments to its files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zoo
from methods.conftest import training_case

from editguard.cli import main
from editguard.datasets.jsonl import write_cases
from editguard.methods import Preparation, create, editor_training, methods
from editguard.methods.editor_store import load_editor
from editguard.methods.mend import Mend
from editguard.pocket import MODEL_NAMES
from editguard.probes.pocket import pocket_training_cases

TRAINED = [info.name for info in methods().values() if info.trains]
QUICK = {
    "mend": ("layers=1,2", "rank=4", "statistics_edits=2"),
    "ke": ("layers=1,2", "lstm_width=4", "code_width=8", "conditioner_width=4", "locality_examples=1"),
    "serac": ("edits_per_pass=2", "classifier_layers=1", "classifier_width=8"),
}
COMMON = ("edits_per_step=2", "validation_edits=2")
CASES = tuple(training_case(number) for number in range(8))


def given(name: str) -> list[str]:
    return [part for setting in (*COMMON, *QUICK[name]) for part in ("--set", setting)]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the command on a tiny model and a file of cases."""
    monkeypatch.setattr("editguard.models.loading.load_model", lambda *_, **__: zoo.tiny("gpt2"))
    write_cases(tmp_path / "cases.jsonl", CASES)

    def run(name: str, *arguments: str) -> int:
        basis = ["train", name, "--model", "tiny", "--data", str(tmp_path / "cases.jsonl"), "--steps", "4"]
        return main([*basis, "--cache-dir", str(tmp_path / "cache"), *given(name), *arguments])

    return run


@pytest.mark.parametrize("name", TRAINED)
def test_an_editor_is_trained_and_found_by_the_method_with_the_same_cases(
    name: str, command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    assert command(name) == 0
    said = capsys.readouterr()
    [path] = (tmp_path / "cache" / "editors").glob("*.safetensors")
    assert f"trained {path}" in said.out
    assert f"editguard train: {name}: validation at step 4" in said.err
    monkeypatch.setattr(editor_training._Job, "step", lambda _: pytest.fail("it was trained again"))
    settings = dict(setting.split("=") for setting in (*COMMON, *QUICK[name]))
    model = zoo.tiny("gpt2")
    method = create(name, {**settings, "steps": 4}, model)
    method.prepare(model, Preparation(training=CASES, cache_dir=tmp_path / "cache"))
    assert command(name) == 0


def test_an_editor_in_a_folder_is_named_with_the_setting_that_uses_it(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("mend", "--out", str(tmp_path / "out"), "--seed", "3") == 0
    path = tmp_path / "out" / "mend.safetensors"
    assert f"[tool.editguard.methods.mend] editor = '{path}'" in capsys.readouterr().out
    assert path.with_suffix(".json").is_file()
    assert load_editor(path)[1]["seed"] == 3
    assert load_editor(path)[1]["settings"]["steps"] == 4
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_embedded_models_bring_their_training_cases(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Preparation] = []

    def trained(_: Any, model: Any, data: Preparation, out: Path | None) -> Path:
        assert (model.name, out) == (name, None)
        seen.append(data)
        return Path("mend.safetensors")

    monkeypatch.setattr(Mend, "train", trained)
    assert main(["train", "mend", "--model", name]) == 0
    assert tuple(seen[0].training) == pocket_training_cases()


def test_an_interruption_says_how_to_go_on_and_the_same_command_does(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = editor_training._Job._apply

    def stopped(job: Any, gradients: Any) -> None:
        if job.position.step == 3:
            raise KeyboardInterrupt
        real(job, gradients)

    monkeypatch.setattr(editor_training._Job, "_apply", stopped)
    every = ("--set", "validate_every=2")
    assert command("mend", *every) == 130
    assert "the last checkpoint is kept. Go on with: editguard" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr("editguard.models.loading.load_model", lambda *_, **__: zoo.tiny("gpt2"))
    assert command("mend", *every) == 0
    assert "mend: going on at step 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("rome",), f"has nothing to train; those that train: {', '.join(TRAINED)}."),
        (("mende",), "unknown editing method 'mende'"),
        (("mend", "--model", "other"), "--data FILE"),
        (("mend", "--model", "other", "--data", "nowhere.jsonl"), "nowhere.jsonl"),
        (("mend", "--set", "rank"), "--set takes NAME=VALUE"),
    ],
)
def test_a_mistake_is_one_line_before_any_model_is_loaded(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("editguard.models.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    assert main(["train", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("editguard: ")
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--set", "ranc=3"), "Did you mean 'rank'"),
        (("--set", "rank=0"), "rank is at least 1"),
        (("--set", "layers=1,9"), "layers 0 to 3"),
        (("--steps", "0"), "steps is at least 1"),
    ],
)
def test_settings_that_cannot_be_are_one_line(
    command: Callable[..., int], arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("mend", *arguments) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_cases_that_lack_something_are_one_line(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bare.jsonl").write_text('{"prompt": "The mayor of {} is", "subject": "Tamrin", "target": "Ines"}\n')
    assert command("mend", "--data", str(tmp_path / "bare.jsonl")) == 2
    assert "none of the 1 training cases for mend has a generalization probe" in capsys.readouterr().err
