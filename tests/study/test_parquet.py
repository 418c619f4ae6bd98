"""The Parquet file holds every record once, and is whole or not there."""

import builtins
import json

import pytest
from study.fakes import CASES, TASKS

from editguard.cli import main
from editguard.errors import CacheError, ConfigurationError
from editguard.study import parquet
from editguard.study.folder import StudyFolder
from editguard.study.plan import Cell
from editguard.study.running import Materials


@pytest.fixture
def pyarrow():
    return pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'editguard[parquet]'")


def records(folder):
    """What the folder's own lines say."""
    for cell in folder.cells():
        place = {"method": cell.method, "mode": cell.mode, "size": cell.size, "order": cell.order}
        for part in folder.parts(cell).values():
            for value in part.values:
                yield {**value, **place, "part": part.name}


def test_every_record_is_a_row_in_groups_of_a_cell(study, pyarrow, monkeypatch):
    monkeypatch.setattr(parquet, "ROWS", 7)
    folder = study(
        methods=("scripted", "ike"),
        settings={"ike": {"demonstrations": 0}},
        single=2,
        sequences=(3,),
        orders=2,
        materials=Materials(tasks=TASKS),
    )
    path = parquet.write_parquet(folder)
    file = pyarrow.parquet.ParquetFile(path)
    assert max(file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)) == 7
    found = file.read().to_pylist()
    for row in found:
        row["lookup"] = row["lookup"] and json.loads(row["lookup"])
    wanted = [{**dict.fromkeys(parquet.COLUMNS), **record} for record in records(folder)]
    assert found == wanted
    assert {row["order"] for row in found} == {0, 1}
    assert any(row["lookup"] for row in found)
    before = path.read_bytes()
    assert parquet.write_parquet(folder).read_bytes() == before


def test_a_record_that_does_not_fit_leaves_the_old_file_and_nothing_beside_it(tmp_path, pyarrow):
    folder = StudyFolder(tmp_path)
    folder.add(Cell("rome", "single", 1), "a", [{"case": "a", "value": 1.0}], {"edits": 1})
    before = parquet.write_parquet(folder).read_bytes()
    folder.add(Cell("rome", "single", 1), "b", [{"case": "b", "value": "much"}], {"edits": 1})
    with pytest.raises(CacheError, match="rome-single-1 do not fit"):
        parquet.write_parquet(folder)
    assert (tmp_path / parquet.FILE).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records", parquet.FILE]


def test_of_two_parts_with_one_name_the_later_counts_and_damage_is_told_as_ever(tmp_path):
    folder = StudyFolder(tmp_path)
    cell = Cell("rome", "single", 1)
    for name, number in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        folder.add(cell, name, [{"value": number}], {"edits": 1})
    assert {part.name: part for part in folder.streamed(cell)} == folder.parts(cell)
    assert [part.values[0]["value"] for part in folder.streamed(cell)] == [2.0, 3.0]


def test_without_pyarrow_it_is_one_error_before_any_work(study, monkeypatch, capsys):
    folder = study(single=1, cases=CASES)
    real = builtins.__import__

    def absent(name, *rest, **more):
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ConfigurationError, match=r"pip install 'editguard\[parquet\]'"):
        parquet.write_parquet(folder)
    assert main(["study", "--out", str(folder.path), "--table", "--parquet"]) == 2
    assert "editguard[parquet]" in capsys.readouterr().err
    assert not (folder.path / "summary.json").exists()


def test_the_command_writes_it_from_records_alone(study, pyarrow, capsys):
    folder = study(single=1)
    assert main(["study", "--out", str(folder.path), "--table"]) == 0
    assert not (folder.path / parquet.FILE).exists()
    assert main(["study", "--out", str(folder.path), "--table", "--parquet"]) == 0
    capsys.readouterr()
    assert pyarrow.parquet.read_metadata(folder.path / parquet.FILE).num_rows == len(list(records(folder)))
