"""Records on disk: complete parts alone count, whatever a killed process has left."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editguard.errors import ConfigurationError, MalformedRecord
from editguard.study.folder import StudyFolder
from editguard.study.plan import Cell

CELL = Cell("rome", "single", 1)
VALUES = [{"value": 1.0, "answer": "a\u2028b\n"}, {"value": 0.0, "answer": '"end":'}]
HEADER = {"environment": {"device": "cpu", "versions": {"torch": "2"}}, "methods": {"rome": {"layer": 3}}, "notes": {}}


@pytest.fixture
def folder(tmp_path):
    return StudyFolder(tmp_path)


def test_parts_are_read_back(folder):
    folder.add(CELL, "one", VALUES, {"edits": 1})
    folder.add(CELL, "two", [], {"edits": 2})
    parts = StudyFolder(folder.path).parts(CELL)
    assert list(parts) == ["one", "two"]
    assert list(parts["one"].values) == VALUES
    assert parts["two"].end == {"edits": 2}
    assert folder.cells() == [CELL]
    assert folder.parts(Cell("rome", "batch", 1)) == {}


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_wherever_a_write_was_cut_the_parts_before_count_and_the_next_write_mends_the_file(tmp_path_factory, data):
    folder = StudyFolder(tmp_path_factory.mktemp("study"))
    for name in ("one", "two"):
        folder.add(CELL, name, VALUES, {"edits": 1})
    path = folder.path / "records" / f"{CELL.name}.jsonl"
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    found = list(StudyFolder(folder.path).parts(CELL))
    assert found == ["one", "two"][: 0 if cut < len(whole) // 2 else 1 if cut < len(whole) else 2]
    again = StudyFolder(folder.path)
    for name in ["one", "two"][len(found) :]:
        again.add(CELL, name, VALUES, {"edits": 1})
    assert path.read_bytes() == whole


def test_a_damaged_line_names_its_place(folder):
    for name in ("one", "two"):
        folder.add(CELL, name, VALUES, {"edits": 1})
    path = folder.path / "records" / f"{CELL.name}.jsonl"
    lines = path.read_text().split("\n")
    path.write_text("\n".join(["{broken", *lines[1:]]))
    with pytest.raises(MalformedRecord, match=r"rome-single-1\.jsonl, record 1: not JSON"):
        folder.parts(CELL)
    path.write_text("\n".join(lines[1:]))
    with pytest.raises(MalformedRecord, match="has 1 values"):
        folder.parts(CELL)


def test_a_last_cost_that_was_cut_short_is_left_out_and_overwritten(folder):
    folder.add_cost({"seconds": 1})
    with (folder.path / "costs.jsonl").open("a") as file:
        file.write('{"sec')
    assert folder.costs() == [{"seconds": 1}]
    folder.add_cost({"seconds": 2})
    assert folder.costs() == [{"seconds": 1}, {"seconds": 2}]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"environment": {"device": "cuda", "versions": {"torch": "2"}}}, "environment.device = 'cpu'"),
        ({"environment": {"device": "cpu", "versions": {"torch": "3"}}}, "environment.versions.torch = '2'"),
        ({"methods": {"rome": {"layer": 4}}}, r"rome.layer = 3"),
        ({"seed": 1}, "seed = None"),
    ],
)
def test_another_study_in_the_folder_is_refused_and_the_difference_named(folder, change, named):
    folder.begin(HEADER)
    before = (folder.path / "study.json").read_bytes()
    with pytest.raises(ConfigurationError, match=named):
        folder.begin({**HEADER, **change})
    assert (folder.path / "study.json").read_bytes() == before


def test_methods_join_and_notes_may_differ(folder):
    folder.begin(HEADER)
    folder.begin({**HEADER, "methods": {"ft-l": {}}, "notes": {"threads": 2}})
    folder.begin({**HEADER, "methods": {"rome": {"layer": 3}}})
    assert folder.header()["methods"] == {"rome": {"layer": 3}, "ft-l": {}}


def test_no_study_and_a_foreign_one_are_one_error(folder):
    with pytest.raises(ConfigurationError, match="holds no study"):
        folder.header()
    (folder.path / "study.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(ConfigurationError, match="format 99"):
        folder.header()
    (folder.path / "study.json").write_text("{")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        folder.header()


def test_records_without_a_header_are_refused(folder):
    folder.add(CELL, "one", [], {})
    with pytest.raises(ConfigurationError, match=r"no study\.json"):
        folder.begin(HEADER)


def test_only_one_process_works_on_a_study(folder):
    with (
        folder.locked(),
        pytest.raises(ConfigurationError, match="another process"),
        StudyFolder(folder.path).locked(),
    ):
        pass
    with folder.locked():
        pass


@settings(max_examples=15, deadline=None)
@given(came=st.lists(st.sampled_from("abcde"), min_size=1, max_size=6), cut=st.booleans())
def test_parts_are_brought_into_an_order_with_others_behind_them_and_the_later_of_one_name(tmp_path_factory, came, cut):
    folder, wanted = StudyFolder(tmp_path_factory.mktemp("study")), ["a", "b", "c"]
    for position, name in enumerate(came):
        folder.add(CELL, name, VALUES, {"edits": position})
    path = folder.path / "records" / f"{CELL.name}.jsonl"
    if cut:
        path.write_bytes(path.read_bytes() + b'{"part":"a","val')
    before = dict(folder.parts(CELL))
    folder.arrange(CELL, wanted)
    after = folder.parts(CELL)
    assert after == before
    others = [name for name in before if name not in wanted]
    assert list(after) == [name for name in wanted if name in before] + others
    raw, made = path.read_bytes(), path.stat().st_ino
    folder.arrange(CELL, wanted)
    assert (path.read_bytes(), path.stat().st_ino) == (raw, made)
    folder.add(CELL, "f", VALUES, {"edits": 9})
    assert list(folder.parts(CELL)) == [*after, "f"]
