"""The history as text, plain data and files."""

from __future__ import annotations

import csv
import json
from datetime import datetime

import pytest
from history.recorded import check, run
from hypothesis import given
from hypothesis import strategies as st

from editguard.errors import ConfigurationError
from editguard.history import series_of
from editguard.report.history_export import writer_for
from editguard.report.history_table import (
    BLOCKS,
    DIGITS,
    NEWEST,
    checks_json,
    checks_text,
    levels_for,
    runs_json,
    runs_text,
    sparkline,
)

numbers = st.floats(0, 1)
RUNS = [
    run([check(1.0, "held"), check(0.5, check="c1", name="locality", kind="near", label="test_near[rome]")]),
    run([check(1.0, "held"), check(None, check="c1", name="locality", kind="near", label="test_near[rome]")], day=1),
    run([check(0.25, "regressed")], day=2, dirty=True, exit_status=1, complete=False),
    run([check(0.25, "regressed")], day=3, commit=None, branch=None, dirty=None, methods=("rome", "ike")),
    run(day=4),
]


@given(st.lists(numbers, min_size=1), st.sampled_from([BLOCKS, DIGITS]), st.sampled_from([0.0, 0.1, 5.0]))
def test_a_trend_has_a_sign_for_each_value_and_rises_where_they_do(values, levels, span) -> None:
    signs = sparkline(values, levels, least_span=span)
    assert len(signs) == len(values)
    heights = [levels.index(sign) for sign in signs]
    for one, height in zip(values, heights, strict=True):
        for other, another in zip(values, heights, strict=True):
            assert height <= another or one > other
    if max(values) - min(values) > max(span, 1e-9):
        assert {0, len(levels) - 1} <= set(heights)
    if span == 5.0:
        assert set(heights) <= {3, 4}, "a small change fills no trend"


@given(st.lists(st.none() | numbers))
def test_a_run_without_a_value_is_a_dot(values) -> None:
    for levels, dot in ((BLOCKS, "·"), (DIGITS, ".")):
        assert [sign == dot for sign in sparkline(values, levels)] == [value is None for value in values]


def test_blocks_are_for_outputs_that_can_write_them() -> None:
    assert {levels_for(name) for name in ("utf-8", "UTF-8", "utf-16")} == {BLOCKS}
    assert {levels_for(name) for name in ("ascii", "latin-1", "cp1252", None, "no-such-encoding")} == {DIGITS}
    assert checks_text(series_of(RUNS), DIGITS).isascii()


def test_a_check_is_a_line_with_its_trend_its_value_and_since_when() -> None:
    lines = checks_text(series_of(RUNS)).splitlines()
    assert lines[0] == "test_a.py: pocket, cpu-float32-abc"
    [row] = [line for line in lines if line.startswith("test_it[rome]")]
    assert row.split() == [
        *("test_it[rome]", "reliability", "4", "██▁▁", "0.250", "[0.125,", "0.375]", "regressed"),
        *("2026-01-03", "00:00", "0000002+", "(was", "1.000)", "2026-01-03", "00:00", "0000002+"),
    ]
    [row] = [line for line in lines if line.startswith("test_near[rome]")]
    assert row.split() == [
        *("test_near[rome]", "locality/near", "2", "▄·" if "▄" in row else "▅·", "-"),
        *("2026-01-02", "00:00", "0000001", "(was", "0.500)"),
    ]


def test_a_long_trend_shows_the_newest_runs_and_counts_all() -> None:
    recorded = [run([check(0.0 if day == 0 else 1.0)], day=day) for day in range(NEWEST + 5)]
    [row] = [line for line in checks_text(series_of(recorded)).splitlines() if line.startswith("test_it")]
    assert row.split()[2] == str(NEWEST + 5)
    assert len(row.split()[3]) == NEWEST
    assert "2026-01-02" in row, "the change is found in all runs"


def test_a_narrow_terminal_gets_several_tables() -> None:
    text = checks_text(series_of(RUNS), width=90)
    tables, _, _ = text.rpartition("\n\n")
    assert max(map(len, tables.splitlines())) <= 90
    assert text.count("test_it[rome]") > 1


def test_runs_are_listed_the_latest_first() -> None:
    rows = [line.split() for line in runs_text(RUNS).splitlines()[2:]]
    assert [row[0] for row in rows] == [each.id[:8] for each in reversed(RUNS)]
    assert " ".join(rows[2][1:]) == "2026-01-03 00:00 0000002+ main pocket rome 1 1 1 regressed 1 (in part)"
    assert rows[1][3:6] == ["pocket", "rome,", "ike"]


def test_plain_data_names_the_runs_of_the_changes() -> None:
    found = json.loads(json.dumps(checks_json(series_of(RUNS))))
    [one] = [each for each in found if each["property"] == "reliability"]
    assert (one["changed"], one["regressed"], one["check_id"]) == (RUNS[2].id, RUNS[2].id, "c0")
    assert [point["mean"] for point in one["runs"]] == [1.0, 1.0, 0.25, 0.25]
    assert [point["run"] for point in one["runs"]] == [each.id for each in RUNS[:4]]
    assert one["runs"][2]["dirty"] is True
    listed = json.loads(json.dumps(runs_json(RUNS)))
    assert [each["id"] for each in listed] == [each.id for each in RUNS]
    assert (listed[2]["verdicts"], listed[2]["checks"], listed[3]["methods"]) == ({"regressed": 1}, 1, ["rome", "ike"])


def test_csv_and_parquet_hold_a_row_for_each_check_of_each_run(tmp_path) -> None:
    path = tmp_path / "new" / "history.csv"
    writer_for(path)(path, RUNS, True)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["check_id"]) for row in rows] == [
        (each.id, made.check) for each in RUNS for made in each.checks
    ]
    assert [row["mean"] for row in rows] == ["1.0", "0.5", "1.0", "", "0.25", "0.25"]
    assert (rows[0]["property"], rows[0]["complete"], rows[5]["commit_id"]) == ("reliability", "True", "")
    assert datetime.fromisoformat(rows[4]["began"]) == RUNS[2].began
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'editguard[parquet]'")
    from pyarrow import parquet

    path = tmp_path / "history.parquet"
    writer_for(path)(path, RUNS, True)
    table = parquet.read_table(path)
    found = table.to_pylist()
    assert list(found[0]) == list(rows[0])
    assert [row["mean"] for row in found] == [1.0, 0.5, 1.0, None, 0.25, 0.25]
    assert [row["began"] for row in found] == [each.began for each in RUNS for _ in each.checks]
    assert {str(table.schema.field(name).type) for name in ("lower_is_better", "complete", "dirty")} == {"bool"}
    assert {str(table.schema.field(name).type) for name in ("verdict", "run", "kind")} == {"string"}
    assert {str(table.schema.field(name).type) for name in ("edits", "line", "exit_status")} == {"int64"}


def test_runs_alone_are_a_row_each(tmp_path) -> None:
    path = tmp_path / "runs.csv"
    writer_for(path)(path, RUNS, False)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == [each.id for each in RUNS]
    assert "check_id" not in rows[0]


def test_other_endings_and_folders_are_refused(tmp_path) -> None:
    for wrong in (tmp_path / "history.xlsx", tmp_path):
        with pytest.raises(ConfigurationError, match=r"\.csv and \.parquet"):
            writer_for(wrong)
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(ConfigurationError, match="is a directory"):
        writer_for(tmp_path / "a.csv")
