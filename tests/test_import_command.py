"""`editguard import`, from its arguments to a suite that pytest collects and runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from published_records import KNOWEDIT_COUNTERFACT, KNOWEDIT_RECENT, RECORDS, ZSRE

from editguard.cli import main
from editguard.datasets import load_cases
from editguard.import_command import checkpoints


def file(tmp_path: Path, *records: Any, name: str = "Facts of 2026.json") -> Path:
    path = tmp_path / name
    path.write_text(json.dumps(records))
    return path


def run(path: Path, out: Path, *arguments: str) -> int:
    return main(["import", str(path), "--out", str(out), *arguments])


def written(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


def lands(count: int) -> list[dict[str, Any]]:
    return [{**ZSRE, "subject": f"Land {n}.", "src": f"Capital of Land {n}.?"} for n in range(count)]


def test_a_suite_its_cases_and_a_record_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file(tmp_path, {**ZSRE, "alt": " Oskar"}, {**ZSRE, "alt": ""})
    assert run(path, tmp_path / "out", "--skip-bad") == 0
    said = capsys.readouterr().out
    names = {"test_facts_of_2026.py", "cases/facts_of_2026.jsonl", "cases/facts_of_2026.import.json"}
    assert written(tmp_path / "out") == names
    assert "1 edit cases of 2 records, 1 of them usable" in said
    assert "left out, empty_target: 1" in said
    assert "noted, stripped_target: 1" in said
    assert f"run it with: pytest {tmp_path / 'out' / 'test_facts_of_2026.py'}" in said
    record = json.loads((tmp_path / "out" / "cases" / "facts_of_2026.import.json").read_text())
    assert (record["form"], record["options"], record["records"], record["seed"]) == ("zsre", {"target": "alt"}, 2, 0)
    assert record["skipped_records"][0]["position"] == "[1]"
    [case] = load_cases(tmp_path / "out" / "cases" / "facts_of_2026.jsonl")
    assert case.request.target == "Oskar"


def test_options_of_the_command_reach_the_import(tmp_path: Path) -> None:
    path = file(tmp_path, *lands(9))
    taken = []
    for seed in ("1", "1", "2"):
        run(path, tmp_path, "--name", "some", "--limit", "3", "--seed", seed, "--target", "answers", "--force")
        taken.append(load_cases(tmp_path / "cases" / "some.jsonl"))
    assert [len(cases) for cases in taken] == [3, 3, 3]
    assert taken[0] == taken[1] != taken[2]
    assert {case.request.target for case in taken[0]} == {"Tamrin"}
    assert "a sample of 3 with seed 2" in (tmp_path / "test_some.py").read_text()


@pytest.mark.parametrize("taken", ["test_facts.py", "cases/facts.jsonl", "cases/facts.import.json"])
def test_nothing_is_overwritten_without_force(tmp_path: Path, taken: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = file(tmp_path, ZSRE, name="facts.json")
    kept = tmp_path / "out" / taken
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    assert run(path, tmp_path / "out") == 2
    assert "exists already; nothing was written. Replace it with --force." in capsys.readouterr().err
    assert written(tmp_path / "out") == {taken}
    assert kept.read_text() == "mine"
    assert run(path, tmp_path / "out", "--force") == 0
    assert kept.read_text() != "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "record [1]: the target 'alt' is empty"),
        (("--form", "nothing"), "unknown form 'nothing'"),
        (("--limit", "0"), "--limit is a number"),
        (("--name", "?!"), "names no file"),
        (("--target", "truth"), "target is one of alt, answers"),
        (("--split", "test"), "--split and --revision belong to a data set of the hub"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    tmp_path: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file(tmp_path, ZSRE, {**ZSRE, "alt": ""})
    assert run(path, tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("editguard: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_long_lists_are_cut_on_the_terminal_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file(tmp_path, ZSRE, *({**ZSRE, "alt": ""} for _ in range(12)), {**ZSRE, "alt": "Norn City"})
    assert run(path, tmp_path, "--skip-bad") == 0
    said = capsys.readouterr().out
    assert said.count("  record [") == 10
    assert "and 2 more, all in the .import.json file" in said
    assert "contradictory: 1 facts have several targets" in said
    assert "Velloria, Which city is the capital of {}?: Oskar, Norn City" in said


def test_checkpoints_are_where_every_kind_can_be_asked(tmp_path: Path) -> None:
    run(file(tmp_path, *lands(12)), tmp_path, "--name", "same")
    assert checkpoints(load_cases(tmp_path / "cases" / "same.jsonl")) == (1, 10, 12)
    others = [{**KNOWEDIT_RECENT, "subject": f"Ines {n}", "prompt": f"Ines {n} was born in"} for n in range(11)]
    run(file(tmp_path, others[0], KNOWEDIT_COUNTERFACT, *others[1:]), tmp_path, "--name", "mixed")
    assert checkpoints(load_cases(tmp_path / "cases" / "mixed.jsonl")) == (10, 12)
    run(file(tmp_path, *others[:11], KNOWEDIT_COUNTERFACT), tmp_path, "--name", "late")
    assert checkpoints(load_cases(tmp_path / "cases" / "late.jsonl")) == (12,)


def test_suites_are_written_as_the_formatter_would_write_them(tmp_path: Path) -> None:
    for place, (form, record) in enumerate(RECORDS):
        assert run(file(tmp_path, record), tmp_path / "out", "--name", f"{form}-{place}") == 0
    probe = {"property": "locality", "prompt": "P"}
    kinds = [{**probe, "kind": f"kind '{n}\\ of \n{'x' * 20}"} for n in range(9)]
    own = {"prompt": "{} is", "subject": "S", "target": "T", "probes": kinds}
    assert run(file(tmp_path, own, name='a "quoted\\ name.json'), tmp_path / "out") == 0
    suites = list((tmp_path / "out").glob("test_*.py"))
    assert len(suites) == len(RECORDS) + 1
    for suite in suites:
        compile(suite.read_text(), str(suite), "exec")
        assert max(map(len, suite.read_text().splitlines())) <= 120
    command = [sys.executable, "-m", "ruff", "format", "--check", "--isolated", "--line-length", "120"]
    checked = subprocess.run([*command, tmp_path / "out"], capture_output=True, check=False, text=True)
    assert checked.returncode == 0, checked.stdout
