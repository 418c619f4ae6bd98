"""Records: content ids, means without invalid cases, and the way through JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from editguard.errors import ConfigurationError
from editguard.measurements import CaseValue, Measurement, wilson


def value(name: str, number: float | None = 1.0, **more: object) -> CaseValue:
    fields = {
        "probe": name,
        "edit": f"edit {name}",
        "kind": "rephrase",
        "prompt": f"prompt {name}",
        "expected": ("Oskar",),
        "answer": "Oskar",
        "outcome": "exact" if number else "other",
        "value": number,
        **more,
    }
    return CaseValue(**fields)  # type: ignore[arg-type]


def measurement(*values: CaseValue, **more: object) -> Measurement:
    fields = {"name": "generalization", "protocol": "decode_match", "method": "rome", "edit_ids": ("a", "b"), **more}
    return Measurement(values=values, **fields)  # type: ignore[arg-type]


def test_a_case_without_a_finite_value_enters_no_mean() -> None:
    found = measurement(value("a"), value("b", 0.0), value("c", float("nan")), value("d", None))
    assert (found.mean, found.n, found.invalid) == (0.5, 2, 2)
    assert found.interval == wilson(1, 2)
    assert "2 invalid" in str(found)


def test_without_a_valid_case_there_is_no_mean() -> None:
    found = measurement(value("a", None))
    assert found.mean != found.mean
    assert str(found) == "generalization: no valid case"


def test_a_measurement_survives_json() -> None:
    found = measurement(
        value("a", token_accuracy=0.25, original="Oskar", must_hold=True, tokens=((" Os", 0.5), ("kar", 0.25))),
        value("b", None),
        kind="rephrase",
        excluded_probes=("x",),
        superseded_edits=("y",),
    )
    again = Measurement.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    assert again == found
    assert again.id == found.id


def test_a_measurement_that_was_kept_before_tokens_were_told_reads_back_with_its_id() -> None:
    found = measurement(value("a", tokens=(("Os", 0.5),), tokens_before=(("Os", 1.0),)), value("b"))
    record = json.loads(json.dumps(found.to_json()))
    for case in record["values"]:
        del case["tokens"], case["tokens_before"]
    again = Measurement.from_json(record)
    assert again.id == found.id
    assert [case.tokens for case in again.values] == [(), ()]
    assert again.values[0] == replace(found.values[0], tokens=(), tokens_before=())


def test_the_check_is_known_by_what_is_asked_and_not_by_what_came_out() -> None:
    found = measurement(value("a"), value("b"))
    same = measurement(value("b", 0.0), value("a", 0.0, answer="other"))
    assert found.id == same.id
    for other in (
        measurement(value("a")),
        measurement(value("a"), value("b"), method="ft-l"),
        measurement(value("a"), value("b"), mode="batch"),
        measurement(value("a"), value("b"), edit_ids=("b", "a")),
        measurement(value("a"), value("b"), name="portability"),
        measurement(value("a"), value("b"), kind="rephrase"),
        measurement(value("a"), value("b"), protocol="choice_likelihood"),
    ):
        assert other.id != found.id


def test_probes_left_out_belong_to_the_check() -> None:
    assert measurement(value("a"), excluded_probes=("b",)).id == measurement(value("a"), value("b")).id


def test_agreement_and_forced_scores_are_means_over_the_cases_that_have_them() -> None:
    found = measurement(
        value("a", original="oskar!", token_accuracy=0.5), value("b", original="Tamrin", token_accuracy=1.0), value("c")
    )
    assert found.agreement == 0.5
    assert found.token_accuracy == 0.75
    assert measurement(value("a")).agreement is None


def test_cases_are_marked_by_prompt_kind_or_id() -> None:
    found = measurement(value("a"), value("b", kind="question"))
    for name in ("prompt b", "question", "b", "edit b"):
        assert [one.must_hold for one in found.marked([name]).values] == [False, True]
    assert all(one.must_hold for one in found.marked(True).values)
    assert found.marked(False) == found
    assert found.marked("b").values[1].must_hold
    with pytest.raises(ConfigurationError, match="prompt c"):
        found.marked(["prompt c"])
    assert found.marked(["prompt c"], strict=False) == found


def test_a_kind_can_be_looked_at_alone() -> None:
    found = measurement(value("a"), value("b", 0.0, kind="question"))
    assert found.of_kind("question").mean == 0.0
    assert found.of_kind("question").title == "generalization/question"


def test_probes_of_one_edit_are_one_cluster() -> None:
    values = [replace(value(f"{edit} {i}"), edit=f"edit {edit}") for edit in range(4) for i in range(5)]
    assert measurement(*values).clusters == 4
    assert measurement(*values).interval == wilson(4, 4)
