"""Cases as a table: there and back, written by hand, and what is said about mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from editguard.datasets.csv_table import COLUMNS, write_csv
from editguard.datasets.jsonl import case_from
from editguard.datasets.streams import file_records
from editguard.edits import EditCase, EditRequest, Probe
from editguard.errors import InvalidEdit, MalformedRecord

HEAD = "prompt,subject,target,property,kind,probe,answers,knows\n"

texts = st.text(alphabet='a |\\=>\n\r\t,";é', min_size=1, max_size=10).filter(lambda text: text.strip())
probes = st.builds(
    Probe,
    property=st.sampled_from(["generalization", "other_tasks"]),
    kind=texts,
    prompt=texts,
    answers=st.lists(texts, min_size=1, max_size=3).map(tuple),
    choices=st.lists(texts, max_size=2).map(tuple),
    knows=st.lists(st.tuples(texts, texts), max_size=2).map(tuple),
)
requests = st.builds(
    EditRequest, prompt=texts.map(lambda text: f"{text}{{}}"), subject=texts, target=texts, previous=st.none() | texts
)
origins = st.dictionaries(texts, texts | st.integers() | st.none(), max_size=2)
cases = st.builds(
    EditCase,
    request=requests,
    probes=st.lists(probes, max_size=3).map(tuple),
    label=st.just("") | texts,
    origin=origins,
)


def read(path: Path) -> list[EditCase]:
    return [case_from(record) for _, record in file_records(path)]


AWKWARD = ' a|b\\\\|c => d\\\r\n\t,";é '


@given(st.lists(cases, max_size=4))
@example(
    [
        EditCase(
            request=EditRequest(prompt=f"{AWKWARD}{{}}", subject=AWKWARD, target=AWKWARD, previous=AWKWARD),
            probes=(
                Probe(
                    property="other_tasks",
                    kind=AWKWARD,
                    prompt=AWKWARD,
                    answers=(AWKWARD, "\\", "=>"),
                    choices=(AWKWARD, "|"),
                    knows=((AWKWARD, AWKWARD), ("\\", "=>")),
                ),
            ),
            origin={AWKWARD: AWKWARD},
        )
    ]
)
@settings(deadline=None)
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, written: list[EditCase]) -> None:
    path = tmp_path_factory.mktemp("table") / "cases.csv"
    write_csv(path, written)
    found = read(path)
    assert found == written
    assert [(case.label, case.origin) for case in found] == [(case.label, case.origin) for case in written]


def table(tmp_path: Path, *rows: str, head: str = HEAD) -> Path:
    path = tmp_path / "cases.csv"
    path.write_text(head + "\n".join(rows), encoding="utf-8")
    return path


def test_a_row_without_an_edit_adds_a_probe_to_the_case_above(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "The capital of {} is,Velloria,Oskar,generalization,rephrase,Velloria's capital is, Oskar | Oskar City ,",
        ",,,locality,neighbourhood,The capital of Norn is,,",
        "",
        ",,,portability,one_hop,The mayor there is,Ines,The mayor of Oskar is => Ines | Oskar lies in => Norn",
        '"{} speaks",Ines,Norn,,,,,',
    )
    first, second = read(path)
    assert [probe.kind for probe in first.probes] == ["rephrase", "neighbourhood", "one_hop"]
    assert first.probes[0].answers == ("Oskar", "Oskar City")
    assert first.probes[2].knows == (("The mayor of Oskar is", "Ines"), ("Oskar lies in", "Norn"))
    assert (second.request.subject, second.probes) == ("Ines", ())
    assert [position for position, _ in file_records(path)] == ["2", "5"]


def test_the_module_shows_a_table_that_reads(tmp_path: Path) -> None:
    from editguard.datasets import csv_table

    lines = [line.strip() for line in str(csv_table.__doc__).splitlines() if line.startswith("    ")]
    [case] = read(table(tmp_path, *lines, head=""))
    assert case.request.relation == "capital"
    assert [probe.property for probe in case.probes] == ["generalization", "locality"]
    assert tuple(lines[0].split(",")) == COLUMNS


@pytest.mark.parametrize(
    ("head", "row", "record", "message"),
    [
        ("prompt,subject\n", "a,b", 1, "no column 'target'; the columns of a table are prompt, subject"),
        ("prompt,subject,target,answer\n", "a,b,c,d", 1, "the column 'answer' is unknown or twice"),
        ("prompt,subject,target,target\n", "a,b,c,d", 1, "unknown or twice"),
        (HEAD, "a,b", 2, "the row has not 8 cells"),
        (HEAD, "a,b,c,d,e,f,g,h,i", 2, "the row has not 8 cells"),
        (HEAD, ",,,locality,neighbourhood,P,,", 2, "a probe stands before the first edit"),
        (HEAD, "a {},b,c,portability,one_hop,P,A,no pair", 2, "'prompt => answer', not 'no pair'"),
        (HEAD, 'a {},"b', 1, "not a table"),
        ("prompt,subject,target,origin\n", "a {},b,c,{", 2, "'origin' is no JSON object"),
    ],
)
def test_a_mistake_names_the_row(tmp_path: Path, head: str, row: str, record: int, message: str) -> None:
    path = table(tmp_path, row, head=head)
    with pytest.raises(MalformedRecord, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}, record {record}: ")


def test_a_table_that_is_no_text_and_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    path.write_bytes(b"prompt,subject,target\n\xff,b,c\n")
    with pytest.raises(MalformedRecord, match="not a table"):
        read(path)
    with pytest.raises(InvalidEdit, match="cannot write"):
        write_csv(path / "below.csv", [])
