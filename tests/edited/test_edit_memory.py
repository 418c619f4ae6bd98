"""The memory of edits, against a plain list of rows and against brute force."""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edited.toy_encoder import CentredEncoder, LetterEncoder
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, rule
from safetensors.torch import load_file

from editguard.edited import EditMemory, MemoryRow, Search
from editguard.edited.edit_memory import by_key, by_text
from editguard.edited.searching import nearest_places
from editguard.edits import EditRequest
from editguard.errors import InvalidEdit, MemoryFull, MemoryUnreadable
from editguard.methods.n_grams import TfidfEncoder

requests = st.builds(
    EditRequest,
    prompt=st.sampled_from(["{} bad", "cab of {}", "Cab of {}"]),
    subject=st.sampled_from(["deed", "Deed", "ace"]),
    target=st.sampled_from(["a", "bb", "ede"]),
    relation=st.sampled_from([None, "beds", "dads"]),
)
rows = st.one_of(
    st.builds(MemoryRow.of, requests),
    st.builds(
        MemoryRow,
        key=st.sampled_from(["cab  of deed", "Cab of deed", "e"]),
        text=st.sampled_from(["ab", "ba", "cd"]),
        request=st.none() | requests,
    ),
)
queries = st.text("abcde ", min_size=1, max_size=6)
SEARCHES = [
    Search(encoder, text_of)
    for encoder in (LetterEncoder(), CentredEncoder(), TfidfEncoder())
    for text_of in (by_key, by_text)
]


def row(number: int, target: str = "a") -> MemoryRow:
    return MemoryRow.of(EditRequest(prompt="{} is", subject=f"bead {number}", target=target))


def added(model: Sequence[MemoryRow], new: Sequence[MemoryRow]) -> list[MemoryRow]:
    """What a memory is, in three lines."""
    held = list(model)
    for one in new:
        held = [each for each in held if each.fact != one.fact and each.id != one.id] + [one]
    return held


def brute_force(model: Sequence[MemoryRow], search: Search, query: str, count: int) -> list[tuple[MemoryRow, float]]:
    """The nearest rows, found by an index of these rows alone and by sorting."""
    if not model:
        return []
    [found] = search.encoder.index([search.text_of(one) for one in model]).similarities([query])
    order = sorted(range(len(model)), key=lambda place: (-round(float(found[place]), 5), place))[:count]
    return [(model[place], float(found[place])) for place in order]


def assert_found(memory: EditMemory, model: Sequence[MemoryRow], search: Search, query: str, count: int) -> None:
    [found] = memory.nearest(search, [query], count)
    wanted = brute_force(model, search, query, count)
    assert [one.id for one, _ in found] == [one.id for one, _ in wanted]
    np.testing.assert_allclose([near for _, near in found], [near for _, near in wanted], atol=1e-5)


class Memories(RuleBasedStateMachine):
    """Versions of memories that go on from any earlier version, each beside the list that it should be."""

    versions = Bundle("versions")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.kept: list[tuple[EditMemory, list[MemoryRow]]] = []

    def keep(self, memory: EditMemory, model: list[MemoryRow]) -> tuple[EditMemory, list[MemoryRow]]:
        self.kept.append((memory, model))
        return self.kept[-1]

    @initialize(target=versions, given=st.lists(rows, max_size=3), limit=st.none() | st.integers(3, 5))
    def begin(self, given: list[MemoryRow], limit: int | None) -> Any:
        return self.keep(EditMemory(given, limit=limit), added([], given))

    @rule(target=versions, version=versions, new=st.lists(rows, max_size=4))
    def add(self, version: Any, new: list[MemoryRow]) -> Any:
        memory, model = version
        wanted = added(model, new)
        if memory.limit is not None and len(wanted) > memory.limit:
            with pytest.raises(MemoryFull, match=f"limit of {memory.limit} rows"):
                memory.added(new)
            return multiple()
        return self.keep(memory.added(new), wanted)

    @rule(target=versions, version=versions, data=st.data())
    def withdraw(self, version: Any, data: st.DataObject) -> Any:
        memory, model = version
        gone = data.draw(st.lists(st.sampled_from(model), unique_by=id)) if model else []
        ids = {one.id for one in gone}
        return self.keep(memory.withdrawn(one.id for one in gone), [one for one in model if one.id not in ids])

    @rule(version=versions)
    def withdraw_what_is_not_there(self, version: Any) -> None:
        with pytest.raises(InvalidEdit, match="no row 'nothing'"):
            version[0].withdrawn(["nothing"])

    @rule(target=versions, version=versions, limit=st.none() | st.integers(1, 6))
    def limit(self, version: Any, limit: int | None) -> Any:
        memory, model = version
        if limit is not None and len(model) > limit:
            with pytest.raises(MemoryFull):
                memory.limited(limit)
            return multiple()
        limited = memory.limited(limit)
        assert limited.limit == limit
        return self.keep(limited, model)

    @rule(target=versions, version=versions)
    def save_and_load(self, version: Any) -> Any:
        memory, model = version
        path = Path(self.folder.name) / f"{len(self.kept)}.json"
        memory.save(path)
        loaded = EditMemory.load(path)
        assert loaded.limit == memory.limit
        return self.keep(loaded, model)

    @rule(version=versions, search=st.sampled_from(SEARCHES), query=queries, count=st.integers(1, 4))
    def find(self, version: Any, search: Search, query: str, count: int) -> None:
        assert_found(*version, search, query, count)

    def teardown(self) -> None:
        for memory, model in self.kept:
            assert list(memory) == model
            assert len(memory) == len(model)
            assert [one.id for one in memory.rows] == list(dict.fromkeys(one.id for one in model))
            assert all(one in memory and one.id in memory for one in model)
            assert "nothing" not in memory
            assert memory.subjects == {one.request.subject for one in model if one.request}
        for memory, model in self.kept[::4]:  # the newest versions have been searched by now
            for search in SEARCHES[1::2]:
                assert_found(memory, model, search, "cab", 2)
        self.folder.cleanup()


TestMemories = Memories.TestCase
TestMemories.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)


# ---- rows


def test_two_rows_of_one_id_or_one_fact_are_one_and_the_newer_stands_at_the_end() -> None:
    first, other = row(1), row(2)
    relabelled = MemoryRow.of(replace(first.request, relation="kind"))
    assert relabelled.id == first.id
    assert relabelled.fact != first.fact
    for contradicting in (row(1, "b"), relabelled):
        assert EditMemory([first, other, contradicting]).rows == (other, contradicting)
        assert EditMemory([first, other]).added([contradicting]).rows == (other, contradicting)
        assert EditMemory([first]).added([other]).added([contradicting]).rows == (other, contradicting)


def test_a_row_without_a_request_has_an_id_and_a_fact_of_its_own() -> None:
    feedback = MemoryRow(key="What is  a Bead?", text="I mean glass")
    again = MemoryRow(key="what is a bead?", text="I mean prayer")
    assert feedback.id != again.id
    assert EditMemory([feedback, again]).rows == (again,)
    assert again.id in EditMemory([again])


@pytest.mark.parametrize("wrong", ["", " \n", 3, None, "a\ud800"])
def test_a_row_is_made_of_texts(wrong: Any) -> None:
    for fields in ({"key": wrong, "text": "a"}, {"key": "a", "text": wrong}):
        with pytest.raises(InvalidEdit, match=r"the (key|text) of a row"):
            MemoryRow(**fields)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_leaves_room_for_a_row(limit: int) -> None:
    with pytest.raises(InvalidEdit, match="at least one row"):
        EditMemory(limit=limit)
    with pytest.raises(InvalidEdit, match="at least one row"):
        EditMemory().limited(limit)


def test_nothing_is_added_when_there_is_no_room_for_all() -> None:
    memory = EditMemory([row(1), row(2)], limit=2)
    with pytest.raises(MemoryFull, match="would have 3"):
        memory.added([row(1, "b"), row(3)])
    assert memory.rows == (row(1), row(2))
    assert memory.added([row(1, "b")]).rows == (row(2), row(1, "b"))


# ---- searching


@given(
    numbers=st.lists(st.integers(-3, 3), min_size=1, max_size=12),
    noise=st.lists(st.floats(-2e-7, 2e-7), min_size=12, max_size=12),
    count=st.integers(1, 5),
)
def test_of_similarities_that_rounding_alone_tells_apart_the_first_is_nearest(
    numbers: list[int], noise: list[float], count: int
) -> None:
    shaken = np.array(numbers, dtype=float) + noise[: len(numbers)]
    wanted = sorted(range(len(numbers)), key=lambda place: (-numbers[place], place))[:count]
    assert nearest_places(shaken, count) == wanted


def test_each_row_is_encoded_once_in_a_sequence_of_additions_and_withdrawals() -> None:
    encoder = LetterEncoder()
    search = Search(encoder, by_text)
    memory = EditMemory()
    versions = []
    for number in range(200):
        memory = memory.added([row(number % 150, "a" * (number % 7 + 1))])
        memory.nearest(search, ["Query"])
        versions.append(memory)
    asked = encoder.encoded.count("Query")
    assert asked == 200
    assert len(encoder.encoded) == 200 + asked
    for version in versions[::50]:
        version.nearest(search, ["Query"])
    memory.withdrawn([row(149, "a" * (149 % 7 + 1)).id]).nearest(search, ["Query"])
    branch = versions[100].added([row(1_000)])
    branch.nearest(search, ["Query"])
    assert len(encoder.encoded) - encoder.encoded.count("Query") == 201


def test_a_long_batch_of_questions_is_answered_as_one_by_one() -> None:
    memory = EditMemory(row(number, "abcde"[number % 5] * 3) for number in range(9))
    asked = [f"{letter * number}" for letter in "abcde" for number in range(1, 31)]
    search = SEARCHES[1]
    assert memory.nearest(search, asked, 2) == [memory.nearest(search, [each], 2)[0] for each in asked]
    assert EditMemory().nearest(search, ["a", "b"]) == [[], []]


# ---- on disk

TWO = EditMemory(
    [
        MemoryRow.of(EditRequest(prompt="{} is ü", subject="ace", target="bed", previous="bad", relation="r")),
        MemoryRow(key="wörd", text="two\nlines"),
    ],
    limit=7,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "edits.json"


def vectors_of(path: Path) -> Path:
    return path.with_name(path.name + ".safetensors")


def test_vectors_are_kept_with_the_rows_and_none_is_encoded_again(path: Path) -> None:
    encoder = LetterEncoder()
    search = Search(encoder, by_text)
    memory = EditMemory(row(number, "abc"[number % 3]) for number in range(6)).withdrawn([row(2, "c").id])
    wanted = memory.nearest(search, ["cab"], 3)
    memory = memory.added([row(9)])
    memory.save(path)
    own = LetterEncoder()
    loaded = EditMemory.load(path)
    assert loaded.added([row(9, "e")]).rows == (*loaded.rows[:-1], row(9, "e"))
    branch = loaded.withdrawn([row(0).id])
    assert branch.nearest(Search(own, by_text), ["q"], 9)
    assert loaded.withdrawn([row(9).id]).nearest(Search(own, by_text), ["cab"], 3) == wanted
    assert own.encoded == ["q", "cab"]

    shorter = EditMemory.load(path).withdrawn([row(0).id])
    shorter.added([row(9, "e")])
    parted, own = shorter.withdrawn([row(9).id]), LetterEncoder()  # a log of its own, without the first row
    assert_found(parted, list(parted), Search(own, by_text), "cab", 3)
    assert own.encoded[0] == "cab"

    again = EditMemory.load(path)
    again.withdrawn([row(1, "b").id]).save(path)  # not searched in between
    third = EditMemory.load(path)
    assert len(third.nearest(Search(LetterEncoder(encoded=(third_log := [])), by_text), ["cab"], 9)[0]) == 5
    assert third_log == ["cab"]


def test_vectors_of_other_rows_or_another_search_are_left_alone(path: Path) -> None:
    search = SEARCHES[1]
    first, second = EditMemory([row(1)]), EditMemory([row(2, "b"), row(3)])
    second.save(path)
    assert not vectors_of(path).exists()
    first.nearest(search, ["a"])
    first.save(path)
    kept = vectors_of(path).read_bytes()
    second.save(path)  # no search has made vectors of its rows
    assert vectors_of(path).read_bytes() == kept
    own = LetterEncoder()
    loaded = EditMemory.load(path)
    assert loaded.nearest(Search(own, by_text), ["b"])[0][0][0] == row(2, "b")
    assert len(own.encoded) == 3

    first.save(path)
    own = LetterEncoder()
    EditMemory.load(path).nearest(Search(own, by_key), ["b"])
    assert len(own.encoded) == 2


def test_vectors_of_another_width_are_one_clear_error(path: Path) -> None:
    memory = EditMemory([row(1)])
    memory.nearest(SEARCHES[1], ["a"])
    memory.save(path)
    with pytest.raises(MemoryUnreadable, match=r"edits\.json\.safetensors: .*5 numbers .*makes 2: remove the file"):
        EditMemory.load(path).nearest(Search(LetterEncoder("ab"), by_text), ["a"])


def test_an_empty_memory_is_saved_too(path: Path) -> None:
    memory = EditMemory([row(1)])
    memory.nearest(SEARCHES[1], ["a"])
    memory.withdrawn([row(1).id]).save(path)
    loaded = EditMemory.load(path)
    assert (len(loaded), loaded.limit, loaded.nearest(SEARCHES[1], ["a"])) == (0, None, [[]])


@given(length=st.integers(0, 400))
@settings(max_examples=25, deadline=None)
def test_a_file_that_ends_early_is_named(length: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.json"
    TWO.nearest(SEARCHES[1], ["a"])
    TWO.save(path)
    for file in (path, vectors_of(path)):
        whole = file.read_bytes()
        cut = min(length, len(whole) - 2)  # without its last line end the file of rows is whole
        file.write_bytes(whole[:cut])
        with pytest.raises(MemoryUnreadable, match=r"cut\.json.*(damaged|no memory).*(Take|Remove)"):
            EditMemory.load(path)
        file.write_bytes(whole)
    assert EditMemory.load(path).rows == TWO.rows


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Ways to every value inside a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


@given(data=st.data(), other=json_values | st.just("\ud800"))
@settings(max_examples=60, deadline=None)
def test_a_file_with_any_value_replaced_is_read_or_refused(
    data: st.DataObject, other: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "other.json"
    TWO.save(path)
    record = json.loads(path.read_text(encoding="utf-8"))
    *way, last = data.draw(st.sampled_from([each for each in places(record) if each]))
    parent = record
    for key in way:
        parent = parent[key]
    parent[last] = other
    path.write_text(json.dumps(record), encoding="utf-8")
    try:
        loaded = EditMemory.load(path)
    except MemoryUnreadable as error:
        refused = str(error)
    else:
        refused = ""
        loaded.save(path)
        assert EditMemory.load(path).rows == loaded.rows
    assert not refused or str(path) in refused


WRONG = [
    ({"rows": [{}]}, r"row 1: the field 'key' is missing. Mend"),
    (
        {"rows": [{"request": {"prompt": "{} is", "subject": "a"}}]},
        r"row 1, the field 'request': .*'target' is missing",
    ),
    ({"rows": [{"request": {"prompt": "x", "subject": "a", "target": "b"}}]}, r"row 1, the field 'request': .*no \{\}"),
    (
        {"rows": [{"request": {"prompt": "{} x", "subject": "a", "target": "b", "relation": 3}}]},
        r"row 1, the field 'request': the field 'relation' is a text, not 3\. Mend",
    ),
    (
        {"rows": [{"key": "a", "text": "b"}, {"key": "c", "txt": "b"}]},
        r"row 2: there is no field 'txt'.*Did you mean 'text'\? Mend",
    ),
    ({"rows": [{"key": "a", "text": 4}]}, r"row 1: the text of a row .* it is 4\. Mend"),
    ({"rows": [5]}, r"row 1 is a JSON object, not 5\. Mend"),
    ({"rows": {}}, r"the field 'rows': it is a list"),
    ({"rows": [], "limit": 0}, r"the field 'limit': .*at least one row"),
    ({"rows": [], "limit": True}, r"the field 'limit': it is a number or null, not True"),
    ({"rows": [{"key": "a", "text": "b"}, {"key": "c", "text": "d"}], "limit": 1}, r"the field 'limit': .*limit of 1"),
    ({"rows": [], "format": 2}, r"has the format 2, and this version reads 1: .*update editguard"),
    ({"rows": [], "kind": "else"}, r"is JSON, but no memory of edits"),
]


@pytest.mark.parametrize(("record", "message"), WRONG, ids=[message for _, message in WRONG])
def test_the_error_names_file_row_and_field_and_says_what_to_do(record: Any, message: str, path: Path) -> None:
    path.parent.mkdir()
    path.write_text(json.dumps({"format": 1, "kind": "editguard edit memory", "limit": None} | record))
    with pytest.raises(MemoryUnreadable, match=r"(?s)edits\.json.*" + message):
        EditMemory.load(path)


@pytest.mark.parametrize("text", ["", "[" * 100_000, "\udcff", "null", "[]"])
def test_a_foreign_file_is_named(text: str, path: Path) -> None:
    path.parent.mkdir()
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(MemoryUnreadable, match=r"edits\.json"):
        EditMemory.load(path)


def test_a_file_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(MemoryUnreadable, match=r"edits\.json: No such file.*EditMemory\.save"):
        EditMemory.load(path)


def test_vectors_that_are_not_those_of_the_rows_are_damage(path: Path) -> None:
    from safetensors.torch import save_file

    memory = EditMemory([row(1), row(2)])
    memory.nearest(SEARCHES[1], ["a"])
    memory.save(path)
    file = vectors_of(path)
    [(name, numbers)] = load_file(file).items()
    header = json.loads(file.read_bytes()[8 : 8 + int.from_bytes(file.read_bytes()[:8], "little")])
    for wrong in (numbers[:1], numbers[0]):
        save_file({name: wrong.contiguous()}, file, header["__metadata__"])
        with pytest.raises(MemoryUnreadable, match=r"does not hold 2 vectors\. Remove it"):
            EditMemory.load(path)


def test_a_write_that_fails_leaves_the_old_files(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = EditMemory([row(1)])
    memory.nearest(SEARCHES[1], ["a"])
    memory.save(path)
    before = {file: file.read_bytes() for file in path.parent.iterdir()}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(MemoryUnreadable, match="No space left"):
        memory.added([row(2)]).save(path)
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


def test_rows_whose_vectors_were_not_written_in_time_are_encoded_again(path: Path) -> None:
    """The vectors are written first: a process that dies before the rows are leaves rows that they do not fit."""
    memory = EditMemory([row(1)])
    memory.nearest(SEARCHES[1], ["a"])
    memory.save(path)
    rows_before = path.read_bytes()
    longer = memory.added([row(2, "b")])
    longer.nearest(SEARCHES[1], ["a"])
    longer.save(path)
    path.write_bytes(rows_before)
    own = LetterEncoder()
    assert EditMemory.load(path).nearest(Search(own, by_text), ["a"])[0][0][0] == row(1)
    assert own.encoded == ["bead 1 is a", "a"]
