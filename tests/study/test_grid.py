"""Several models and data sets in one command, and their studies beside each other."""

import argparse
from pathlib import Path

import pytest
import zoo
from hypothesis import given
from hypothesis import strategies as st
from study import fakes

from editguard.cli import main
from editguard.datasets.jsonl import write_cases
from editguard.errors import ConfigurationError
from editguard.report.side_by_side import scalings
from editguard.study.grid import studies
from editguard.study.plan import Cell
from editguard.study.results import Results
from editguard.study.side_by_side import parameters_in_words, side_by_side


def options(model="pocket", *cases, out="out", revision=None):
    return argparse.Namespace(
        model=model, cases=tuple(map(Path, cases)), out=Path(out), revision=revision, methods=("rome",)
    )


def folders(*arguments, **named):
    return [str(each.out) for each in studies(options(*arguments, **named))]


def test_one_model_and_one_data_set_are_the_folder_itself():
    [only] = studies(options("models/ours", "zsre.jsonl"))
    assert (only.model, only.cases, only.out) == ("models/ours", Path("zsre.jsonl"), Path("out"))
    [only] = studies(options())
    assert (only.cases, only.out, only.methods) == (None, Path("out"), ("rome",))


def test_folders_are_named_after_what_tells_models_and_data_apart():
    assert folders("a/small, b/large") == ["out/small", "out/large"]
    assert folders("runs/small/model,runs/opt/model") == ["out/small-model", "out/opt-model"]
    assert folders("pocket", "x/zsre.jsonl", "y/counterfact.csv") == ["out/pocket--zsre", "out/pocket--counterfact"]
    assert folders("a,b", "zsre.jsonl") == ["out/a", "out/b"]
    assert folders("a,b", "x/cases.jsonl", "y/cases.jsonl") == [
        *("out/a--x-cases", "out/a--y-cases", "out/b--x-cases", "out/b--y-cases")
    ]


@given(
    models=st.lists(st.text("ab/.-", min_size=1, max_size=6), min_size=1, max_size=4, unique=True),
    data=st.lists(st.text("xy/-", min_size=1, max_size=5), max_size=3, unique_by=lambda name: str(Path(name))),
)
def test_every_pair_has_a_folder_of_its_own(models, data):
    wanted = {(model.strip(), Path(name) if data else None) for model in models for name in data or [None]}
    found = studies(options(",".join(models), *data))
    assert {(each.model, each.cases) for each in found} == wanted
    assert len({each.out for each in found}) == len(found) == len(wanted)
    assert all(each.out == Path("out") or each.out.parent == Path("out") for each in found)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((" , ",), "names no model"),
        (("a,b,a",), "--model names a twice"),
        (("a", "x.jsonl", "x.jsonl"), "--cases names x twice"),
    ],
)
def test_a_mistake_is_said(given, said):
    with pytest.raises(ConfigurationError, match=said):
        studies(options(*given))


def test_a_revision_is_of_one_model():
    with pytest.raises(ConfigurationError, match="--revision is of one model"):
        studies(options("a,b", revision="main"))
    assert studies(options("a", "x", "y", revision="main"))[1].revision == "main"


# ---- beside each other


def results(name, values, *, parameters=None, cases="same", mode="single", size=1):
    """A study's results; values: method -> reliability."""
    rows = {}
    for method, mean in values.items():
        number = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "cases": 9, "unit": "fraction"}
        rows[Cell(method, mode, size)] = {"numbers": {"reliability": number}}
    return Results(name, tuple(values), rows, None, name, parameters=parameters, cases=cases)


def test_a_line_for_each_method_and_criterion_and_a_column_for_each_study():
    [block] = side_by_side([results("s", {"rome": 0.5}, parameters=4_000_000), results("l", {"ike": 0.25, "rome": 1})])
    assert block.title == "Single edits"
    assert block.headers == ("method", "", "s (4 M parameters)", "l")
    assert block.lines == (
        ("rome", "reliability", "0.50 [0.40, 0.60]", "1.00 [0.90, 1.10]"),
        ("ike", "reliability", "-", "0.25 [0.15, 0.35]"),
    )


def test_a_mode_that_one_study_alone_has_is_left_out():
    both = [results("s", {"rome": 0.5}), results("l", {"rome": 0.5}, mode="batch", size=3)]
    with pytest.raises(ConfigurationError, match="no two of these studies"):
        side_by_side(both)
    assert [block.title for block in side_by_side([*both, results("m", {"rome": 0.1}, mode="batch", size=3)])] == [
        "A batch of 3"
    ]


def test_properties_over_the_size_of_models_are_of_one_data_set():
    small, large = results("s", {"rome": 0.5}, parameters=10), results("l", {"rome": 0.7}, parameters=3000)
    [curves] = scalings([large, small])
    assert curves.sizes == (10, 3000)
    assert curves.ticks == ("10", "3 k")
    values = curves.panels["reliability"]["rome"]
    assert {size: value.value for size, value in values.items()} == {10: 0.5, 3000: 0.7}
    assert scalings([small, results("l", {"rome": 0.7}, parameters=3000, cases="other")]) == []
    assert scalings([small, results("l", {"rome": 0.7}, parameters=10)]) == []
    assert scalings([small, results("l", {"rome": 0.7})]) == []


@pytest.mark.parametrize(
    ("number", "words"), [(999, "999"), (12_000, "12 k"), (3_912_345, "3.91 M"), (6.05e9, "6.05 B")]
)
def test_parameters_in_words(number, words):
    assert parameters_in_words(int(number)) == words


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Two tiny models and two files of cases; the second model has one block more."""
    monkeypatch.setattr("editguard.models.loading.load_model", lambda name, **_: zoo.tiny(name))
    for name, cases in (("first", fakes.CASES[:3]), ("second", fakes.CASES[3:])):
        write_cases(tmp_path / f"{name}.jsonl", cases)

    def given(*arguments):
        files = f"{tmp_path / 'first.jsonl'},{tmp_path / 'second.jsonl'}"
        basis = ["study", "--out", str(tmp_path / "out"), "--cases", files, "--methods", "scripted", "--single", "1"]
        return main([*basis, "--model", "gpt2,opt", "--cache-dir", str(tmp_path / "cache"), *arguments])

    return given


@pytest.mark.slow
def test_the_command_runs_each_pair_and_shows_them_side_by_side(command, tmp_path, capsys):
    pairs = ["gpt2--first", "gpt2--second", "opt--first", "opt--second"]
    assert command("--plan") == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line in pairs] == pairs
    assert command() == 0
    shown = capsys.readouterr().out
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == pairs
    page = (out / "side-by-side.md").read_text()
    for name, family in zip(pairs, ("gpt2", "gpt2", "opt", "opt"), strict=True):
        assert (out / name / "table.html").is_file()
        parameters = sum(each.numel() for each in zoo.tiny(family).module.parameters())
        assert f"{name} ({parameters_in_words(parameters)} parameters)" in page
    assert "Single edits" in shown.rpartition("opt--second\n====")[2]
    assert {path.suffix for path in out.glob("side-by-side.*")} == {".md", ".tex", ".html"}
    assert len(list(out.glob("scaling-*.svg"))) == 2  # one for each data set
    assert command("--table") == 0
    assert capsys.readouterr().out == shown
