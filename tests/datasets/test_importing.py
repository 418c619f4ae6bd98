"""An import counts everything that it leaves out or changes, and never says anything but our errors."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published_records import (
    CHOICE,
    COUNTERFACT,
    COUNTERFACT_FLAT,
    KNOWEDIT_RECENT,
    MQUAKE,
    OWN,
    PIQA,
    QAEDIT,
    RECORDS,
    ZSRE,
    Given,
)

from editguard.datasets import load_cases, load_tasks, write_cases, write_tasks
from editguard.datasets.csv_table import write_csv
from editguard.datasets.form import NOTES, REASONS
from editguard.datasets.forms import FORMS, USABLE, form_named, form_of
from editguard.datasets.importing import conflicts, import_records
from editguard.datasets.source import FileSource
from editguard.errors import ConfigurationError, EditguardError, MalformedRecord

from .test_streams import json_values

IDS = [f"{form}-{place}" for place, (form, _) in enumerate(RECORDS)]


@pytest.mark.parametrize(("form", "record"), RECORDS, ids=IDS)
def test_the_keys_tell_the_form(form: str, record: dict[str, Any]) -> None:
    assert form_of(record, "f").name == form
    assert form_of(FORMS[form].example, "f").name == form
    by_keys, by_name = import_records(Given([record])), import_records(Given([record]), form=form)
    assert by_keys == by_name


def test_the_example_of_every_form_can_be_imported() -> None:
    assert {form for form, _ in RECORDS} == set(USABLE)
    for name in USABLE:
        assert import_records(Given([FORMS[name].example])).usable == 1


def test_two_fitting_forms_are_refused_by_name_and_form_decides() -> None:
    both = {**COUNTERFACT, **ZSRE}
    with pytest.raises(ConfigurationError, match="--form zsre or --form counterfact"):
        import_records(Given([both]))
    assert import_records(Given([both]), form="zsre").form.name == "zsre"


def test_no_fitting_form_names_what_there_is() -> None:
    with pytest.raises(ConfigurationError, match=r"has the fields \['a'\], which fits no form.*zsre, counterfact"):
        import_records(Given([{"a": 1}]))
    with pytest.raises(ConfigurationError, match="is no object"):
        import_records(Given([[1]]))
    with pytest.raises(ConfigurationError, match="has no record"):
        import_records(Given([]))
    with pytest.raises(ConfigurationError, match=r"unknown form 'zrse'.*Did you mean 'zsre'"):
        import_records(Given([ZSRE]), form="zrse")


@pytest.mark.parametrize(
    ("form", "record"),
    [
        (
            "zsre-generator",
            {"input": "Q", "prediction": "", "alternatives": ["A"], "filtered_rephrases": [], "output": []},
        ),
        ("knowedit-convsent", {"ent": "T", "pos": ["P"], "neg": ["N"]}),
        ("knowedit-sanitation", {"question": "Q", "ground_truth": "A", "target_new": "I don't know."}),
        ("pokemqa-questions", {"edit": "E", "questions": ["Q"]}),
    ],
)
def test_forms_without_an_edit_are_refused_with_the_reason(form: str, record: dict[str, Any]) -> None:
    for name in (None, form):
        with pytest.raises(ConfigurationError, match="cannot become edit cases: ") as caught:
            import_records(Given([record]), form=name)
        assert FORMS[form].refusal in str(caught.value)
    with pytest.raises(ConfigurationError):
        form_named(form)


SKIPPED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("empty_target", {**ZSRE, "alt": " "}),
    ("empty_subject", {**ZSRE, "subject": ""}),
    ("subject_not_in_prompt", {**ZSRE, "subject": "Norn"}),
    ("braces_in_prompt", {**ZSRE, "src": "Which of {} is the capital of Velloria?"}),
    ("same_target", {**ZSRE, "alt": " Tamrin"}),
    ("malformed", {**ZSRE, "alt": None}),
    ("malformed", {**ZSRE, "extra": "\ud800"}),
    (
        "empty_target",
        {**COUNTERFACT, "requested_rewrite": {**COUNTERFACT["requested_rewrite"], "target_new": {"str": ""}}},
    ),
    ("empty_subject", {**COUNTERFACT, "requested_rewrite": {**COUNTERFACT["requested_rewrite"], "subject": " "}}),
    ("same_target", {**COUNTERFACT_FLAT, "ground_truth": "Oskar"}),
    ("same_target", {**KNOWEDIT_RECENT, "ground_truth": ["Norn", "Oskar"]}),
    (
        "contradicts_itself",
        {
            **MQUAKE,
            "requested_rewrite": [
                MQUAKE["requested_rewrite"][1],
                {**MQUAKE["requested_rewrite"][1], "target_new": {"str": "Norn"}},
            ],
        },
    ),
    ("unknown_target", {"example_type": "recent", "edit": {"prompt": "Nothing.", "relation": "R"}}),
    ("same_choices", {**CHOICE, "choices": ["Velloria", "Velloria"]}),
    ("malformed", {**PIQA, "label": 2}),
    ("malformed", {**PIQA, "label": True}),
)


@pytest.mark.parametrize(("reason", "bad"), SKIPPED, ids=[f"{n}-{reason}" for n, (reason, _) in enumerate(SKIPPED)])
def test_a_bad_record_is_one_error_or_one_counted_skip(reason: str, bad: dict[str, Any]) -> None:
    form = form_of(bad, "f").name
    good = next(record for name, record in RECORDS if name == form)
    with pytest.raises(MalformedRecord, match=r"given\.json, record \[1\]: .*--skip-bad") as caught:
        import_records(Given([good, bad]))
    assert caught.value.reason == reason
    assert ("The right shape: {" in str(caught.value)) == (reason == "malformed")
    result = import_records(Given([bad, good, bad]), skip_bad=True)
    assert [(skip.position, skip.reason) for skip in result.skipped] == [("[0]", reason), ("[2]", reason)]
    assert (result.read, result.usable) == (3, 1)
    assert result.as_dict()["skipped"] == {reason: 2}
    with pytest.raises(ConfigurationError, match=f"no record to import, 1 of 1 were left out: {reason} 1"):
        import_records(Given([bad]), skip_bad=True)


def test_reasons_and_notes_are_all_tested_and_explained() -> None:
    assert {reason for reason, _ in SKIPPED} | {"duplicate_id"} == set(REASONS)
    assert all(NOTES.values())


def test_the_same_id_or_without_ids_the_same_request_is_a_duplicate() -> None:
    other = {**COUNTERFACT, "requested_rewrite": {**COUNTERFACT["requested_rewrite"], "subject": "Norn"}}
    with pytest.raises(MalformedRecord, match=r"an earlier record has the same id \(7\)"):
        import_records(Given([COUNTERFACT, other]))
    assert import_records(Given([COUNTERFACT, {**other, "case_id": 8}])).usable == 2
    reworded = {**ZSRE, "rephrase": "In other words?"}
    with pytest.raises(MalformedRecord, match="an earlier record has the same request") as caught:
        import_records(Given([ZSRE, reworded]))
    assert caught.value.reason == "duplicate_id"


def test_missing_fields_name_the_path_and_the_right_shape() -> None:
    record = copy.deepcopy(COUNTERFACT)
    del record["requested_rewrite"]["target_new"]["str"]
    with pytest.raises(MalformedRecord, match=r"record \[0\]: the field 'requested_rewrite.target_new.str' is missing"):
        import_records(Given([record]))
    wrong = {**QAEDIT, "locality": [{"loc": "a", "loc_ans": "b"}, {"loc": 3}]}
    with pytest.raises(MalformedRecord, match=r"the field 'locality\[1\].loc' is text, not 3"):
        import_records(Given([wrong]))


def test_blanks_around_a_target_are_removed_and_that_is_noted() -> None:
    result = import_records(Given([{**ZSRE, "alt": "  Oskar "}]))
    assert result.cases[0].request.target == "Oskar"
    assert [(note.position, note.name) for note in result.notes] == [("[0]", "stripped_target")]
    assert "'  Oskar '" in result.notes[0].text


def test_the_slot_is_the_first_of_several_places_and_that_is_noted() -> None:
    result = import_records(Given([{**ZSRE, "src": "Where is Velloria, the old Velloria?"}]))
    assert result.cases[0].request.prompt == "Where is {}, the old Velloria?"
    assert [note.name for note in result.notes] == ["subject_repeated"]


def test_facts_with_several_targets_are_reported() -> None:
    norn = {**ZSRE, "alt": "Norn City"}
    result = import_records(Given([ZSRE, norn, {**ZSRE, "src": "Velloria's capital?", "alt": "Esk"}]))
    [conflict] = result.conflicts
    assert (conflict.subject, conflict.about) == ("Velloria", "Which city is the capital of {}?")
    assert conflict.targets == {"Oskar": ("zsre/[0]",), "Norn City": ("zsre/[1]",)}
    assert result.as_dict()["subjects_edited_more_than_once"] == {"Velloria": 3}
    other_words = copy.deepcopy(COUNTERFACT)
    other_words["case_id"] = 8
    other_words["requested_rewrite"] |= {"prompt": "{} is governed from", "target_new": {"str": "Norn"}}
    [by_relation] = import_records(Given([COUNTERFACT, other_words])).conflicts
    assert (by_relation.about, list(by_relation.targets)) == ("P36", ["Oskar", "Norn"])
    assert conflicts(import_records(Given([COUNTERFACT])).cases) == ()


def test_options_belong_to_their_form() -> None:
    with pytest.raises(ConfigurationError, match="the form counterfact has no option 'target'"):
        import_records(Given([COUNTERFACT]), options={"target": "alt"})
    with pytest.raises(ConfigurationError, match="target is one of alt, answers, not 'true'"):
        import_records(Given([ZSRE]), options={"target": "true"})
    with pytest.raises(ConfigurationError, match="--limit is a number of records from 1 on"):
        import_records(Given([ZSRE]), limit=0)


def many(count: int) -> list[dict[str, Any]]:
    return [{**ZSRE, "subject": f"Land {place}.", "src": f"Capital of Land {place}.?"} for place in range(count)]


@given(st.integers(1, 12), st.integers(0, 3), st.permutations(range(9)))
@settings(max_examples=25)
def test_a_sample_is_of_records_not_of_their_order(limit: int, seed: int, order: list[int]) -> None:
    records = many(9)
    taken = import_records(Given(records), limit=limit, seed=seed)
    shuffled = import_records(Given([records[place] for place in order]), limit=limit, seed=seed)
    assert len(taken.cases) == min(limit, 9)
    assert (taken.read, taken.usable) == (9, 9)
    assert {case.id for case in taken.cases} == {case.id for case in shuffled.cases}
    everything = [case.id for case in import_records(Given(records)).cases]
    assert [name for name in everything if name in {case.id for case in taken.cases}] == [
        case.id for case in taken.cases
    ]


def test_notes_of_a_sample_are_about_its_records_and_skips_about_all() -> None:
    records = [*({**record, "alt": " Oskar"} for record in many(6)), {**ZSRE, "alt": ""}]
    result = import_records(Given(records), limit=2, skip_bad=True)
    assert sorted(note.position for note in result.notes) == sorted(str(case.origin["record"]) for case in result.cases)
    assert [skip.position for skip in result.skipped] == ["[6]"]


@pytest.mark.parametrize(("form", "record"), RECORDS, ids=IDS)
def test_what_was_imported_is_written_and_imported_again_unchanged(
    form: str, record: dict[str, Any], tmp_path: Path
) -> None:
    first = import_records(Given([record]))
    if first.tasks:
        write_tasks(tmp_path / "tasks.jsonl", first.tasks)
        assert load_tasks(tmp_path / "tasks.jsonl") == first.tasks
        return
    write_cases(tmp_path / "cases.jsonl", first.cases)
    write_csv(tmp_path / "cases.csv", first.cases)
    for name in ("cases.jsonl", "cases.csv"):
        again = import_records(FileSource(tmp_path / name))
        assert again.form.name == "editguard"
        assert again.cases == first.cases
        assert [(case.label, dict(case.origin)) for case in again.cases] == [
            (case.label, dict(case.origin)) for case in first.cases
        ]
    assert load_cases(tmp_path / "cases.jsonl") == first.cases


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    if not path:
        return by
    changed = copy.copy(value)
    changed[path[0]] = replaced(value[path[0]], path[1:], by)
    return changed


odd = st.sampled_from(
    ["", " ", "{}", "\ud800", "Velloria", None, [], {}, [[]], [{}], 0, True, float("inf"), [[[["deep"]]]]]
)


@given(st.sampled_from(RECORDS), st.data(), st.booleans())
@settings(max_examples=400, deadline=None)
def test_any_value_anywhere_in_a_record_is_imported_or_our_error(
    known: tuple[str, dict[str, Any]], data: st.DataObject, skip_bad: bool
) -> None:
    form, record = known
    place = data.draw(st.sampled_from(list(paths(record))))
    broken = replaced(record, place, data.draw(odd | json_values))
    try:
        result = import_records(Given([broken, record]), form=form, skip_bad=skip_bad)
    except EditguardError as error:
        assert str(error)  # noqa: PT017
        return
    assert result.read == 2
    json.dumps(result.as_dict(), ensure_ascii=False).encode()
    for case in result.cases:
        assert case.request.target.strip()


@given(json_values)
@settings(max_examples=100, deadline=None)
def test_any_file_of_json_is_imported_or_our_error(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("any") / "file.json"
    path.write_text(json.dumps([value]))
    for form in (None, *USABLE):
        with pytest.raises(EditguardError):
            import_records(FileSource(path), form=form)


def test_own_cases_keep_their_label_and_origin() -> None:
    [case] = import_records(Given([OWN])).cases
    assert (case.label, dict(case.origin)) == ("moved", {"source": "by hand"})
