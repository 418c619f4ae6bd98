"""Where records come from: files with labels, and the hub, of which a stand-in is asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from published_records import COUNTERFACT, COUNTERFACT_FLAT, PIQA

from editguard.datasets.importing import import_records
from editguard.datasets.source import FileSource, HubSource, source_of
from editguard.errors import ConfigurationError, EditguardError, MalformedRecord


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Calls of the package's loader, which gives two records."""
    calls: list[dict[str, Any]] = []

    def load_dataset(name: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        calls.append({"name": name, **arguments})
        if "absent" in name:
            raise ConnectionError("offline mode\nis enabled")

        def rows() -> Iterator[dict[str, Any]]:
            yield COUNTERFACT
            if "broken" in name:
                raise OSError("connection lost")
            yield {**COUNTERFACT, "case_id": 8, **({"seen": date(2026, 1, 1)} if "dated" in name else {})}

        return rows()

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return calls


def test_a_data_set_of_the_hub_is_streamed_and_named_in_the_origin(hub: list[dict[str, Any]]) -> None:
    result = import_records(source_of("hub:someone/facts", split="test", revision="abc"))
    assert len(result.cases) == 2
    assert result.about == {"dataset": "someone/facts", "split": "test", "revision": "abc"}
    assert result.cases[1].origin["dataset"] == "someone/facts"
    assert hub[0] == {"name": "someone/facts", "split": "test", "revision": "abc", "streaming": True}
    assert source_of("hub:someone/facts").stem == "facts"
    assert source_of("hub:someone/facts").about == {"dataset": "someone/facts", "split": "train"}


def test_the_hub_out_of_reach_is_one_error(hub: list[dict[str, Any]]) -> None:
    with pytest.raises(
        ConfigurationError, match=r"cannot load hub:absent \(train\): ConnectionError: offline mode is en"
    ):
        import_records(HubSource("absent"))
    with pytest.raises(MalformedRecord, match=r"record \[1\]: cannot be loaded: OSError: connection lost"):
        import_records(HubSource("broken"))


def test_what_is_no_plain_data_is_a_malformed_record(hub: list[dict[str, Any]]) -> None:
    with pytest.raises(MalformedRecord, match=r"record \[1\]: the fields .*'seen'.* cannot be kept"):
        import_records(HubSource("dated"))


@pytest.mark.parametrize("stand_in", [None, SimpleNamespace()])
def test_without_the_package_the_extra_is_named(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    with pytest.raises(ConfigurationError, match=r"pip install 'editguard\[datasets\]'"):
        import_records(HubSource("someone/facts"))


def test_options_of_files_and_of_the_hub_are_kept_apart(tmp_path: Path) -> None:
    for options in ({"split": "test"}, {"revision": "abc"}):
        with pytest.raises(ConfigurationError, match="--split and --revision belong to a data set of the hub"):
            source_of("file.json", **options)
    with pytest.raises(ConfigurationError, match="--labels belongs to a file"):
        source_of("hub:piqa", labels=tmp_path)


def items(tmp_path: Path, labels: str | bytes, name: str = "labels.lst") -> FileSource:
    unlabelled = {key: value for key, value in PIQA.items() if key != "label"}
    lines = [json.dumps({**unlabelled, "goal": f"Goal {place}"}) for place in range(3)]
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    (tmp_path / name).write_bytes(labels.encode() if isinstance(labels, str) else labels)
    return FileSource(tmp_path / "items.jsonl", tmp_path / name)


def test_labels_are_joined_line_by_line(tmp_path: Path) -> None:
    source = items(tmp_path, "0\n1\n1\n")
    assert [task.answers[0] for task in import_records(source).tasks] == ["Use paper.", "Use water.", "Use water."]
    assert set(source.about) == {"file", "sha256", "labels", "labels_sha256"}


def test_labels_beside_the_items_are_found(tmp_path: Path) -> None:
    items(tmp_path, "0\n1\n1\n", "items-labels.lst")
    assert source_of(str(tmp_path / "items.jsonl")).labels == tmp_path / "items-labels.lst"  # type: ignore[attr-defined]
    (tmp_path / "items-labels.lst").unlink()
    with pytest.raises(MalformedRecord, match=r"'label' is missing.*--labels FILE"):
        import_records(source_of(str(tmp_path / "items.jsonl")))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("0\n1\n", "has fewer labels than there are records"),
        ("0\n1\n1\n0\n", "has more labels than there are records"),
        ("0\nyes\n1\n", r"labels\.lst, record 2: a label is a whole number from 0 on, not 'yes'"),
        (b"\xff\n", "cannot read the labels"),
    ],
)
def test_labels_that_do_not_fit_are_one_error(tmp_path: Path, labels: str | bytes, message: str) -> None:
    with pytest.raises(EditguardError, match=message):
        import_records(items(tmp_path, labels))


def test_the_file_s_hash_stands_in_every_case(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    hashes = []
    for end in ("", "\n"):
        path.write_text(json.dumps([COUNTERFACT_FLAT]) + end)
        [case] = import_records(FileSource(path)).cases
        assert case.origin["file"] == "facts.json"
        hashes.append(case.origin["sha256"])
    assert hashes[0] != hashes[1]
