"""Real records of every set that could be obtained are imported; the repository holds none of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from published_records import Given
from samples import sample

from editguard.datasets import load_cases, write_cases
from editguard.datasets.importing import Imported, import_records
from editguard.datasets.source import FileSource, source_of
from editguard.errors import ConfigurationError, MalformedRecord

pytestmark = pytest.mark.samples

FILES = {
    "zsre_sample.json": ("zsre", 40),
    "zsre_portability_sample.json": ("zsre", 40),
    "counterfact_sample.json": ("counterfact", 30),
    "counterfact_flat_sample.json": ("counterfact-flat", 40),
    "knowedit_zsre_sample.json": ("knowedit", 21),
    "knowedit_wiki_counterfact_sample.json": ("knowedit", 16),
    "knowedit_wiki_recent_sample.json": ("knowedit", 12),
    "qaedit_sample.json": ("qaedit", 20),
}
"""Form, and how many records can be used."""


def imported(name: str, **arguments: Any) -> Imported:
    sample(name)  # skips, with the reason, where there is none
    return import_records(FileSource(Path(os.environ["EDITGUARD_SAMPLES"]) / name), skip_bad=True, **arguments)


@pytest.mark.parametrize("name", FILES)
def test_every_real_record_is_imported_or_counted(name: str, tmp_path: Path) -> None:
    form, usable = FILES[name]
    result = imported(name)
    assert (result.form.name, result.usable) == (form, usable)
    assert result.read == len(sample(name)) == usable + len(result.skipped)
    assert all(probe.prompt for case in result.cases for probe in case.probes)
    write_cases(tmp_path / "cases.jsonl", result.cases)
    assert load_cases(tmp_path / "cases.jsonl") == result.cases


def test_records_without_a_change_are_left_out() -> None:
    result = imported("knowedit_zsre_sample.json")
    records = sample("knowedit_zsre_sample.json")
    unchanged = [f"[{n}]" for n, record in enumerate(records) if record["target_new"] in record["ground_truth"]]
    assert [(skip.position, skip.reason) for skip in result.skipped] == [(place, "same_target") for place in unchanged]


def test_the_survey_s_three_kinds_are_in_knowedit_s_zsre_part() -> None:
    kinds = [probe.kind for case in imported("knowedit_zsre_sample.json").cases for probe in case.probes]
    assert [kinds.count(kind) for kind in ("one_hop", "reversed_relation", "subject_replace")] == [8, 8, 5]


def test_both_targets_of_zsre_can_be_taken() -> None:
    alt, answers = (imported("zsre_sample.json", options={"target": name}).cases for name in ("alt", "answers"))
    records = sample("zsre_sample.json")
    assert [case.request.target for case in alt] == [record["alt"].strip() for record in records]
    assert [case.request.target for case in answers] == [record["answers"][0].strip() for record in records]


def test_every_kind_of_nested_answer_is_read() -> None:
    for name in ("knowedit_wiki_counterfact_sample.json", "knowedit_wiki_recent_sample.json"):
        records, cases = sample(name), imported(name).cases
        for record, case in zip(records, cases, strict=True):
            published = sum(len(items) for kind in ("portability", "locality") for items in record[kind].values())
            assert published + 1 == len(case.probes)  # and the rephrase


@pytest.mark.parametrize("part", ["WikiData_recent", "Wiki counterfact", "WikiBio", "ZsRE"])
def test_the_documentation_s_examples_of_knowedit_are_imported(part: str) -> None:
    assert import_records(Given([sample("knowedit_examples.json")[part]])).usable == 1


def test_questions_for_a_scope_detector_and_sanitation_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="cannot become edit cases"):
        imported("mquake_edit_questions_sample.json")
    with pytest.raises(ConfigurationError, match="Sanitation cannot become edit cases"):
        import_records(Given(sample("knowedit_examples.json")["Sanitation"]["success"]))


def test_piqa_needs_its_labels() -> None:
    sample("counterfact_sample.json")
    folder = Path(os.environ["EDITGUARD_SAMPLES"])
    path = folder / "piqa_sample.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} does not exist")
    with pytest.raises(MalformedRecord, match="labels of PIQA"):
        import_records(FileSource(path))
    labels = folder / "piqa_sample_labels.lst"
    tasks = import_records(source_of(str(path), labels=labels)).tasks
    right = [task.choices.index(task.answers[0]) for task in tasks]
    assert right == [int(line) for line in labels.read_text().split()]
