"""The review file: what is written is read back, verdicts stay, mistakes are told with their line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from editguard.datasets import load_cases, write_cases
from editguard.edits import EditCase, EditRequest
from editguard.errors import ConfigurationError, InvalidEdit, MalformedRecord
from editguard.one_hop.review import Judged, Row, accept, read_review, write_review

CASES = tuple(
    EditCase(request=EditRequest(prompt="The capital of {} is", subject=f"S{number}", target=f"T{number}"), label="x")
    for number in range(3)
)
ROW = Row(
    case=CASES[0].id,
    edit=CASES[0].request.statement,
    object="T0",
    relation="mayor",
    answer="Ines",
    recall="Who is the mayor of T0?",
    question="Who is the mayor of the capital of S0?",
    unedited="Bo",
    model="pocket",
    generator="g",
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
FILLED = TEXT.filter(str.strip)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.lists(
        st.builds(
            Row,
            case=FILLED,
            edit=TEXT,
            object=TEXT,
            relation=TEXT,
            answer=FILLED,
            recall=FILLED,
            question=FILLED,
            unedited=TEXT,
            verdict=st.sampled_from(["", "accept", "reject"]),
            note=TEXT,
            model=TEXT,
            generator=TEXT,
        )
    )
)
def test_any_rows_are_read_back_one_line_each(tmp_path: Path, rows: list[Row]) -> None:
    path = tmp_path / "review.jsonl"
    write_review(path, rows)
    assert read_review(path) == rows
    assert path.read_bytes().count(b"\n") == len(rows)


@pytest.mark.parametrize(("typed", "read"), [(" Accept ", "accept"), ("REJECT", "reject"), ("  ", "")])
def test_a_verdict_may_be_typed_carelessly(tmp_path: Path, typed: str, read: str) -> None:
    path = tmp_path / "review.jsonl"
    write_review(path, [replace(ROW, verdict=typed)])
    assert read_review(path)[0].verdict == read


def test_a_misspelt_verdict_is_one_error_that_names_line_and_guess(tmp_path: Path) -> None:
    path = tmp_path / "review.jsonl"
    write_review(path, [ROW, replace(ROW, verdict="acept")])
    with pytest.raises(MalformedRecord, match=r"review\.jsonl, record 2: the verdict 'acept'.*Did you mean 'accept'"):
        read_review(path)


@pytest.mark.parametrize("line", ["{", "[]", '{"case": "x"}', json.dumps({**ROW.as_record(), "verdct": "accept"})])
def test_a_damaged_row_is_one_error(tmp_path: Path, line: str) -> None:
    path = tmp_path / "review.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(MalformedRecord, match="record 1"):
        read_review(path)


def test_a_missing_review_file_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="one-hop propose"):
        read_review(tmp_path / "none.jsonl")


def accepted(folder: Path, rows: list[Row], cases: tuple[EditCase, ...] = CASES) -> tuple[list[EditCase], Judged]:
    write_review(folder / "review.jsonl", rows)
    write_cases(folder / "cases.jsonl", cases)
    judged = Judged()
    return list(accept(folder / "review.jsonl", folder / "cases.jsonl", judged=judged)), judged


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(range(3)), st.sampled_from(["", "accept", "reject"])), max_size=8))
def test_exactly_the_accepted_questions_stand_in_their_cases(tmp_path: Path, given: list[tuple[int, str]]) -> None:
    rows = [
        replace(ROW, case=CASES[place].id, question=f"question {number}?", verdict=verdict)
        for number, (place, verdict) in enumerate(given)
    ]
    cases, judged = accepted(tmp_path, rows)
    assert [(case.request, case.label) for case in cases] == [(case.request, case.label) for case in CASES]
    for case in cases:
        assert list(case.probes) == [row.probe for row in rows if row.case == case.id and row.verdict == "accept"]
    verdicts = [verdict for _, verdict in given]
    assert (judged.count, judged.rejected, judged.open) == tuple(map(verdicts.count, ("accept", "reject", "")))
    write_cases(tmp_path / "out.jsonl", cases)
    assert load_cases(tmp_path / "out.jsonl") == tuple(cases)


def test_an_accepted_question_is_a_one_hop_probe_that_knows_its_second_fact(tmp_path: Path) -> None:
    [probe] = accepted(tmp_path, [replace(ROW, verdict="accept")])[0][0].probes
    assert (probe.property, probe.kind, probe.prompt, probe.answers) == (
        "portability",
        "one_hop",
        ROW.question,
        (ROW.answer,),
    )
    assert probe.knows == ((ROW.recall, ROW.answer),)


def test_what_a_case_has_already_is_not_added_again(tmp_path: Path) -> None:
    rows = [replace(ROW, verdict="accept")]
    once, _ = accepted(tmp_path, rows)
    twice, judged = accepted(tmp_path, rows, tuple(once))
    assert twice == once
    assert (judged.count, judged.present) == (0, 1)


def test_a_row_whose_case_is_gone_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(MalformedRecord, match=r"record 2: its case .* is not in .*cases\.jsonl"):
        accepted(tmp_path, [ROW, replace(ROW, case=CASES[1].id)], CASES[:1])
    with pytest.raises(InvalidEdit, match="cannot read"):
        list(accept(tmp_path / "review.jsonl", tmp_path / "none.jsonl"))
