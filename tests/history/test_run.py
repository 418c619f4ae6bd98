"""What of a measurement and its verdict is kept."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone

from comparison.built import accepted, lost, measured
from history.recorded import run

from editguard.comparison import judge, missing
from editguard.history import RunCheck
from editguard.history.run import columns

PLACE = {"suite": "test_a", "node_id": "a/test_a.py::TestX::test_it[rome]", "file": "a/test_a.py", "line": 3}


def of(measurement, verdict=None) -> RunCheck:
    return RunCheck.of(measurement, verdict, environment="cpu", **PLACE)


def test_a_regression_is_kept_with_its_figures() -> None:
    before, now = lost(40, 12)
    verdict = judge(accepted(before), now)
    kept = of(now, verdict)
    assert (kept.label, kept.check, kept.edits, kept.cases) == ("TestX::test_it[rome]", now.id, 40, 40)
    assert (kept.mean, kept.interval, kept.accepted) == (now.mean, now.interval, before.mean)
    assert (kept.verdict, kept.reason, kept.lost, kept.gained) == ("regressed", verdict.reason, 12, 0)
    assert (kept.drop, (kept.drop_low, kept.drop_high), kept.p_value) == (
        verdict.drop,
        verdict.interval,
        verdict.p_value,
    )
    assert kept.smallest_drop == verdict.smallest_drop is not None


def test_what_was_not_compared_has_no_figures_of_a_comparison() -> None:
    now = measured([1.0, 0.0])
    judged = ("accepted", "drop", "drop_low", "drop_high", "p_value", "lost", "gained", "smallest_drop")
    for verdict in (None, missing(now, label="t", command="c")):
        kept = of(now, verdict)
        assert kept.mean == 0.5
        assert [getattr(kept, name) for name in judged] == [None] * len(judged)
    assert (kept.verdict, of(now).verdict, of(now).reason) == ("missing", None, None)


def test_a_measurement_without_a_value_has_no_mean() -> None:
    kept = of(measured([None, None]))
    assert (kept.cases, kept.mean, kept.interval) == (0, None, None)


def test_times_are_kept_in_utc_and_a_title_marks_uncommitted_changes() -> None:
    began = datetime(2026, 5, 4, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    made = run(began=began, commit="abcdef0123", dirty=True)
    assert made.began == began
    assert made.began.tzinfo is UTC
    assert made.title == "2026-05-03 23:30 abcdef0+"
    assert run(commit=None, dirty=None).title == "2026-01-01 00:00"


def test_no_two_fields_share_a_column() -> None:
    for kind in (RunCheck, type(run())):
        assert len(set(columns(kind).values())) == len(columns(kind))
    assert len(columns(RunCheck)) == len(fields(RunCheck))
