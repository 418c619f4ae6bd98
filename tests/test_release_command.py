"""`editguard release` and `editguard verify`, from their arguments to files, lines and exit statuses."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zoo
from release.scripted import CASES, saved

from editguard.cli import main
from editguard.datasets.jsonl import write_cases
from editguard.release.manifest import FORMS, MANIFEST, SEAL, file_sha256, read_manifest

ROME = ("layer=2", "steps=3", "shrinkage=0.3")


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random models never end an answer; a few tokens tell their states apart as well."""
    monkeypatch.setattr("editguard.measurements.decoding.ANSWER_TOKENS", 4)


def arguments(folder: Path, model: Path, method: str = "rome", given: tuple[str, ...] = ROME) -> list[str]:
    """Those of a release but for its folder; writes what it reads."""
    write_cases(folder / "cases.jsonl", CASES)
    (folder / "corpus.txt").write_text("\n".join(zoo.SENTENCES))
    settings = [part for each in given for part in ("--set", each)]
    files = ["--cases", str(folder / "cases.jsonl"), "--corpus", str(folder / "corpus.txt")]
    return [
        *(
            "release",
            "--model",
            str(model),
            "--method",
            method,
            "--device",
            "cpu",
            "--cache-dir",
            str(folder / "cache"),
        ),
        *files,
        *settings,
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, files of cases and text, and ROME's edits in both forms."""
    folder = tmp_path_factory.mktemp("place")
    saved("gpt2", folder / "base")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("editguard.measurements.decoding.ANSWER_TOKENS", 4)
        for form in FORMS:
            assert main([*arguments(folder, folder / "base"), str(folder / form), "--as", form]) == 0
    return folder


@pytest.fixture
def copied(place: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a release that a test may damage."""

    def copy(form: str) -> Path:
        shutil.copytree(place / form, tmp_path / form)
        return tmp_path / form

    return copy


def resealed(folder: Path, change: Callable[[Any], object]) -> None:
    """Write another manifest, and a seal that fits it."""
    record = json.loads((folder / MANIFEST).read_text())
    change(record)
    (folder / MANIFEST).write_text(json.dumps(record))
    (folder / SEAL).write_text(f"{file_sha256(folder / MANIFEST)}  {MANIFEST}\n")


@pytest.mark.parametrize("form", FORMS)
def test_a_release_is_verified_and_says_how_it_was_made(
    form: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(place / form), "--device", "cpu"]) == 0
    assert "6 answers as they were released" in capsys.readouterr().out
    manifest = read_manifest(place / form)
    assert (manifest.form, manifest.method, manifest.mode) == (form, "rome", "batch")
    assert manifest.settings["values"]["layer"] == 2
    assert manifest.settings["provenance"]["layer"] == "override"
    assert manifest.base.name == str(place / "base")
    assert set(manifest.files) == {path.name for path in (place / form).iterdir()} - {MANIFEST, SEAL}


@pytest.mark.parametrize(
    ("family", "method", "given"),
    [
        ("llama", "rome", ROME),
        pytest.param("gpt_neox", "rome", ROME, marks=pytest.mark.slow),
        pytest.param("t5", "ft-l", ("layer=3", "epochs=3"), marks=pytest.mark.slow),
    ],
)
def test_other_families_are_released_and_verified(
    family: str, method: str, given: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved(family, tmp_path / "base")
    for form in FORMS:
        out = tmp_path / form
        assert main([*arguments(tmp_path, model, method, given), str(out), "--as", form, "--sequence"]) == 0
        assert f"verify it with: editguard verify {out}" in capsys.readouterr().out
        assert main(["verify", str(out), "--device", "cpu"]) == 0
        assert read_manifest(out).mode == "sequence"


def test_added_neurons_are_released_as_factors_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = saved("gpt2", tmp_path / "base")
    command = arguments(tmp_path, model, "t-patcher", ("steps=3",))
    assert main([*command, str(tmp_path / "out")]) == 2
    assert "edits of t-patcher are not in the model's weights (AddedNeurons)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*command, str(tmp_path / "out"), "--as", "factors"]) == 0
    assert main(["verify", str(tmp_path / "out"), "--device", "cpu"]) == 0


@pytest.mark.parametrize("form", FORMS)
def test_a_memory_is_released_in_no_form(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = arguments(tmp_path, saved("gpt2", tmp_path / "base"), "mem-prompt", ())
    assert main([*command, str(tmp_path / "out"), "--as", form]) == 2
    assert "edits of mem-prompt" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", FORMS)
def test_each_difference_is_a_line_and_the_status_is_1(
    form: str, copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(form)
    name = next(path.name for path in folder.glob("*.safetensors"))
    raw = bytearray((folder / name).read_bytes())
    raw[-1] ^= 1
    (folder / name).write_bytes(raw)
    (folder / "more").touch()
    assert main(["verify", str(folder)]) == 1
    assert capsys.readouterr().out.splitlines() == [f"{folder}: more is additional", f"{folder}: {name} is changed"]
    assert main(["verify", str(folder), "--files"]) == 1


def test_other_answers_and_scores_are_found_behind_files_that_fit(
    copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied("factors")

    def change(record: Any) -> None:
        record["answers"][0]["answer"] = "Tamrin"
        record["answers"][1]["log_prob"] -= 1.0
        record["answers"][2]["log_prob"] += 1e-4

    resealed(folder, change)
    assert main(["verify", str(folder), "--files"]) == 0
    capsys.readouterr()
    assert main(["verify", str(folder), "--device", "cpu"]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert "the answer was 'Tamrin' and is" in first
    assert "the log-probability of" in second


def test_files_alone_are_compared_without_a_model(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("editguard.models.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    assert main(["verify", str(place / "model"), "--files"]) == 0
    assert "as they were released" in capsys.readouterr().out


def test_a_base_in_another_place_is_named_and_another_base_is_refused(
    place: Path, copied: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied("factors")
    resealed(folder, lambda record: record["base"].update(name="./moved"))
    assert main(["verify", str(folder), "--device", "cpu"]) == 2
    assert "Name it with --model." in capsys.readouterr().err
    assert main(["verify", str(folder), "--device", "cpu", "--model", str(place / "base")]) == 0
    other = saved("gpt2", tmp_path / "other", seed=1)
    for form in FORMS:
        assert main(["verify", str(place / form), "--device", "cpu", "--model", str(other)]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("editguard: the release in")
        assert "Give the same model" in error


def test_baselines_and_verdicts_are_noted(place: Path, tmp_path: Path) -> None:
    (tmp_path / "baselines").mkdir()
    (tmp_path / "baselines" / "suite.json").write_text("{}")
    (tmp_path / "run.json").write_text('{"verdict": "held"}')
    noted = ["--baselines", str(tmp_path / "baselines"), "--verdicts", str(tmp_path / "run.json"), "--limit", "1"]
    assert main([*arguments(tmp_path, place / "base"), str(tmp_path / "out"), "--as", "factors", *noted]) == 0
    manifest = read_manifest(tmp_path / "out")
    assert manifest.baselines == {"suite.json": file_sha256(tmp_path / "baselines" / "suite.json")}
    assert manifest.verdicts == {"verdict": "held"}
    assert [request.subject for request in manifest.requests] == [CASES[0].request.subject]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--method", "rom"), "unknown editing method 'rom'"),
        (("--set", "layer"), "--set takes NAME=VALUE"),
        (("--cases", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--limit", "0"), "--limit is 0"),
        (("--corpus", "nowhere.txt"), "--corpus is not a file"),
        (("--verdicts", "nowhere.json"), "--verdicts names no JSON file"),
        (("--verdicts", "nan.json"), "NaN is no JSON"),
        (("--baselines", "nowhere"), "nowhere holds no baselines"),
        (("--device-map", "auto"), "--device-map, not both"),
    ],
)
def test_a_mistake_is_one_line_before_any_model_is_loaded(
    more: tuple[str, ...],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("editguard.models.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nan.json").write_text("[NaN]")
    assert main([*arguments(tmp_path, tmp_path), str(tmp_path / "out"), *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("editguard: ")
    assert said in error
    assert error.count("\n") == 1


def test_ctrl_c_leaves_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("editguard.release.writing.ask", stopped)
    assert main([*arguments(tmp_path, place / "base"), str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.endswith("editguard: stopped; nothing was written.\n")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_a_place_that_cannot_be_written_is_said_before_any_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("editguard.models.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    command = arguments(tmp_path, tmp_path)
    before = sorted(os.listdir(tmp_path))
    for wrong in ("", "cases.jsonl", "cases.jsonl/out"):
        assert main([*command, str(tmp_path / wrong)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("wrong", ["", "nowhere", "cases.jsonl"])
def test_what_is_no_release_is_a_mistake(wrong: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(place / wrong)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", [MANIFEST, SEAL])
def test_a_release_without_its_manifest_or_seal_is_a_difference(
    name: str, copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied("factors")
    (folder / name).unlink()
    assert main(["verify", str(folder)]) == 1
    assert capsys.readouterr().out == f"{folder}: {name} is missing\n"
