"""Sequences in several orders: the same cases, records of their own, one row with the mean and the spread."""

import json
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from study.fakes import CASES, Scripted

from editguard.errors import ConfigurationError, MalformedRecord
from editguard.report.curves import curves, draw
from editguard.study.folder import StudyFolder
from editguard.study.plan import UNEDITED, Cell, Plan
from editguard.study.results import read_results
from editguard.study.summary import costs_of, summarised, write_summary
from editguard.study.table import markdown

NAMES = [one.request.subject for one in CASES]


@given(st.integers(3, 40), st.integers(1, 5), st.integers(0, 3))
def test_orders_are_different_permutations_that_seed_and_number_alone_decide(last, orders, seed):
    plan = Plan(methods=("rome",), sequences=(1, last), orders=orders, seed=seed)
    found = [plan.positions(order) for order in range(orders)]
    assert found[0] == tuple(range(last))
    assert len(set(found)) == orders
    assert all(sorted(order) == list(range(last)) for order in found)
    more = Plan(methods=("rome",), sequences=(last,), orders=orders + 1, seed=seed)
    assert [more.positions(order) for order in range(orders)] == found
    other = Plan(methods=("rome",), sequences=(40,), orders=2, seed=seed + 1)
    assert other.positions(1) != Plan(methods=("rome",), sequences=(40,), orders=2, seed=seed).positions(1)


def test_only_sequences_have_further_orders_and_the_first_is_named_as_ever():
    plan = Plan(methods=("rome",), single=1, batches=(2,), sequences=(2, 3), orders=3)
    names = [cell.name for cell in plan.cells(UNEDITED)]
    assert names[:4] == ["unedited-single-1", "unedited-batch-2", "unedited-sequence-2", "unedited-sequence-3"]
    assert names[4:] == [f"unedited-sequence-{size}-order-{order}" for order in (1, 2) for size in (2, 3)]
    assert [Cell.named(cell.name) for cell in plan.cells("rome")] == plan.cells("rome")


@pytest.mark.parametrize("wrong", [{"orders": 0}, {"orders": 2, "sequences": ()}, {"orders": 3, "sequences": (2,)}])
def test_orders_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigurationError, match="order"):
        Plan(**{"methods": ("rome",), "single": 1, "sequences": (4,), **wrong})


def test_each_order_applies_and_asks_the_first_of_its_own(study):
    folder = study(sequences=(2, 4), orders=3)
    plan = Plan(methods=("scripted",), sequences=(2, 4), orders=3)
    assert Scripted.applied == [NAMES[position] for order in range(3) for position in plan.positions(order)]
    for order in range(3):
        for method in ("scripted", UNEDITED):
            [part] = folder.parts(Cell(method, "sequence", 2, order)).values()
            asked = {value["case"] for value in part.values if value["property"] == "reliability"}
            assert asked == {CASES[position].id for position in plan.positions(order)[:2]}


def test_orders_join_a_study_and_leave_what_it_has_and_the_longest_sequence_stays(study):
    folder = study(sequences=(2, 4))
    before = {path.name: path.read_bytes() for path in (folder.path / "records").iterdir()}
    alone = summarised(folder)
    Scripted.applied.clear()
    study(sequences=(2, 4), orders=2)
    assert len(Scripted.applied) == 4
    assert before == {name: (folder.path / "records" / name).read_bytes() for name in before}
    assert folder.header()["orders"] == {"cases": 4}
    study(sequences=(5,))
    with pytest.raises(ConfigurationError, match=r"orders\.cases = 4, this one has 5"):
        study(sequences=(5,), orders=2)
    assert "orders" not in alone[0].to_json()
    assert "orders" not in json.dumps([row.to_json() for row in alone])
    assert {row.cell.size: row.orders for row in summarised(folder)} == {2: 2, 4: 2, 5: 1}


def value(case, number):
    named = {"case": case, "property": "reliability", "kind": "request", "probe": case, "outcome": "other"}
    return {**named, "value": number, "token_accuracy": 0.5, "unit": "fraction", "answer": ""}


@pytest.fixture
def by_hand(tmp_path):
    """Three orders of two sizes; in one order an edit was refused, so that it has fewer values."""
    folder = StudyFolder(tmp_path)
    folder.begin({"methods": {"rome": {}}, "notes": {"model": "tiny"}})
    numbers = {0: {"a": 1.0, "b": 1.0}, 1: {"a": 1.0, "b": 0.0}, 2: {"a": 0.0}}
    for order, found in numbers.items():
        for size in (1, 2):
            cell = Cell("rome", "sequence", size, order)
            end = {"edits": 2, "applied": len(found), "failed": [], "superseded": [], "excluded": {}}
            folder.add(cell, str(size), [value(name, number) for name, number in found.items()], end)
            seconds = {"method": "rome", "phase": "edit", "edits": 1, "seconds": 1.0 + order}
            folder.add_cost({"cell": cell.name, "part": str(size), "costs": [seconds]})
    rows = summarised(folder)
    write_summary(folder, rows, markdown(folder, rows))
    return folder


def test_a_row_is_the_mean_over_orders_with_their_spread_and_an_interval_over_edits(by_hand):
    row = next(row for row in summarised(by_hand) if row.cell.size == 2)
    means = [1.0, 0.5, 0.0]
    number = row.numbers["reliability"]
    assert number["mean"] == fmean(means) == 0.5  # of the five values it were 0.6
    assert number["orders"] == {"means": {"0": 1.0, "1": 0.5, "2": 0.0}, "sd": stdev(means)}
    assert number["low"] <= number["mean"] <= number["high"]
    assert (number["cases"], number["clusters"], row.orders, row.edits) == (5, 2, 3, 6)
    text = (by_hand.path / "table.md").read_text()
    assert "orders ±0.50" in text
    assert "6 (3 orders)" in text
    assert [cost["seconds_per_edit"] for cost in costs_of(by_hand)] == [2.5, 2.5]  # without the first edit of all


def test_a_picture_shows_each_order_thin_and_the_mean_thick(by_hand):
    shown = curves(read_results(by_hand.path), "sequence")
    [axis, *_] = draw(shown).axes
    lines = {tuple(line.get_ydata()): line.get_linewidth() for line in axis.lines if list(line.get_xdata()) == [1, 2]}
    assert {(1.0, 1.0), (0.5, 0.5), (0.0, 0.0)} <= lines.keys()
    widths = sorted(line.get_linewidth() for line in axis.lines if len(set(line.get_xdata())) == 2)
    assert widths[:3] == [0.6] * 3
    assert widths[3] > 2


@pytest.mark.parametrize("wrong", [[1.0], {"sd": 1.0}, {"means": {"0": "much"}}])
def test_a_spread_that_is_none_is_one_error(by_hand, wrong):
    path = by_hand.path / "summary.json"
    summary = json.loads(path.read_text())
    summary["rows"][0]["numbers"]["reliability"]["orders"] = wrong
    path.write_text(json.dumps(summary))
    with pytest.raises(MalformedRecord, match="orders"):
        read_results(by_hand.path)


def test_an_order_that_was_stopped_goes_on_with_its_own_state(study, tmp_path):
    whole = study(out="whole", sequences=(2, 4), orders=2)

    def stop(request):
        if len(Scripted.applied) == 7:
            raise KeyboardInterrupt

    Scripted.applied.clear()
    Scripted.before = staticmethod(stop)
    with pytest.raises(KeyboardInterrupt):
        study(out="cut", sequences=(2, 4), orders=2)
    Scripted.before = None
    Scripted.applied.clear()
    cut = study(out="cut", sequences=(2, 4), orders=2)
    files = [{path.name: path.read_bytes() for path in (each.path / "records").iterdir()} for each in (whole, cut)]
    assert files[0] == files[1]
    plan = Plan(methods=("scripted",), sequences=(2, 4), orders=2)
    assert Scripted.applied == [NAMES[position] for position in plan.positions(1)[2:]]
