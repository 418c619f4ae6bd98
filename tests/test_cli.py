"""The commands beside pytest."""

import json
from pathlib import Path

import pytest

import editguard
from editguard.cli import main
from editguard.methods.registry import methods


def test_the_registry_is_listed_for_people_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    assert main(["methods", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in listed] == list(methods())
    for entry in listed:
        assert entry["name"] in text
        assert {"family", "changes", "prepares", "source", "encoder_decoder", "default"} <= set(entry)


@pytest.mark.parametrize("columns", [20, 80, 100, 300])
def test_the_listing_says_all_of_each_method_and_fits_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= min(max(columns, 60), 110)
    running = " ".join(text.split())
    for info in methods().values():
        block = f" {info.name} {'* ' if info.default else ''}changes {info.changes} batches "
        assert running.partition(block)[2].startswith("yes," if info.batches else "no,")
        both = "encoders with a decoder" in running.partition(block)[2].partition(" prepares ")[0]
        assert both == info.encoder_decoder
        assert f"prepares {info.prepares} source {info.source}" in running
    for family in {info.family for info in methods().values()}:
        assert text.splitlines().count(family) == 1


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["--version"])
    assert leaving.value.code == 0
    assert capsys.readouterr().out.strip() == f"editguard {editguard.__version__}"


def test_init_writes_a_suite_that_pytest_collects_and_never_overwrites(
    pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(pytester.path)]) == 0
    assert "test_first_edit.py" in capsys.readouterr().out
    from pytest_plugin.inner import plugin_arguments

    result = pytester.runpytest_inprocess(*plugin_arguments(), "--co", "-q", "suites")
    result.stdout.fnmatch_lines(["suites/test_first_edit.py::test_reliability?rome?"])
    before = (pytester.path / "pyproject.toml").read_text()
    assert main(["init", str(pytester.path)]) == 2
    assert "exists already; nothing was written" in capsys.readouterr().err
    assert (pytester.path / "pyproject.toml").read_text() == before


def test_a_mistake_is_one_line_and_status_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("a file")
    assert main(["init", str(tmp_path / "taken")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("editguard: ")
    assert error.count("\n") == 1


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "methods" in capsys.readouterr().out


def test_an_unknown_command_is_status_two() -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["mehtods"])
    assert leaving.value.code == 2
