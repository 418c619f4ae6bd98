"""`editguard history`: what it prints, chooses, writes and refuses."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import pytest
from history.recorded import check, run

from editguard.cli import main
from editguard.history import RunHistory


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs in the place where pytest puts them."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ".editguard" / "history.sqlite"
    checks = [
        check(check="c0"),
        check(check="c1", method="ike", node_id="test_a.py::test_it[ike]", label="test_it[ike]"),
    ]
    for day, chosen in enumerate((checks, checks, checks[:1])):
        RunHistory(path).add(run(chosen, day=day))
    return path


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    assert main(["history", *arguments, "--json"]) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return found


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["history", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    return told.err


@pytest.mark.parametrize(
    ("arguments", "labels"),
    [
        ((), ["test_it[ike]", "test_it[rome]"]),
        (("--method", "ike"), ["test_it[ike]"]),
        (("--check", "TEST_IT[ike]"), ["test_it[ike]"]),
        (("--check", "a.py*rome"), ["test_it[rome]"]),
        (("--check", "test_it[?o"), ["test_it[rome]"]),
        (("--check", "reliab"), ["test_it[ike]", "test_it[rome]"]),
        (("--check", "c1"), ["test_it[ike]"]),
        (("--last", "1"), ["test_it[rome]"]),
    ],
)
def test_checks_are_chosen(
    database: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], labels: list[str]
) -> None:
    assert [each["label"] for each in answer(capsys, *arguments)] == labels


def test_runs_are_listed_and_chosen_likewise(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [each.id for each in RunHistory(database).runs()]
    assert [each["id"] for each in answer(capsys, "runs")] == ids
    assert [each["id"] for each in answer(capsys, "runs", "--last", "2")] == ids[1:]
    assert [each["id"] for each in answer(capsys, "runs", "--method", "ike")] == ids[:2]
    assert main(["history", "runs"]) == 0
    assert all(id[:8] in capsys.readouterr().out for id in ids[:1])


def test_an_output_that_cannot_write_blocks_gets_digits(
    database: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io
    import sys

    written = io.BytesIO()
    for encoding, sign in (("ascii", b"555"), ("utf-8", "▅▅▅".encode())):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
        assert main(["history", "--method", "rome"]) == 0
        sys.stdout.flush()
        assert sign in written.getvalue()


def test_exports_are_written_beside_what_is_printed(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", "--export", "out/all.csv", "--method", "rome"]) == 0
    told = capsys.readouterr()
    assert told.err == "wrote out/all.csv\n"
    assert "test_it[rome]" in told.out
    assert len(Path("out/all.csv").read_text().splitlines()) == 1 + 3
    assert main(["history", "runs", "--export", "runs.csv", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3
    assert len(Path("runs.csv").read_text().splitlines()) == 1 + 3


def test_wrong_options_are_one_line(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--last is a number" in refusal(capsys, "--last", "0")
    assert "it has ike, rome. Did you mean 'rome'?" in refusal(capsys, "--method", "rone")
    assert "no check in .editguard/history.sqlite fits 'nothing'" in refusal(capsys, "--check", "nothing")
    assert "no check of ike in" in refusal(capsys, "--check", "[rome]", "--method", "ike")
    assert ".csv and .parquet" in refusal(capsys, "--export", "all.txt")
    assert "there is no history" in refusal(capsys, "--database", "missing.sqlite")
    assert not Path("missing.sqlite").exists()
    Path("file").write_text("")
    assert "cannot write" in refusal(capsys, "--export", "file/all.csv")


def test_without_pyarrow_parquet_is_refused(
    database: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: object, **more: object) -> object:
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", absent)
    assert "--export of a .parquet file needs the package pyarrow" in refusal(capsys, "--export", "all.parquet")
    assert not Path("all.parquet").exists()
