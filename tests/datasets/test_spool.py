"""What an import keeps on disk is what it would have kept in memory, at a memory that does not grow with the cases."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published_records import RECORDS, ZSRE, Given

from editguard.datasets.importing import import_records
from editguard.datasets.jsonl import case_from, case_record
from editguard.datasets.spool import Spool
from editguard.edits import EditCase
from editguard.errors import ConfigurationError


@settings(max_examples=30)
@given(st.lists(st.lists(st.dictionaries(st.text(), st.text()), max_size=4), max_size=4))
def test_objects_come_back_in_order_as_often_as_asked(parts: list[list[dict[str, str]]]) -> None:
    spool: Spool[dict[str, str]] = Spool(dict, dict)
    for part in parts:
        spool.extend(part)
    everything = [each for part in parts for each in part]
    assert list(spool) == list(spool) == everything
    assert len(spool) == len(everything)
    assert all(each in spool for each in everything)
    assert {"no": "such"} not in spool or {"no": "such"} in everything


def test_its_file_goes_with_it() -> None:
    spool: Spool[EditCase] = Spool(case_record, case_from)
    path = Path(spool._path)
    assert path.exists()
    del spool
    gc.collect()
    assert not path.parent.exists()


def test_a_full_disk_is_one_clear_error() -> None:
    spool: Spool[dict[str, Any]] = Spool(dict, dict)
    spool._folder.cleanup()
    with pytest.raises(ConfigurationError, match="TMPDIR"):
        spool.extend([{}])


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize(("form", "record"), RECORDS)
def test_an_import_on_disk_is_that_in_memory(form: str, record: dict[str, Any], limit: int | None) -> None:
    in_memory = import_records(Given([record]), form=form, limit=limit)
    on_disk = import_records(Given([record]), form=form, limit=limit, on_disk=True)
    assert (tuple(on_disk.cases), tuple(on_disk.tasks)) == (in_memory.cases, in_memory.tasks)
    assert [case.origin for case in on_disk.cases] == [case.origin for case in in_memory.cases]
    assert on_disk.as_dict() == in_memory.as_dict()


def test_memory_holds_an_id_and_a_fact_of_each_record_and_no_case() -> None:
    class Lands:
        name, about = "lands", {}

        def __init__(self, count: int) -> None:
            self.count = count

        def records(self) -> Any:
            for number in range(self.count):
                subject = f"Land {number}"
                record = {
                    **ZSRE,
                    "subject": subject,
                    "src": f"{'word ' * 2_000}{subject}?",
                    "rephrase": "Where? " * 500,
                }
                yield f"[{number}]", record

    def peak(count: int) -> int:
        gc.collect()
        tracemalloc.start()
        try:
            imported = import_records(Lands(count), on_disk=True)  # type: ignore[arg-type]
            assert len(imported.cases) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(20), peak(220)
    assert many - few < 200 * 1_000  # a case has more than ten thousand characters
