"""Differences in words, and the record of the present environment."""

from __future__ import annotations

import json

from comparison.built import accepted, environment, measured

from editguard.comparison import (
    Environment,
    differences,
    explain_declaration,
    explain_environment,
    present_environment,
)


def test_each_difference_is_a_line() -> None:
    before = {"versions": {"torch": "2.12", "numpy": "2"}, "threads": 4, "gone": 1}
    now = {"versions": {"torch": "2.13", "numpy": "2"}, "threads": 4, "new": [1]}
    assert differences(before, now) == ["gone: 1 is gone", "new: [1] is new", "versions.torch: '2.12' -> '2.13'"]


def test_equal_things_have_no_difference() -> None:
    assert differences({"a": [1, 2]}, {"a": [2, 1]}) == []
    assert explain_environment(environment(), environment()) == []


def test_many_differences_are_counted() -> None:
    lines = differences({}, {f"k{i:02}": i for i in range(40)})
    assert len(lines) == 13
    assert lines[-1] == "and 28 more differences"


def test_a_changed_test_is_explained() -> None:
    old = accepted(measured([1.0, 1.0], method="rome"))
    new = accepted(measured([1.0, 1.0], method="ft-l"))
    assert explain_declaration(old, new) == ["method: 'rome' -> 'ft-l'"]


def test_the_present_environment_is_a_class_with_a_record() -> None:
    found = present_environment(device="cuda:1", dtype="torch.bfloat16", fingerprint="f", settings={"batch_size": 8})
    assert found.class_id == "cuda-bfloat16-f"
    assert found.record["settings"] == {"batch_size": 8}
    assert {"torch", "transformers"} <= set(found.record["versions"])
    assert Environment.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_versions_and_threads_do_not_make_another_class() -> None:
    assert environment().class_id == environment(record={"threads": 64}).class_id
    assert environment().class_id != environment(fingerprint="other").class_id
