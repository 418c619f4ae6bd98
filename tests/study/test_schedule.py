"""Every part is done once, by whom and in whatever order; nobody waits for nothing; what breaks every time is named."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study import fakes

from editguard.methods import registry
from editguard.study.items import LARGEST, divided
from editguard.study.plan import UNEDITED, Cell, Plan
from editguard.study.schedule import TRIES, Schedule

PEOPLE = [fakes.case(f"Person {number}") for number in range(80)]
FEW = settings(max_examples=25, deadline=None)


@st.composite
def plans(draw):
    return Plan(
        methods=draw(st.sampled_from([("rome",), ("memit", "rome"), ("ike", "memit", "rome", "ft-l")])),
        single=draw(st.integers(0, 12)),
        batches=tuple(draw(st.lists(st.integers(1, 6), max_size=2))),
        sequences=tuple(draw(st.lists(st.integers(3, 6), min_size=1, max_size=2))),
        orders=draw(st.integers(1, 3)),
    )


def missing(plan):
    cases = PEOPLE[: plan.most]
    return {cell: plan.parts(cell, cases) for name in (UNEDITED, *plan.methods) for cell in plan.cells(name)}


def parts_of(items):
    return [part for item in items for part in item.parts]


@given(plans(), st.integers(1, 5))
@FEW
def test_items_are_all_of_the_parts_and_none_twice(plan, workers):
    wanted = missing(plan)
    items = divided(wanted, workers=workers)
    assert sorted(parts_of(items)) == sorted((cell, name) for cell, names in wanted.items() for name in names)
    for item in items:
        assert len({(cell.method, cell.order) for cell, _ in item.missing}) == 1
        assert item.kind != "single" or workers == 1 or len(item.parts) <= LARGEST


@given(plans(), st.integers(1, 3))
@FEW
def test_all_states_of_a_chain_are_one_item_and_batches_of_others_stand_alone(plan, workers):
    chains = [(item.method, item.order) for item in divided(missing(plan), workers=workers) if item.kind == "sequence"]
    assert len(chains) == len(set(chains)) == len(plan.methods) * plan.orders
    for item in divided(missing(plan), workers=workers):
        if item.kind == "batch":
            assert registry.methods()[item.method].batches
            assert len(item.parts) == 1


def test_single_edits_are_shared_so_that_no_worker_waits_long():
    items = [item for item in divided(missing(Plan(methods=("rome",), single=80)), workers=2) if item.kind == "single"]
    assert [len(item.parts) for item in items] == [10] * 8
    assert parts_of(items) == sorted(parts_of(items))


@given(plans(), st.integers(1, 4), st.data())
@FEW
def test_whatever_is_lost_each_part_is_done_once_or_named(plan, workers, data):
    items = divided(missing(plan), workers=workers)
    schedule = Schedule(items)
    done, at = [], dict.fromkeys(range(workers))
    preparing = {}
    while not schedule.is_over:
        for worker in at:
            if at[worker] is None and (item := schedule.next_for(worker)) is not None:
                at[worker] = list(item.parts)
                if item.method not in preparing and item.method != UNEDITED:
                    preparing[item.method] = worker
                assert preparing.get(item.method) in (None, worker, "over")
        busy = [worker for worker, left in at.items() if left is not None]
        assert busy, "something waits, and nobody does it"
        worker = data.draw(st.sampled_from(busy))
        if data.draw(st.integers(0, 5)) == 0:
            schedule.lost(worker)
            preparing = {name: who for name, who in preparing.items() if who != worker}
            at[worker] = None
        elif at[worker]:
            method = at[worker][0][0].method
            schedule.prepared(method)
            preparing[method] = "over"
            part = at[worker].pop(0)
            done.append(part)
            schedule.did(worker, part)
        else:
            schedule.finished(worker)
            at[worker] = None
    assert sorted([*done, *parts_of(schedule.given_up)]) == sorted(parts_of(items))


def rome(single=6, sequences=(4,), methods=("rome",), workers=2):
    return Schedule(divided(missing(Plan(methods=methods, single=single, sequences=sequences)), workers=workers))


def finish(schedule, worker):
    for part in schedule.holds(worker).parts:
        schedule.did(worker, part)
    schedule.prepared(schedule.holds(worker).method)
    schedule.finished(worker)


def test_a_worker_stays_with_its_method_and_begins_with_the_most_work():
    schedule = rome(methods=("rome", "ft-l"))
    taken = []
    for _ in range(5):
        item = schedule.next_for(0)
        taken.append((item.method, item.kind, item.amount))
        finish(schedule, 0)
    assert taken[:2] == [(UNEDITED, "unedited", 6), (UNEDITED, "unedited", 4)]
    assert taken[2] == ("rome", "sequence", 4)
    assert {method for method, _, _ in taken[2:]} == {"rome"}
    assert schedule.next_for(1).method == "ft-l"


def test_nobody_else_begins_a_method_while_it_is_prepared_for_the_first_time():
    schedule = Schedule(divided(missing(Plan(methods=("rome",), single=6)), workers=2)[1:])
    schedule.next_for(0)
    assert schedule.next_for(1) is None
    schedule.prepared("rome")
    assert schedule.next_for(1).method == "rome"


def test_a_method_whose_preparing_worker_is_lost_is_prepared_by_another():
    schedule = Schedule(divided(missing(Plan(methods=("rome",), single=6)), workers=2)[1:])
    schedule.next_for(0)
    schedule.lost(0)
    assert schedule.next_for(1).method == "rome"


@pytest.mark.parametrize("progress", [False, True])
def test_only_what_is_lost_again_and_again_without_progress_is_given_up(progress):
    cell = Cell("rome", "single", 1)
    schedule = Schedule(divided({cell: [f"0000{number}-x" for number in range(6)]}))
    for _ in range(TRIES):
        item = schedule.next_for(0)
        if progress:
            schedule.did(0, item.parts[0])
        left = schedule.lost(0)
    assert [item.parts[0][1] for item in schedule.given_up] == ([] if progress else ["00000-x"])
    assert len(left.parts) == 6 - TRIES * progress
    assert schedule.is_over != progress
