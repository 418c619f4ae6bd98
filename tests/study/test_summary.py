"""Numbers and tables from records alone."""

import json

import pytest
from study.fakes import CASES, Scripted

from editguard.errors import MethodRefused
from editguard.measurements import mean_interval, wilson
from editguard.study import table
from editguard.study.folder import StudyFolder
from editguard.study.plan import Cell
from editguard.study.results import read_results
from editguard.study.summary import costs_of, summarised, write_summary


def value(case, number, name="reliability", kind="request", **more):
    record = {"case": case, "property": name, "kind": kind, "probe": f"{case}{kind}{more.get('at', 0)}"}
    return {**record, "outcome": "other", "value": number, "token_accuracy": 0.5, "unit": "fraction", "answer": ""}


def end(edits=1, failed=(), superseded=(), excluded=None):
    return {
        "edits": edits,
        "applied": edits,
        "failed": list(failed),
        "superseded": list(superseded),
        "excluded": excluded or {},
    }


def lookup(tokens, route="in-scope", outcome=""):
    return {"route": route, "retrieved": [["a", 0.5]], "tokens": tokens, "calls": 1, "outcome": outcome}


@pytest.fixture
def folder(tmp_path):
    folder = StudyFolder(tmp_path)
    folder.begin({"methods": {"rome": {}, "ft-l": {}}, "notes": {"model": "tiny"}})
    return folder


def row(folder, name):
    return next(row for row in summarised(folder) if row.cell.name == name)


def test_a_mean_is_over_all_parts_with_edits_as_clusters(folder):
    numbers = {"a": (1.0, 0.0), "b": (1.0, 1.0), "c": (0.0, 0.0)}
    for name, (one, other) in numbers.items():
        values = [value(name, one, "locality", at=0), value(name, other, "locality", at=1), value(name, 1.0)]
        folder.add(Cell("rome", "single", 1), name, values, end())
    found = row(folder, "rome-single-1")
    flat = [number for pair in numbers.values() for number in pair]
    low, high = mean_interval(flat, [name for name in numbers for _ in range(2)], binary=True)
    locality = found.numbers["locality"]
    assert locality["mean"] == 0.5
    assert (locality["low"], locality["high"]) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))
    assert (locality["cases"], locality["clusters"], locality["token_accuracy"]) == (6, 3, 0.5)
    assert found.numbers["reliability"]["low"] == pytest.approx(wilson(3, 3)[0], abs=1e-6)
    assert found.edits == 3


def test_kinds_are_kept_apart_and_graded_values_have_no_binary_interval(folder):
    values = [value("a", 1.0, "portability", "one_hop"), value("a", 0.0, "portability", "subject_replace")]
    values += [{**value(name, 0.0 if name == "a" else 1.0, "fluency"), "unit": "bits"} for name in "ab"]
    folder.add(Cell("rome", "batch", 2), "2", values, end(2))
    numbers = row(folder, "rome-batch-2").numbers
    assert numbers["portability/one_hop"]["mean"] == 1.0
    assert numbers["portability/subject_replace"]["mean"] == 0.0
    assert numbers["portability"]["mean"] == 0.5
    assert (numbers["fluency"]["low"], numbers["fluency"]["high"]) == (0.0, 1.0)


def test_values_that_are_none_enter_no_mean(folder):
    folder.add(Cell("rome", "batch", 1), "1", [value("a", None), value("b", 1.0)], end())
    found = row(folder, "rome-batch-1").numbers["reliability"]
    assert (found["mean"], found["cases"], found["invalid"]) == (1.0, 1, 1)


def test_rows_are_in_order_of_mode_size_and_method(folder):
    for name in ("rome-sequence-10", "rome-sequence-9", "ft-l-batch-2", "rome-batch-2", "unedited-batch-2"):
        folder.add(Cell.named(name), "1", [value("a", 1.0)], end())
    for size in (2, 3):
        folder.add(Cell("unedited", "single", size), str(size), [value("a", 1.0)], end(size))
    names = [row.cell.name for row in summarised(folder)]
    assert names == [
        "unedited-single-3",
        "unedited-batch-2",
        "ft-l-batch-2",
        "rome-batch-2",
        "rome-sequence-9",
        "rome-sequence-10",
    ]


def test_the_table_shows_failures_superseded_edits_and_who_does_not_batch(folder):
    failed = [{"case": "b", "reason": "refused", "message": "u.k is negative"}]
    folder.add(Cell("rome", "batch", 2), "2", [value("a", 1.0)], end(2, failed))
    folder.add(Cell("ft-l", "batch", 2), "2", [value("a", 1.0)], end(2, superseded=["x"]))
    rows = summarised(folder)
    for text in (table.terminal(folder, rows), table.markdown(folder, rows)):
        assert "rome *" in text
        assert "ft-l *" not in text
        assert "1 refused" in text
        assert "u.k is negative" in text
        assert "2 (1 superseded)" in text
        assert "Batch of 2" in text
        assert "1.00" in text
        assert "reversed relation" not in text


def test_work_that_was_done_twice_costs_once_and_the_first_preparation_counts(folder):
    def cost(phase, seconds):
        return {"method": "rome", "phase": phase, "edits": 1 if phase == "edit" else 0, "seconds": seconds}

    for seconds in (5.0, 0.1):
        folder.add_cost({"method": "rome", "costs": [cost("prepare", seconds)]})
    for seconds in (9.0, 2.0):
        folder.add_cost({"cell": "rome-batch-1", "part": "1", "costs": [cost("edit", seconds), cost("evaluate", 3.0)]})
    [found] = costs_of(folder)
    assert (found["seconds_per_edit"], found["preparation_seconds"], found["evaluation_seconds"]) == (2.0, 5.0, 3.0)


def test_two_runs_have_the_same_summary_to_the_byte_and_tables_are_made_again_from_the_records(study, tmp_path):
    def refuse(request):
        if request.subject == CASES[0].request.subject:
            raise MethodRefused("no")

    Scripted.before = staticmethod(refuse)
    written = []
    for out in ("one", "two"):
        folder = study(out=out, single=2, sequences=(2,))
        rows = summarised(folder)
        write_summary(folder, rows, table.markdown(folder, rows))
        written.append((folder.path / "summary.json").read_bytes())
    assert written[0] == written[1]
    assert b"seconds" not in written[0]
    summary = json.loads(written[0])
    assert {row["method"] for row in summary["rows"]} == {"unedited", "scripted"}
    assert json.loads((tmp_path / "one" / "costs.json").read_text())["rows"]


@pytest.mark.parametrize("width", [60, 90, 120, 200])
def test_on_a_screen_columns_that_do_not_fit_stand_below_with_the_methods_again(folder, width):
    kinds = {"locality": ("neighbourhood", "distracting_neighbourhood", "other_relation"), "portability": ("one_hop",)}
    values = [value("a", 1.0, name, kind) for name, found in kinds.items() for kind in found] + [value("a", 1.0)]
    folder.add(Cell("rome", "single", 1), "a", values, end())
    text = table.terminal(folder, summarised(folder), width)
    narrow = text.partition("Mean with")[0]
    assert max(map(len, narrow.splitlines())) <= width
    assert narrow.count("n=1") == 5
    assert narrow.count("rome") == narrow.count("method")
    assert (narrow.count("method") > 1) == (width < 100)


def test_a_method_that_was_refused_before_its_first_edit_costs_nothing_and_has_its_reason_in_the_table(folder):
    cell = Cell("rome", "single", 1)
    folder.add_cost({"cell": cell.name, "part": "a", "costs": []})
    folder.add(cell, "a", [], end(failed=[{"case": "a", "reason": "refused", "message": "no such layer"}]))
    assert costs_of(folder) == []
    assert "no such layer" in table.terminal(folder, summarised(folder))


def test_sizes_are_means_over_states_and_shared_among_the_edits_in_force(folder):
    for name, size in (("a", 100), ("b", 300)):
        folder.add(Cell("rome", "single", 1), name, [value(name, 1.0)], {**end(), "stored_bytes": size})
    folder.add(Cell("rome", "sequence", 9), "9", [value("a", 1.0)], {**end(9), "applied": 8, "stored_bytes": 1000})
    single, sequence = row(folder, "rome-single-1"), row(folder, "rome-sequence-9")
    assert (single.stored_bytes, single.stored_bytes_per_edit) == (200.0, 200.0)
    assert (sequence.stored_bytes, sequence.stored_bytes_per_edit) == (1000.0, 125.0)
    assert sequence.to_json()["stored_bytes_per_edit"] == 125.0


@pytest.mark.parametrize("known", [False, True])
def test_what_earlier_records_do_not_say_is_missing_and_not_zero(folder, known):
    cell = Cell("rome", "batch", 2)
    answering = {"answering": {"prompts": 4, "edited_seconds": 0.5, "unedited_seconds": 0.25}} if known else {}
    costs = [{"method": "rome", "phase": "edit", "edits": 2, "seconds": 6.0}]
    folder.add_cost({"cell": cell.name, "part": "2", "costs": costs, **answering})
    values = [{**value("a", 1.0), **({"lookup": lookup(30)} if known else {})}]
    folder.add(cell, "2", values, {**end(2), **({"stored_bytes": 4096} if known else {})})
    rows = summarised(folder)
    [found] = costs_of(folder)
    times = (found["answer_seconds"], found["unedited_answer_seconds"], found["answer_ratio"])
    assert times == ((0.5, 0.25, 2.0) if known else (None, None, None))
    assert rows[0].stored_bytes == (4096 if known else None)
    assert rows[0].to_json()["stored_bytes"] == (4096 if known else None)
    [line] = [line for line in table.markdown(folder, rows).splitlines() if line.startswith("| Batch of 2")]
    shown = [part.strip() for part in line.strip("|").split("|")]
    sizes_and_answers = (["4.0", "2.0"], ["500", "250"], ["30"]) if known else ([""] * 2, [""] * 2, [""])
    sizes, answers, tokens = sizes_and_answers
    assert shown[-6:] == [*sizes, *answers, "", *tokens]
    assert found["overhead_seconds_per_token"] is None
    assert [block.title for block in table.blocks(folder, rows)] == ["Batch of 2", table.COSTS, table.PUBLISHED]
    assert found["phases"]["edit"]["host_peak_bytes"] is None


def test_answers_through_a_memory_say_what_they_cost_how_often_it_took_them_and_how_they_ended(folder):
    found = [lookup(10, outcome="answered"), lookup(20, "out-of-scope", "capped"), lookup(60, outcome="answered")]
    values = [{**value("a", 1.0, "locality", at=at), "lookup": one} for at, one in enumerate(found)]
    folder.add(Cell("rome", "single", 1), "a", [*values, value("a", 1.0)], end())
    one = row(folder, "rome-single-1")
    assert one.tokens_per_answer == one.numbers["locality"]["tokens"] == 30
    assert one.numbers["locality"]["in_scope"] == pytest.approx(2 / 3, abs=1e-6)
    assert one.numbers["locality"]["outcomes"] == {"answered": 2, "capped": 1}
    assert "tokens" not in one.numbers["reliability"]


def test_a_state_whose_size_no_change_tells_does_not_count_as_empty(folder):
    cell = Cell("rome", "single", 1)
    folder.add(cell, "a", [value("a", 1.0)], {**end(), "stored_bytes": None})
    assert row(folder, cell.name).stored_bytes is None
    folder.add(cell, "b", [value("b", 1.0)], {**end(), "stored_bytes": 60})
    assert row(folder, cell.name).stored_bytes == 60


def test_of_answers_that_were_timed_twice_the_later_count_and_the_middle_one_of_the_states(folder):
    cell = Cell("rome", "single", 1)
    costs = [{"method": "rome", "phase": "edit", "edits": 1, "seconds": 6.0}]
    for part, seconds in (("a", 9.0), ("a", 1.0), ("b", 2.0), ("c", 40.0)):
        answering = {"prompts": 4, "edited_seconds": seconds, "unedited_seconds": 0.5}
        folder.add_cost({"cell": cell.name, "part": part, "costs": costs, "answering": answering})
    [found] = costs_of(folder)
    assert (found["answer_seconds"], found["unedited_answer_seconds"], found["answer_ratio"]) == (2.0, 0.5, 4.0)


def cost(phase, seconds, *, edits=0, **more):
    return {"method": "rome", "phase": phase, "edits": edits, "seconds": seconds, **more}


def test_what_edits_cost_is_told_by_batch_with_the_first_apart_and_each_phase_by_itself(folder):
    gib = 2**30
    prepared = cost("prepare", 5.0, host_phase_peak_bytes=3 * gib, device_reserved_bytes=8 * gib, joules=100.0)
    folder.add_cost({"method": "rome", "costs": [prepared]})
    for part, (seconds, joules) in {"a": (9.0, 50.0), "b": (1.0, 1.0), "c": (2.0, 1.0), "d": (3.0, 1.0)}.items():
        edit = cost("edit", seconds, edits=1, host_phase_peak_bytes=gib, device_reserved_bytes=2 * gib, joules=joules)
        asked = cost("evaluate", 1.0, host_phase_peak_bytes=2 * gib, joules=None)
        answering = {"prompts": 2, "edited_seconds": 0.5, "unedited_seconds": 0.25, "tokens": 100}
        line = {"cell": "rome-single-1", "part": part, "costs": [edit, asked], "answering": answering}
        folder.add_cost(line)
        folder.add(Cell("rome", "single", 1), part, [value(part, 1.0)], end())
    folder.add_cost({"cell": "rome-batch-10", "part": "10", "costs": [cost("edit", 20.0, edits=10)]})
    folder.add(Cell("rome", "batch", 10), "10", [value("a", 1.0)], end(10))
    single, batch = costs_of(folder)
    assert (single["first_seconds"], single["seconds_per_edit"], single["quartile_seconds"]) == (9.0, 2.0, (1.5, 2.5))
    assert (single["applications"], single["overhead_seconds_per_token"]) == (3, pytest.approx(0.005))
    assert (batch["seconds_per_edit"], batch["quartile_seconds"], batch["applications"]) == (2.0, None, 1)
    assert {name: (total["seconds"], total["host_peak_bytes"]) for name, total in single["phases"].items()} == {
        "prepare": (5.0, 3 * gib),
        "edit": (15.0, gib),
        "evaluate": (4.0, 2 * gib),
    }
    assert [single["phases"][name]["joules"] for name in ("prepare", "edit", "evaluate")] == [100.0, 53.0, None]
    assert (single["device_reserved_bytes"], batch["device_reserved_bytes"]) == (2 * gib, None)
    rows = summarised(folder)
    write_summary(folder, rows, table.markdown(folder, rows))
    assert read_results(folder.path).costs[Cell("rome", "single", 1)]["quartile_seconds"] == [1.5, 2.5]
    [by_phase] = [block for block in table.blocks(folder, rows) if block.title == table.MEMORY]
    assert dict(zip(by_phase.headers, by_phase.lines[0], strict=True)) == {
        "edits": "Single edits",
        "method": "rome",
        "preparing host GiB": "3.00",
        "editing host GiB": "1.00",
        "asking host GiB": "2.00",
        "preparing reserved GiB": "8.00",
        "editing reserved GiB": "2.00",
        "preparing J": "100",
        "editing J": "53",
    }
    assert by_phase.lines[1] == ("Batch of 10", "rome", "3.00", "", "", "8.00", "", "100", "")
    [costs] = [block for block in table.blocks(folder, rows) if block.title == table.COSTS]
    assert costs.lines[0][2:5] == ("2", "1.5 to 2.5", "9")
    assert costs.lines[0][costs.headers.index("ms more per token")] == "5"


def test_a_run_tells_of_each_phase(study):
    folder = study(single=2)
    rows = summarised(folder)
    [found] = costs_of(folder)
    assert list(found["phases"]) == ["prepare", "edit", "evaluate"]
    assert found["overhead_seconds_per_token"] is not None
    [line] = [line for line in folder.costs() if "answering" in line][:1]
    assert line["answering"]["tokens"] > line["answering"]["prompts"]
    known = [total["host_peak_bytes"] for total in found["phases"].values()]
    assert (table.MEMORY in [block.title for block in table.blocks(folder, rows)]) == (known != [None] * 3)
