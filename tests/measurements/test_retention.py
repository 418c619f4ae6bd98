"""Retention by hand, and what must hold for every history."""

from __future__ import annotations

from math import isnan

import pytest
from hypothesis import given
from hypothesis import strategies as st
from measurements.scripted import Scripted, case, moved

from editguard.edits import EditRequest
from editguard.errors import ConfigurationError
from editguard.measurements import ModelUnderTest
from editguard.measurements.retention import (
    History,
    conditional_forgetting,
    history_of,
    history_of_records,
    immediate_success,
    retention,
    retention_by_age,
)
from editguard.study.evaluation import records


def history(table: list[str], requests: list[EditRequest] | None = None) -> History:
    """Row n holds r_1(n) .. r_n(n) as digits; "." was not asked."""
    requests = requests or [moved(f"S{i}") for i in range(len(table))]
    return History(
        tuple(requests),
        {
            n: {request.id: mark == "1" for request, mark in zip(requests, row, strict=False) if mark != "."}
            for n, row in enumerate(table, start=1)
        },
    )


def test_the_shares_by_hand() -> None:
    """Edit 2 never took; edit 1 is lost with the third edit and comes back with the fourth."""
    found = history(["1", "10", "001", "1000"])
    assert (immediate_success(found).passed, immediate_success(found).edits) == (2, 4)  # 1, 0, 1, 0
    assert [share.value for share in retention(found).values()] == [1, 1 / 2, 1 / 3, 1 / 4]
    by_age = retention_by_age(found)
    # age 0: 1 0 1 0; age 1: r1(2) r2(3) r3(4) = 1 0 0; age 2: r1(3) r2(4) = 0 0; age 3: r1(4) = 1
    assert [(age, share.passed, share.edits) for age, share in by_age.items()] == [
        (0, 2, 4),
        (1, 1, 3),
        (2, 0, 2),
        (3, 1, 1),
    ]
    forgotten = conditional_forgetting(found)
    # after 3: edit 1 of edit 1; after 4: edit 3 of edits 1 and 3
    assert [(share.passed, share.edits) for share in forgotten.values()] == [(0, 0), (0, 1), (1, 1), (1, 2)]
    assert isnan(forgotten[1].value)


def test_a_superseded_request_is_left_out_from_then_on_and_counted() -> None:
    requests = [moved("A", "one"), moved("B"), moved("A", "two")]
    found = history(["1", "11", "011"], requests)
    shares = retention(found)
    assert [(share.passed, share.edits, share.superseded) for share in shares.values()] == [
        (1, 1, 0),
        (2, 2, 0),
        (2, 2, 1),
    ]
    assert immediate_success(found).edits == 3, "right after its own edit no request is superseded yet"
    assert [(share.passed, share.edits, share.superseded) for share in retention_by_age(found).values()] == [
        (3, 3, 0),
        (2, 2, 0),
        (0, 0, 1),
    ]
    last = conditional_forgetting(found)[3]
    assert (last.passed, last.edits, last.superseded) == (0, 1, 1)


def test_what_was_not_asked_is_missing_and_in_no_mean() -> None:
    found = history(["1", "11", ".01"])
    assert (retention(found)[3].edits, retention(found)[3].missing) == (2, 1)
    assert (conditional_forgetting(found)[3].edits, conditional_forgetting(found)[3].missing) == (1, 1)
    sparse = History(found.requests, {3: found.outcomes[3]})
    assert conditional_forgetting(sparse)[3].missing == 2
    assert immediate_success(sparse).edits == 1


tables = st.integers(1, 7).flatmap(
    lambda n: st.tuples(*(st.text("01", min_size=i, max_size=i) for i in range(1, n + 1)))
)


@given(table=tables, subjects=st.lists(st.sampled_from("ABCDEFG"), min_size=7, max_size=7))
def test_what_holds_for_every_history(table: tuple[str, ...], subjects: list[str]) -> None:
    requests = [moved(subjects[i], f"T{i}") for i in range(len(table))]
    found = history(list(table), requests)
    curve, ages, forgotten = retention(found), retention_by_age(found), conditional_forgetting(found)
    assert ages[0] == immediate_success(found), "at n = i retention is immediate success"
    for n, share in curve.items():
        assert share.edits + share.superseded == n
        kept = share.passed
        own = table[n - 1][n - 1] == "1"
        took = sum(
            table[i - 1][i - 1] == "1" and table[n - 1][i - 1] == "1"
            for i in range(1, n)
            if i not in found.superseded_at(n)
        )
        late = kept - own - took  # failed at first, right now
        assert late >= 0
        assert forgotten[n].edits - forgotten[n].passed == took
    assert sum(share.passed for share in ages.values()) == sum(share.passed for share in curve.values())
    assert sum(share.superseded for share in ages.values()) == sum(share.superseded for share in curve.values())


def test_measurements_and_a_study_s_records_give_the_same_history() -> None:
    cases = [case(moved("A", "one")), case(moved("B", "two")), case(moved("A", "three"))]
    said = [{"A": "one"}, {"A": "one", "B": "no"}, {"A": "three", "B": "two"}]
    before = ModelUnderTest(Scripted({}))
    found = [
        ModelUnderTest(
            Scripted({moved(subject).text: answer for subject, answer in line.items()}),
            original=before,
            cases=cases[:n],
            mode="sequence",
        ).reliability()
        for n, line in enumerate(said, start=1)
    ]
    requests = [one.request for one in cases]
    told = history_of(requests, found)
    assert told == history_of_records(requests, {one.edits: records([one]) for one in found})
    assert [(share.passed, share.edits) for share in retention(told).values()] == [(1, 1), (1, 2), (2, 2)]
    with pytest.raises(ConfigurationError, match="not of the first 3"):
        history_of(requests[::-1], found[2:])


def test_a_table_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="is beyond a sequence of 1"):
        History((moved(),), {2: {}})
    with pytest.raises(ConfigurationError, match="none of them"):
        History((moved("A"), moved("B")), {1: {moved("B").id: True}})
