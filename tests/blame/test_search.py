"""The search for the edits to blame, on checks that are made of sets."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from editguard.blame.search import Search, Subset

COUNTS = st.integers(1, 40)


@st.composite
def culprits(draw: st.DrawFn) -> tuple[int, list[frozenset[int]]]:
    """How many edits there are, and the sets of edits of which each breaks the check."""
    count = draw(COUNTS)
    places = st.frozensets(st.integers(0, count - 1), min_size=1, max_size=3)
    return count, draw(st.lists(places, min_size=1, max_size=3))


def breaks(sets: list[frozenset[int]], subset: Subset) -> bool:
    return any(each <= set(subset) for each in sets)


@settings(deadline=None)
@given(culprits())
def test_a_minimal_set_is_found_and_every_part_of_it_holds(drawn: tuple[int, list[frozenset[int]]]) -> None:
    count, sets = drawn
    found = Search(lambda subset: breaks(sets, subset)).run(count)
    assert found.minimal
    assert frozenset(found.edits) in sets
    assert not any(breaks(sets, part) for part in combinations(found.edits, len(found.edits) - 1))


@settings(deadline=None)
@given(culprits())
def test_the_check_holds_before_the_first_edit_and_fails_with_it(drawn: tuple[int, list[frozenset[int]]]) -> None:
    count, sets = drawn
    found = Search(lambda subset: breaks(sets, subset)).run(count)
    assert found.first == min(max(each) for each in sets)


@settings(deadline=None)
@given(count=COUNTS, data=st.data())
def test_whatever_the_check_says_no_edit_of_the_set_is_superfluous(count: int, data: st.DataObject) -> None:
    """The check need not get worse with more edits; only all of them, and none of them, are as they must be."""
    known: dict[Subset, bool] = {tuple(range(count)): True, (): False}

    failed = [tuple(range(count))]

    def fails(subset: Subset) -> bool:
        found = known.setdefault(subset, data.draw(st.booleans()) if 0 < len(subset) < count else bool(subset))
        if found:
            failed.append(subset)
        return found

    found = Search(fails).run(count)
    assert found.minimal
    assert found.edits == failed[-1]  # each failing part becomes the set so far
    assert known[found.edits]
    for part in combinations(found.edits, len(found.edits) - 1):
        assert not part or not fails(part)


@settings(deadline=None)
@given(drawn=culprits(), tries=st.integers(0, 30))
def test_when_the_time_is_over_the_set_so_far_still_fails(drawn: tuple[int, list[frozenset[int]]], tries: int) -> None:
    count, sets = drawn
    asked: list[Subset] = []

    def fails(subset: Subset) -> bool:
        asked.append(subset)
        return breaks(sets, subset)

    search = Search(fails, seconds=tries, clock=lambda: float(len(asked)))
    found = search.run(count)
    assert len(asked) <= tries
    assert breaks(sets, found.edits)
    assert len(set(asked)) == len(asked) == search.tried
    if not found.minimal:
        assert len(asked) == tries


def test_a_single_edit_among_five_hundred_takes_few_tries() -> None:
    search = Search(lambda subset: 317 in subset)
    found = search.run(500)
    assert (found.first, found.edits) == (317, (317,))
    assert search.tried <= 11


def test_a_pair_among_five_hundred_takes_few_tries() -> None:
    search = Search(lambda subset: {41, 402} <= set(subset))
    found = search.run(500)
    assert (found.first, found.edits) == (402, (41, 402))
    assert search.tried <= 30
