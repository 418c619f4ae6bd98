"""`editguard study`, from the arguments to the files."""

import argparse
import json

import pytest
import zoo
from study.fakes import CASES, Scripted

from editguard.cli import main
from editguard.pocket import MODEL_NAMES, weights_path
from editguard.study.command import _cases, _materials
from editguard.study.grid import studies
from editguard.study.options import add_arguments
from editguard.study.progress import Estimate, duration


def test_a_study_prints_and_writes_its_table_and_makes_it_again_without_a_model(command, tmp_path, capsys, monkeypatch):
    assert command("--methods", "scripted", "--single", "2", "--batch", "2", "--sequence", "1,2") == 0
    first = capsys.readouterr()
    assert "Sequence, after 2" in first.out
    assert "editguard study: loading tiny" in first.err
    made = ("summary.json", "costs.json", "table.md", "table.tex", "table.html", "curves-sequence.svg")
    files = {name: (tmp_path / "out" / name).read_text() for name in (*made, "quality-against-time.svg")}
    for name in files:
        (tmp_path / "out" / name).unlink()
    monkeypatch.setattr("editguard.models.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    assert command("--table") == 0
    assert capsys.readouterr().out == first.out
    assert files == {name: (tmp_path / "out" / name).read_text() for name in files}
    assert len(json.loads(files["summary.json"])["rows"]) == 8


def test_settings_are_given_by_name_and_other_ones_in_the_same_folder_are_one_line(command, capsys):
    assert command("--methods", "scripted", "--single", "1", "--set", "scripted.size=2") == 0
    assert command("--methods", "scripted", "--single", "1") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("editguard: ")
    assert "methods.scripted" in error or "scripted.settings.size" in error or "scripted.provenance" in error


def test_an_interruption_says_how_to_go_on(command, capsys):
    def stop(request):
        if len(Scripted.applied) == 2:
            raise KeyboardInterrupt

    Scripted.before = staticmethod(stop)
    assert command("--methods", "scripted", "--single", "2") == 130
    assert "all complete parts are kept. Go on with: editguard" in capsys.readouterr().err
    Scripted.before = None
    assert command("--methods", "scripted", "--single", "2") == 0
    assert Scripted.applied == [CASES[0].request.subject, CASES[1].request.subject, CASES[1].request.subject]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--methods", "romee", "--single", "1"), "Did you mean 'rome'"),
        (("--methods", "scripted"), "nothing to do"),
        (("--methods", "scripted", "--single", "9"), "needs 9 cases, but there are 6"),
        (("--methods", "scripted", "--single", "3", "--limit", "2"), "--limit 2 leaves too few"),
        (("--methods", "scripted", "--single", "1", "--set", "size=3"), "METHOD.NAME=VALUE"),
        (("--methods", "scripted", "--single", "1", "--set", "scripted.siz=3"), "Did you mean 'size'"),
        (("--methods", "scripted", "--single", "1", "--corpus", "nowhere.txt"), "nowhere.txt"),
        (("--methods", "scripted", "--single", "1", "--training", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--table",), "holds no study"),
    ],
)
def test_a_mistake_is_one_line(command, capsys, arguments, said):
    assert command(*arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert said in lines[-1]
    assert lines[-1].startswith("editguard: ")


def test_a_model_without_a_world_needs_a_file_of_cases(tmp_path, capsys):
    assert main(["study", "--out", str(tmp_path), "--model", "other", "--methods", "rome", "--single", "1"]) == 2
    assert "--cases FILE" in capsys.readouterr().err


def test_a_model_elsewhere_can_be_asked_about_the_embedded_models_world() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    known = ["--out", "o", "--methods", "rome", "--single", "3"]
    [here] = studies(parser.parse_args(known))
    own = _cases(here, 3)
    there = [*known, "--model", str(weights_path("pocket")), "--cases", "pocket"]
    [elsewhere] = studies(parser.parse_args(there))
    assert _cases(elsewhere, 3) == own
    assert len(_materials(elsewhere, own).tasks) == len(_materials(here, own).tasks) > 0


def test_every_embedded_model_brings_its_own_cases(tmp_path, monkeypatch, capsys):
    asked = []

    def load(name, **_):
        asked.append(name)
        return zoo.tiny("gpt2")

    monkeypatch.setattr("editguard.models.loading.load_model", load)
    for name in MODEL_NAMES:
        out = ["--out", str(tmp_path / name), "--cache-dir", str(tmp_path / "cache")]
        assert main(["study", *out, "--model", name, "--methods", "scripted", "--single", "1"]) == 0
    capsys.readouterr()
    assert asked == list(MODEL_NAMES)


def test_the_time_left_is_judged_by_each_methods_own_pace():
    times = iter([0.0, 10.0, 40.0])
    estimate = Estimate(clock=lambda: next(times))
    for method, amount in (("fast", 1), ("fast", 2), ("slow", 1), ("slow", 1)):
        estimate.expect(method, amount)
    estimate.did("fast", 1)
    assert estimate.seconds_left == 2 * 10 + 2 * 10
    estimate.did("slow", 1)
    assert estimate.seconds_left == 2 * 10 + 30
    assert estimate.text() == "2 of 4 parts, about 50 s left"
    assert [duration(seconds) for seconds in (100, 130, 8000)] == ["100 s", "2 min", "2 h"]


@pytest.mark.slow
def test_a_study_of_the_pocket_model(tmp_path, capsys):
    arguments = ["study", "--out", str(tmp_path / "out"), "--methods", "rome", "--cache-dir", str(tmp_path)]
    assert main([*arguments, "--single", "1", "--sequence", "12", "--limit", "12"]) == 0
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())["rows"]
    rome = {(row["mode"], row["size"]): row["numbers"] for row in rows if row["method"] == "rome"}
    before = {(row["mode"], row["size"]): row["numbers"] for row in rows if row["method"] == "unedited"}
    assert rome["sequence", 12]["reliability"]["mean"] > 0.5 > before["sequence", 12]["reliability"]["mean"]
    assert rome["sequence", 12]["reliability"]["cases"] == 12
    assert before["sequence", 12]["locality"]["mean"] == 1.0
    assert "portability/reversed_relation" in rome["sequence", 12]
    assert "neighbourhood" in capsys.readouterr().out
