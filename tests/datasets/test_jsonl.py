"""Our own format of edit cases: there and back, and what is said about mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editguard.datasets import load_cases, read_cases, write_cases
from editguard.edits import EditCase, EditRequest, Probe
from editguard.errors import InvalidEdit, MalformedRecord

LINE = {"prompt": "The capital of {} is", "subject": "Velloria", "target": "Oskar"}
PROBE = {"property": "generalization", "kind": "rephrase", "prompt": "P", "answers": ["Oskar"]}

texts = st.text(min_size=1, max_size=12).filter(lambda text: text.strip() and "{}" not in text)
probes = st.builds(
    Probe,
    property=st.sampled_from(["generalization", "portability", "other_tasks"]),
    kind=texts,
    prompt=texts,
    answers=st.lists(texts, min_size=1, max_size=3).map(tuple),
    choices=st.lists(texts, max_size=2).map(tuple),
    knows=st.lists(st.tuples(texts, texts), max_size=2).map(tuple),
)
requests = st.builds(
    EditRequest,
    prompt=texts.map(lambda text: f"{text} {{}} is"),
    subject=texts,
    target=texts,
    previous=st.none() | texts,
    relation=st.none() | texts,
)
cases = st.builds(EditCase, request=requests, probes=st.lists(probes, max_size=3).map(tuple), label=texts | st.just(""))


@given(st.lists(cases, min_size=1, max_size=4))
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, written: list[EditCase]) -> None:
    path = tmp_path_factory.mktemp("cases") / "cases.jsonl"
    write_cases(path, written)
    found = load_cases(path)
    assert found == tuple(written)
    assert [case.label for case in found] == [case.label for case in written]
    assert len(path.read_bytes().splitlines()) >= len(written)


def file(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "cases.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_a_relative_path_starts_at_the_working_directory_or_at_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file(tmp_path, LINE)
    suite = tmp_path / "test_suite.py"
    suite.touch()
    assert len(load_cases("cases.jsonl", base=tmp_path)) == 1
    assert len(load_cases("cases.jsonl", base=suite)) == 1
    assert len(load_cases(tmp_path / "cases.jsonl", base="/")) == 1
    with pytest.raises(InvalidEdit, match="cannot read the edit cases"):
        load_cases("cases.jsonl", base=tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert len(load_cases("cases.jsonl")) == 1


def test_blank_lines_are_skipped_and_cases_come_one_by_one(tmp_path: Path) -> None:
    found = read_cases(file(tmp_path, LINE, "", "  ", {**LINE, "subject": "Norn"}, "no JSON"))
    assert next(found).request.subject == "Velloria"
    assert next(found).request.subject == "Norn"
    with pytest.raises(MalformedRecord, match="record 5: not JSON"):
        next(found)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "an edit case is a JSON object, not list"),
        ({"prompt": "The capital of {} is", "subject": "V"}, "the field 'target' is missing"),
        ({**LINE, "subject": 3}, "the field 'subject' is text, not 3"),
        ({**LINE, "target": " "}, "empty target"),
        ({**LINE, "prompt": "The capital is"}, "has no {}"),
        ({**LINE, "previus": "Tamrin"}, "unknown field 'previus'.*Did you mean 'previous'"),
        ({**LINE, "previous": ""}, "'previous' is empty"),
        ({**LINE, "probes": {}}, "'probes' is a list"),
        ({**LINE, "probes": [PROBE, {**PROBE, "property": "localty"}]}, "probe 2: .*not 'localty'"),
        ({**LINE, "probes": [{**PROBE, "answers": []}]}, "probe 1: .*at least one accepted answer"),
        ({**LINE, "probes": [{**PROBE, "answers": "Oskar"}]}, "'answers' is a list"),
        ({**LINE, "probes": [{**PROBE, "answers": [1]}]}, "'answers' is a list of texts"),
        ({**LINE, "probes": [{**PROBE, "knows": [["a"]]}]}, "'knows' is a list of .prompt, answer. pairs"),
        ({**LINE, "probes": ["P"]}, "probe 1 is a JSON object"),
    ],
)
def test_a_mistake_names_file_line_and_field(tmp_path: Path, line: object, message: str) -> None:
    path = file(tmp_path, LINE, line)
    with pytest.raises(MalformedRecord, match=message) as caught:
        load_cases(path)
    assert str(caught.value).startswith(f"{path}, record 2: ")


def test_bytes_that_are_no_text_are_a_mistake_of_their_line(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_bytes(json.dumps(LINE).encode() + b'\n{"prompt": "\xff"}\n')
    with pytest.raises(MalformedRecord, match="record 2: not JSON"):
        load_cases(path)


def test_an_empty_file_has_no_case(tmp_path: Path) -> None:
    with pytest.raises(InvalidEdit, match="holds no edit case"):
        load_cases(file(tmp_path, ""))
