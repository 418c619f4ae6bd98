"""The JSON Schema of a case accepts what the reader accepts, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from published_records import OWN

from editguard.datasets.jsonl import CASE_FIELDS, PROBE_FIELDS, case_from, case_record, case_schema
from editguard.edits import PROPERTIES
from editguard.errors import InvalidEdit

from .test_importing import paths, replaced
from .test_jsonl import cases
from .test_streams import json_values

SCHEMA = case_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
FULL = copy.deepcopy(OWN)
FULL["probes"].append({"property": "other_tasks", "kind": "k", "prompt": "P", "answers": ["A"], "choices": ["A", "B"]})
ODD = [
    "",
    " ",
    "\n",
    "{}",
    "{}{}",
    "a {{}} b",
    "{} {}",
    None,
    [],
    {},
    ["A"],
    [""],
    [["a", "b"]],
    [["a"]],
    0,
    *PROPERTIES,
]


def reads(record: Any) -> bool:
    try:
        case_from(record)
    except InvalidEdit:
        return False
    return True


def test_the_schema_is_one_and_knows_all_fields() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert set(SCHEMA["properties"]) == set(CASE_FIELDS)
    assert set(SCHEMA["$defs"]["probe"]["properties"]) == set(PROBE_FIELDS)
    assert tuple(SCHEMA["$defs"]["probe"]["properties"]["property"]["enum"]) == PROPERTIES
    assert reads(FULL)
    assert VALIDATOR.is_valid(FULL)


@given(cases)
def test_every_case_that_is_written_is_valid(case: Any) -> None:
    assert VALIDATOR.is_valid(case_record(case))


def test_an_odd_value_anywhere_is_refused_by_both_or_by_none() -> None:
    verdicts = set()
    for place in paths(FULL):
        for value in ODD:
            record = replaced(FULL, place, value)
            assert VALIDATOR.is_valid(record) == reads(record), (place, value)
            verdicts.add(reads(record))
    assert verdicts == {True, False}


def test_a_missing_or_an_unknown_field_is_refused_by_both_or_by_none() -> None:
    for place in paths(FULL):
        value: Any = FULL
        for key in place:
            value = value[key]
        if not isinstance(value, dict):
            continue
        without = [{name: part for name, part in value.items() if name != dropped} for dropped in value]
        for changed in (*without, {**value, "unknown": "x"}):
            record = replaced(FULL, place, changed)
            assert VALIDATOR.is_valid(record) == reads(record), (place, changed)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_value_anywhere_is_refused_by_both_or_by_none(data: st.DataObject) -> None:
    place = data.draw(st.sampled_from(list(paths(FULL))))
    record = replaced(FULL, place, data.draw(json_values))
    assert VALIDATOR.is_valid(record) == reads(record)
