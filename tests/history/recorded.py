"""Runs for the history: made up for hypothesis, and plain ones."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import strategies as st

from editguard.history import RunCheck, RunRecord

START = datetime(2026, 1, 1, tzinfo=UTC)
VERDICTS = ("held", "regressed", "undecided", "missing", "not comparable")
texts = st.text(max_size=12)
numbers = st.floats(allow_nan=False, width=64)
counts = st.integers(0, 2**40)


def maybe(values: st.SearchStrategy) -> st.SearchStrategy:
    return st.none() | values


checks = st.builds(
    RunCheck,
    suite=texts,
    label=texts,
    node_id=texts,
    file=maybe(texts),
    line=maybe(counts),
    environment=maybe(texts),
    check=texts,
    method=texts,
    mode=texts,
    name=texts,
    kind=maybe(texts),
    unit=texts,
    lower_is_better=st.booleans(),
    edits=counts,
    cases=counts,
    verdict=maybe(st.sampled_from(VERDICTS)),
    reason=maybe(texts),
    lost=maybe(counts),
    gained=maybe(counts),
    **{
        name: maybe(numbers)
        for name in ("mean", "low", "high", "accepted", "drop", "drop_low", "drop_high", "p_value", "smallest_drop")
    },
)
moments = st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7))]))
plain_data = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(texts, part, max_size=3),
    max_leaves=5,
)
runs = st.builds(
    RunRecord,
    id=st.uuids().map(lambda made: made.hex),
    began=moments,
    ended=moments,
    commit=maybe(texts),
    branch=maybe(texts),
    dirty=maybe(st.booleans()),
    model=texts,
    environments=st.dictionaries(texts, st.dictionaries(texts, plain_data, max_size=2), max_size=2),
    methods=st.lists(texts, max_size=3).map(tuple),
    exit_status=st.integers(-1000, 1000),
    complete=st.booleans(),
    workers=counts,
    version=texts,
    checks=st.lists(checks, max_size=3).map(tuple),
)


def check(mean: float | None = 1.0, verdict: str | None = None, **more: object) -> RunCheck:
    fields = {
        "suite": "test_a",
        "label": "test_it[rome]",
        "node_id": "test_a.py::test_it[rome]",
        "environment": "cpu-float32-abc",
        "check": "c0",
        "method": "rome",
        "mode": "single",
        "name": "reliability",
        "edits": 1,
        "cases": 10,
        "mean": mean,
        "low": None if mean is None else mean - 0.125,
        "high": None if mean is None else mean + 0.125,
        "verdict": verdict,
    }
    return RunCheck(**{**fields, **more})  # type: ignore[arg-type]


def run(checks: Sequence[RunCheck] = (), *, day: int = 0, **more: object) -> RunRecord:
    fields = {
        "id": uuid.uuid4().hex,
        "began": START + timedelta(days=day),
        "ended": START + timedelta(days=day, seconds=5),
        "commit": f"{day:07}" + "0" * 33,
        "branch": "main",
        "dirty": False,
        "model": "pocket",
        "environments": {"cpu-float32-abc": {"device": "cpu"}},
        "methods": ("rome",),
        "exit_status": 0,
        "complete": True,
        "version": "1",
    }
    return RunRecord(checks=tuple(checks), **{**fields, **more})  # type: ignore[arg-type]
