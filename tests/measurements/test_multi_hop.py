"""MQuAKE's measures by hand on one invented instance of two edits and three hops."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from measurements.scripted import Scripted, case
from published_records import MQUAKE, Given

from editguard.datasets.importing import import_records
from editguard.edits import EditCase
from editguard.errors import ConfigurationError
from editguard.measurements import ModelUnderTest
from editguard.measurements.multi_hop import NAMES, MultiHop

FIRST, SECOND = "Ines Holt is a citizen of", "The capital of Velloria is"
UNEDITED = "Who is the mayor of Oskar?"
ONE, TWO = MQUAKE["questions"]
RIGHT = {FIRST: "Velloria", SECOND: "Oskar", UNEDITED: "Velom Thulen", ONE: "V. Thulen", TWO: "Velom Thulen"}


def imported(*records: dict[str, Any]) -> tuple[EditCase, ...]:
    return import_records(Given(list(records))).cases


CASES = imported(MQUAKE)


def means(said: dict[str, str], before: dict[str, str] | None = None, **more: Any) -> dict[str, float]:
    original = ModelUnderTest(Scripted({UNEDITED: "Velom Thulen"} if before is None else before))
    edited = ModelUnderTest(Scripted(said), original=original, cases=more.pop("cases", CASES), mode="batch")
    return {of: edited.multi_hop(of, **more).mean for of in NAMES}


def test_by_hand() -> None:
    assert means({}) == dict.fromkeys(NAMES, 0.0)
    assert means(RIGHT) == {**dict.fromkeys(NAMES, 1.0), "any before": 0.0}
    partly = {FIRST: "Velloria", SECOND: "Tamrin", UNEDITED: "Velom Thulen", TWO: "velom thulen"}
    assert means(partly) == {
        "edit-wise": 0.5,
        "instance-wise": 0.0,
        "any": 1.0,
        "all": 0.0,
        "mean": 0.5,
        "any before": 0.0,
    }
    assert means({}, {UNEDITED: "Velom Thulen", TWO: "Griom Corvani"})["any before"] == 1.0


def test_every_hop_counts_and_an_edited_one_is_asked_by_the_edit_s_prompt() -> None:
    for prompt in (FIRST, SECOND, UNEDITED):
        assert means({**RIGHT, prompt: "no"})["instance-wise"] == 0.0
        assert means({**RIGHT, prompt: "no"})["any"] == 1.0
    by_question = {hop["question"]: hop["answer"] for hop in MQUAKE["new_single_hops"]}
    assert means(by_question)["instance-wise"] == 0.0


def test_values_are_per_instance_in_strata_and_answers_of_one_instance_hang_together() -> None:
    another = copy.deepcopy(MQUAKE)
    another["case_id"] = 4
    another["requested_rewrite"] = another["requested_rewrite"][:1]
    another["requested_rewrite"][0] |= {"subject": "Ada Holt"}
    original = ModelUnderTest(Scripted({UNEDITED: "Velom Thulen", "What is the capital of Velloria?": "Oskar"}))
    edited = ModelUnderTest(Scripted(RIGHT), original=original, cases=[*CASES, *imported(another)])
    found = edited.multi_hop("edit-wise")
    assert [value.value for value in found.values] == [1.0, 1.0, 0.0]
    assert found.clusters == 2
    each = edited.multi_hop("any")
    assert [value.kind for value in each.values] == ["3 hops, 2 edits", "3 hops, 1 edit"]
    assert each.of_kind("3 hops, 1 edit").n == 1
    assert each.protocol == "decode_match"
    assert len({edited.multi_hop(of).id for of in NAMES}) == len({edited.multi_hop(of).title for of in NAMES}) == 6


def test_an_unknown_hop_leaves_an_instance_out_unless_that_is_not_wanted() -> None:
    original = ModelUnderTest(Scripted({}))
    edited = ModelUnderTest(Scripted(RIGHT), original=original, cases=CASES)
    for of in ("instance-wise", "any", "all", "mean"):
        assert (edited.multi_hop(of).n, edited.multi_hop(of).excluded) == (0, 1)
        assert edited.multi_hop(of, known=False).mean == 1.0
    assert edited.multi_hop("edit-wise").mean == 1.0
    assert edited.multi_hop("any before").excluded == 0


def test_an_instance_whose_fact_a_later_edit_contradicts_is_left_out_but_not_one_that_shares_it() -> None:
    shared = copy.deepcopy(MQUAKE)
    shared["case_id"] = 5
    contrary = copy.deepcopy(shared)
    contrary["requested_rewrite"] = contrary["requested_rewrite"][:1]
    contrary["requested_rewrite"][0]["target_new"] = {"str": "Dralonia"}
    original = ModelUnderTest(Scripted({UNEDITED: "Velom Thulen", "What is the capital of Velloria?": "Oskar"}))

    def asked(*records: dict[str, Any]) -> tuple[int, int, int]:
        edited = ModelUnderTest(Scripted(RIGHT), original=original, cases=imported(*records), mode="sequence")
        found = edited.multi_hop("any")
        return found.n, found.excluded, found.superseded

    assert asked(MQUAKE, {**shared, "questions": ["Another?"]}) == (2, 0, 0)
    assert asked(MQUAKE, contrary) == (1, 1, 1)


def test_a_form_of_words_is_put_around_questions_and_around_no_prompt_of_an_edit() -> None:
    framed = {f"Q: {prompt} A:": answer for prompt, answer in RIGHT.items() if prompt.endswith("?")}
    said = {**framed, FIRST: "Velloria", SECOND: "Oskar"}
    found = means(said, {f"Q: {UNEDITED} A:": "Velom Thulen"}, form="Q: {} A:")
    assert found == {**dict.fromkeys(NAMES, 1.0), "any before": 0.0}
    with pytest.raises(ConfigurationError, match="0 slots"):
        means(said, form="Q: A:")


def test_an_alias_of_a_hop_is_accepted() -> None:
    record = copy.deepcopy(MQUAKE)
    record["new_single_hops"][2]["answer_alias"] = ["the mayor"]
    said = {**RIGHT, UNEDITED: "the mayor"}
    assert means(said, {UNEDITED: "the mayor"}, cases=imported(record))["instance-wise"] == 1.0


def test_part_of_an_instance_and_cases_of_other_origin_are_no_instances() -> None:
    for cases in ([case()], CASES[:1], [replace(CASES[1], origin={})]):
        edited = ModelUnderTest(Scripted({}), original=ModelUnderTest(Scripted({})), cases=cases)
        with pytest.raises(ConfigurationError, match="whole instance"):
            edited.multi_hop()


@given(st.dictionaries(st.sampled_from([*RIGHT]), st.sampled_from(["no", "Velloria", "Oskar", "V. Thulen"])))
def test_all_is_at_most_the_mean_and_that_at_most_any(said: dict[str, str]) -> None:
    found = means({**RIGHT, **said})
    assert found["all"] <= found["mean"] <= found["any"]
    assert found["instance-wise"] <= found["edit-wise"]


def test_an_unknown_measure_is_refused() -> None:
    unknown: MultiHop = "some"  # type: ignore[assignment]
    with pytest.raises(ConfigurationError, match="not 'some'"):
        ModelUnderTest(Scripted({}), original=ModelUnderTest(Scripted({})), cases=CASES).multi_hop(unknown)
