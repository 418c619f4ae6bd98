"""What a plan comes to before it runs: amounts that the run then finds, times that were measured, and no others."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study.fakes import CASES, TASKS, Scripted, case

from editguard.study.folder import StudyFolder
from editguard.study.forecast import Expected, Forecast, Pace, Work, forecast
from editguard.study.plan import UNEDITED, Cell, Plan

PLAN = {"methods": ("scripted", "one-by-one"), "single": 3, "batches": (2, 4), "sequences": (1, 4)}


def laid_out(folder, *, cases=CASES, measured=None, **plan):
    return forecast(Plan(**{**PLAN, **plan}), cases, folder, tasks=TASKS, measured=measured or [folder])


def by_cell(found):
    return {each.cell: each for each in found.cells}


def test_the_amounts_are_those_that_the_run_has(study):
    moved = case(CASES[0].request.subject, "Tamrin")
    cases = (*CASES[:3], moved, *CASES[4:])
    before = laid_out(StudyFolder("nowhere"), cases=cases)
    folder = study(cases=cases, **PLAN)
    after = laid_out(folder, cases=cases)
    assert [cell.name for cell in folder.cells()] == sorted(each.cell.name for each in before.cells)
    for each in before.cells:
        parts = folder.parts(each.cell).values()
        assert each.parts == len(parts)
        excluded = sum(sum(part.end["excluded"].values()) for part in parts)
        assert each.questions == sum(len(part.values) for part in parts) + excluded
        assert each.edits == (0 if each.cell.method == UNEDITED else sum(part.end["edits"] for part in parts))
        assert (each.held, by_cell(after)[each.cell].held) == (0, each.parts)
    applied = {
        name: sum(each.left.edits for each in before.cells if each.cell.method == name) for name in PLAN["methods"]
    }
    assert sum(applied.values()) == len(Scripted.applied)
    assert applied == {"scripted": 3 + 2 + 4 + 4, "one-by-one": 3 + 4}  # one chain of what does not batch
    assert after.text().endswith("nothing left to do")


def test_what_was_never_measured_has_no_time(study):
    nothing = laid_out(StudyFolder("nowhere"))
    assert {each.seconds for each in nothing.cells} == {None}
    assert nothing.short().endswith("time unknown")
    folder = study(methods=("scripted",), single=2)
    found = laid_out(folder)
    assert found.unknown == ("one-by-one",)
    assert found.short().endswith(", and unknown for one-by-one")
    assert "unknown" in found.text()


def costly(folder, cell, part, *, edits, seconds, asking, values):
    """A part whose work took so long."""
    folder.add(cell, part, [{"value": 1.0}] * values, {"edits": edits})
    costs = [
        {"method": cell.method, "phase": "edit", "edits": edits, "seconds": seconds},
        {"method": cell.method, "phase": "evaluate", "seconds": asking},
    ]
    folder.add_cost({"cell": cell.name, "part": part, "costs": costs})


@settings(max_examples=25, deadline=None)
@given(held=st.sampled_from([(1,), (1, 2), (1, 2, 4)]), edit=st.floats(0.1, 9), question=st.floats(0.1, 9))
def test_a_measured_pace_gives_the_time_of_the_rest(tmp_path_factory, held, edit, question):
    """Seconds are edits times one pace and questions times another; of a chain only what lies beyond the parts held is
    not saved: its edits are applied from the first on."""
    folder = StudyFolder(tmp_path_factory.mktemp("study"))
    empty = laid_out(folder, methods=("scripted",), single=0, batches=(), sequences=(1, 2, 4))
    asked = {each.cell.size: each.questions for each in empty.cells if each.cell.method != UNEDITED}
    before = 0
    for size in held:
        fresh = size - before
        costly(
            folder,
            Cell("scripted", "sequence", size),
            str(size),
            edits=fresh,
            seconds=fresh * edit,
            asking=asked[size] * question,
            values=asked[size],
        )
        before = size
    found = laid_out(folder, methods=("scripted",), single=0, batches=(), sequences=(1, 2, 4))
    left = [size for size in (1, 2, 4) if size not in held]
    seconds = sum(each.seconds for each in found.cells if each.cell.method != UNEDITED)
    assert seconds == pytest.approx(max(left, default=0) * edit + sum(asked[size] for size in left) * question)


def test_the_nearest_size_of_the_same_mode_judges_and_preparing_is_added(tmp_path):
    folder = StudyFolder(tmp_path)
    for mode, size in (("single", 1), ("batch", 1), ("batch", 100), ("sequence", 10)):
        costly(folder, Cell("scripted", mode, size), "x", edits=size, seconds=size, asking=1.0, values=1)
    for seconds in (40.0, 1.0):
        folder.add_cost(
            {"method": "scripted", "costs": [{"method": "scripted", "phase": "prepare", "seconds": seconds}]}
        )
    wanted = {"methods": ("scripted",), "single": 0, "sequences": ()}
    judged = {each.cell.size: each.pace.cell.size for each in laid_out(folder, batches=(2, 6), **wanted).cells[2:]}
    assert judged == {2: 1, 6: 1}
    found = laid_out(StudyFolder(tmp_path / "other"), batches=(6,), measured=[folder], **wanted)
    assert found.preparing == {"scripted": 40.0}
    assert found.seconds == pytest.approx(40.0 + sum(each.seconds or 0.0 for each in found.cells))


def test_a_method_that_refused_everything_is_not_measured(tmp_path):
    folder = StudyFolder(tmp_path)
    cell = Cell("scripted", "single", 1)
    folder.add(cell, "x", [], {"edits": 1})
    cost = {"method": "scripted", "phase": "edit", "edits": 1, "seconds": 5.0}
    folder.add_cost({"cell": cell.name, "part": "x", "costs": [cost]})
    assert "scripted" in laid_out(folder).unknown


def test_the_command_shows_the_plan_and_runs_nothing(command, tmp_path, capsys, monkeypatch):
    wanted = ("--methods", "scripted", "--single", "2", "--sequence", "1,3")
    monkeypatch.setattr("editguard.models.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    assert command(*wanted, "--plan") == 0
    shown = capsys.readouterr().out
    assert "6 cells, 7 of 7 parts left, time unknown" in shown
    assert not (tmp_path / "out").exists()


def test_a_run_says_what_it_comes_to_and_another_studys_costs_judge_it(command, tmp_path, capsys):
    assert command("--methods", "scripted", "--single", "2") == 0
    assert "2 cells, 3 of 3 parts left, time unknown" in capsys.readouterr().err
    other = ("--out", str(tmp_path / "other"), "--methods", "scripted,one-by-one", "--sequence", "2", "--plan")
    assert command(*other, "--costs", str(tmp_path / "out")) == 0
    shown = capsys.readouterr().out
    assert "scripted-single-1" in shown
    assert "unknown for one-by-one" in shown
    assert command(*other, "--costs", str(tmp_path / "other")) == 2
    assert "holds no costs.jsonl" in capsys.readouterr().err


def test_the_plan_of_other_cases_than_the_folders_is_refused(command, tmp_path, capsys):
    assert command("--methods", "scripted", "--single", "1") == 0
    assert command("--methods", "scripted", "--single", "1", "--limit", "5", "--plan") == 2
    assert "data.cases = 6, this one has 5" in capsys.readouterr().err
    header = json.loads((tmp_path / "out" / "study.json").read_text())
    assert header["data"]["cases"] == 6


def test_what_is_held_needs_no_time_although_nobody_measured_it(study):
    folder = study(**PLAN)
    (folder.path / "costs.jsonl").unlink()
    found = laid_out(folder)
    assert {each.seconds for each in found.cells} == {0.0}
    assert (found.unknown, found.time()) == ((), "nothing left to do")


@given(st.lists(st.integers(0, 90), min_size=4, max_size=4), st.integers(1, 4))
def test_several_workers_share_the_time_but_not_a_chain(seconds, workers):
    cells = [
        Cell("scripted", "single", 1),
        Cell("scripted", "batch", 2),
        Cell("one-by-one", "batch", 2),
        Cell("one-by-one", "sequence", 4),
    ]
    found = Forecast(
        tuple(
            Expected(cell, 1, 1, 1, 0, Work(amount, 0, 0), Pace(cell, edit=1.0, question=0.0, state=0.0))
            for cell, amount in zip(cells, seconds, strict=True)
        ),
        {"scripted": 10.0},
        workers,
    )
    assert found.seconds == sum(seconds) + 10
    assert found.shared_seconds == max(found.seconds / workers, sum(seconds[2:]))
    assert ("workers" in found.time()) == (workers > 1)
