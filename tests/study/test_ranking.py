"""The mathematics of choosing: what must hold for all utilities and weights, and small cases counted by hand."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from editguard.study.ranking import (
    choosable,
    contributions,
    dominated,
    lead_margin,
    normalised,
    ranks,
    smallest_shift,
    weight_range,
    winning_shares,
)

DRAWS = 300
SEVERAL = settings(deadline=None, max_examples=40)


@st.composite
def problems(draw, *, criteria=(1, 4), methods=(1, 6)):
    """Utilities on a coarse grid, so that ties are real ones, and weights with zeros among them."""
    columns = draw(st.integers(*criteria))
    rows = draw(st.integers(*methods))
    cells = st.lists(st.integers(-4, 8), min_size=columns, max_size=columns)
    utilities = np.array(draw(st.lists(cells, min_size=rows, max_size=rows)), dtype=np.float64) / 8
    weights = np.array(draw(st.lists(st.integers(0, 8), min_size=columns, max_size=columns)), dtype=np.float64)
    assume(weights.sum() > 0)
    return utilities, weights


def scores(utilities, weights):
    return contributions(utilities, weights).sum(axis=1)


def places(utilities, weights):
    return ranks(scores(utilities, weights))


def shares(utilities, seed=0):
    return winning_shares(utilities, draws=DRAWS, seed=seed)[0]


@SEVERAL
@given(problems(), st.floats(1e-6, 1e6))
def test_scaling_all_weights_changes_nothing(problem, factor):
    utilities, weights = problem
    np.testing.assert_allclose(scores(utilities, weights * factor), scores(utilities, weights), atol=1e-12)
    assert places(utilities, weights * factor).tolist() == places(utilities, weights).tolist()


@SEVERAL
@given(problems(), st.floats(-5, 5))
def test_another_unit_of_a_cost_changes_no_place_share_or_front(problem, shift):
    """On a scale of ratios another unit adds one number to the whole column."""
    utilities, weights = problem
    other = utilities.copy()
    other[:, 0] += shift
    assert places(other, weights).tolist() == places(utilities, weights).tolist()
    assert dominated(other).tolist() == dominated(utilities).tolist()
    np.testing.assert_allclose(shares(other), shares(utilities), atol=1e-9)


@SEVERAL
@given(problems(), st.randoms())
def test_the_order_of_the_methods_is_no_matter(problem, random):
    utilities, weights = problem
    order = list(range(len(utilities)))
    random.shuffle(order)
    assert places(utilities[order], weights).tolist() == places(utilities, weights)[order].tolist()
    assert dominated(utilities[order]).tolist() == dominated(utilities)[order].tolist()
    assert choosable(utilities[order]).tolist() == choosable(utilities)[order].tolist()
    np.testing.assert_allclose(shares(utilities[order]), shares(utilities)[order], atol=1e-12)


@SEVERAL
@given(problems(), st.data())
def test_a_method_that_is_dominated_changes_neither_places_nor_front_nor_shares(problem, data):
    utilities, weights = problem
    model = data.draw(st.integers(0, len(utilities) - 1))
    worse = utilities[model] - np.array([data.draw(st.integers(1, 4)) for _ in weights]) / 8
    more = np.vstack([utilities, worse])
    best = places(utilities, weights) == 1
    assert (places(more, weights) == 1).tolist() == [*best, False]
    assert dominated(more).tolist() == [*dominated(utilities), True]
    np.testing.assert_allclose(shares(more), [*shares(utilities), 0.0], atol=1e-12)
    assert not choosable(more)[-1]


@SEVERAL
@given(problems(), st.data())
def test_any_other_method_leaves_the_order_of_the_rest_as_it_is(problem, data):
    utilities, weights = problem
    row = data.draw(st.lists(st.integers(-8, 16), min_size=len(weights), max_size=len(weights)))
    before = scores(utilities, weights)
    after = scores(np.vstack([utilities, np.array(row) / 8]), weights)
    assert after[:-1].tolist() == before.tolist()


@SEVERAL
@given(problems(), st.data())
def test_a_method_that_improves_does_not_fall(problem, data):
    utilities, weights = problem
    method = data.draw(st.integers(0, len(utilities) - 1))
    column = data.draw(st.integers(0, len(weights) - 1))
    better = utilities.copy()
    better[method, column] += data.draw(st.integers(1, 8)) / 8
    assert places(better, weights)[method] <= places(utilities, weights)[method]
    assert shares(better)[method] >= shares(utilities)[method] - 1e-12
    assert dominated(utilities)[method] or not dominated(better)[method]


@SEVERAL
@given(problems(), st.data())
def test_one_weight_alone_ranks_by_its_criterion(problem, data):
    utilities, weights = problem
    column = data.draw(st.integers(0, len(weights) - 1))
    alone = np.eye(len(weights))[column] * 3
    expected = [1 + int((utilities[:, column] > value).sum()) for value in utilities[:, column]]
    assert places(utilities, alone).tolist() == expected


@SEVERAL
@given(problems(), st.integers(0, 9))
def test_the_shares_of_the_weights_sum_to_one_and_belong_to_undominated_methods(problem, seed):
    utilities, _ = problem
    found, errors = winning_shares(utilities, draws=DRAWS, seed=seed)
    assert found.sum() == pytest.approx(1.0)
    assert (found >= 0).all()
    assert (errors >= 0).all()
    assert not found[dominated(utilities)].any()


@SEVERAL
@given(problems())
def test_a_method_that_can_be_chosen_is_on_the_front_and_one_that_a_draw_chose_alone_can_be(problem):
    utilities, weights = problem
    possible = choosable(utilities)
    assert not (possible & dominated(utilities)).any()
    assert possible.any()
    winners = places(utilities, weights) == 1
    distinct = len({tuple(row) for row in utilities[winners]}) == 1
    if distinct:
        assert possible[winners].all()


@SEVERAL
@given(problems(criteria=(2, 2)))
def test_with_two_criteria_the_exact_shares_are_those_of_many_equal_steps(problem):
    utilities, _ = problem
    steps = (np.arange(4000) + 0.5) / 4000
    totals = np.outer(steps, utilities[:, 0]) + np.outer(1 - steps, utilities[:, 1])
    first = totals >= totals.max(axis=1, keepdims=True) - 1e-12
    np.testing.assert_allclose(shares(utilities), (first / first.sum(axis=1, keepdims=True)).mean(axis=0), atol=2e-3)


def test_with_two_criteria_the_share_is_where_the_lines_cross():
    # score = t x first + (1 - t) x second: equal where t x 1.0 = t x 0.4 + (1 - t) x 0.3, so t = 1/3
    found, errors = winning_shares(np.array([[1.0, 0.0], [0.4, 0.3], [0.3, 0.2]]), draws=1, seed=0)
    assert found == pytest.approx([2 / 3, 1 / 3, 0.0])
    assert not errors.any()


def test_with_three_criteria_the_draws_come_near_to_what_symmetry_says():
    # three methods, each best in one criterion: the simplex falls into three equal parts
    found, errors = winning_shares(np.eye(3), draws=45_000, seed=1)
    assert errors == pytest.approx(np.sqrt(2 / 9 / 45_000) * np.ones(3), rel=0.02)
    assert (np.abs(found - 1 / 3) < 4 * errors).all()
    # with a fourth of 0.6 everywhere: it wins where no weight is above 0.6, in 1 - 3 x 0.4^2 = 0.52 of the simplex
    found, errors = winning_shares(np.vstack([np.eye(3), np.full(3, 0.6)]), draws=45_000, seed=1)
    assert abs(found[3] - 0.52) < 4 * errors[3]


def test_the_draws_are_those_of_the_seed_and_uneven_numbers_of_draws_count_in_full():
    utilities = np.eye(3)
    one, other = (winning_shares(utilities, draws=25_001, seed=seed)[0] for seed in (0, 1))
    assert one.tolist() == winning_shares(utilities, draws=25_001, seed=0)[0].tolist()
    assert one.tolist() != other.tolist()
    assert one.sum() == pytest.approx(1.0)


def test_equal_methods_share_a_place_and_neither_dominates():
    utilities = np.array([[0.5, 0.5], [0.5, 0.5], [0.1, 0.2]])
    assert places(utilities, np.ones(2)).tolist() == [1, 1, 3]
    assert dominated(utilities).tolist() == [False, False, True]
    assert shares(utilities).tolist() == [0.5, 0.5, 0.0]
    assert choosable(utilities).tolist() == [True, True, False]


def test_a_front_that_bends_inwards_holds_a_method_that_no_weights_choose():
    utilities = np.array([[1.0, 0.0], [0.0, 1.0], [0.4, 0.4]])
    assert dominated(utilities).tolist() == [False, False, False]
    assert choosable(utilities).tolist() == [True, True, False]


def test_contributions_add_up_to_the_score_counted_by_hand():
    # weights 3 and 1 are shares 0.75 and 0.25
    parts = contributions(np.array([[0.8, 0.4], [0.2, 1.0]]), np.array([3.0, 1.0]))
    assert parts == pytest.approx(np.array([[0.6, 0.1], [0.15, 0.25]]))


def test_the_margin_of_a_lead_counted_by_hand():
    # shares 0.75 and 0.25: the widths become 0.03, 0.01, 0.04 and 0, whose squares sum to 0.0026
    widths = np.array([[0.04, 0.04], [0.16 / 3, 0.0]])
    assert lead_margin(widths, np.array([3.0, 1.0])) == pytest.approx(np.sqrt(0.0026))


@SEVERAL
@given(problems(criteria=(2, 4), methods=(2, 2)))
def test_the_smallest_shift_draws_level_and_no_smaller_one_does(problem):
    utilities, weights = problem
    shares = normalised(weights)
    gap = utilities[0] - utilities[1]
    assume(gap @ shares >= 0)
    moved = smallest_shift(gap, shares)
    if moved is None:
        assert (gap >= 0).all()
        return
    assert moved.sum() == pytest.approx(1.0)
    assert (moved >= -1e-12).all()
    assert moved @ gap == pytest.approx(0.0, abs=1e-9)
    # the same as a linear program: what is given to and taken from each criterion, least in sum
    size = len(gap)
    answer = linprog(
        c=np.full(2 * size, 0.5),
        A_eq=np.vstack([np.concatenate([gap, -gap]), np.concatenate([np.ones(size), -np.ones(size)])]),
        b_eq=[-(gap @ shares), 0.0],
        bounds=[*[(0, None)] * size, *((0, share) for share in shares)],
    )
    assert np.abs(moved - shares).sum() / 2 == pytest.approx(answer.fun, abs=1e-9)


def test_the_smallest_shift_counted_by_hand():
    # the lead is 0.5 x 0.4 - 0.5 x 0.2 = 0.1; each unit of weight that moves from the first to the second costs 0.6
    moved = smallest_shift(np.array([0.4, -0.2]), np.array([0.5, 0.5]))
    assert moved == pytest.approx([0.5 - 1 / 6, 0.5 + 1 / 6])
    assert smallest_shift(np.array([0.4, 0.0]), np.array([0.5, 0.5])) is None


@SEVERAL
@given(problems(criteria=(2, 4), methods=(2, 6)), st.data())
def test_within_its_range_a_weight_keeps_the_winner_and_beyond_it_does_not(problem, data):
    utilities, weights = problem
    winner = int(places(utilities, weights).argmin())
    column = data.draw(st.integers(0, len(weights) - 1))
    found = weight_range(utilities, weights, winner, column)
    assert found.low <= weights[column] <= found.high

    def first(value):
        totals = utilities @ np.where(np.arange(len(weights)) == column, value, weights)
        return totals[winner] >= totals.max() - 1e-9

    top = found.high if np.isfinite(found.high) else weights[column] + 100
    for part in (0.0, 0.3, 1.0):
        assert first(found.low + part * (top - found.low))
    if np.isfinite(found.high):
        assert not first(found.high + 0.01)
        totals = utilities @ np.where(np.arange(len(weights)) == column, found.high + 1e-6, weights)
        assert totals[found.above] > totals[winner]
    if found.low > 0.01:
        assert not first(found.low - 0.01)
        assert found.below is not None


def test_the_range_of_a_weight_counted_by_hand():
    # the lead over the second is 0.5 w - 0.2 x 1, so w from 0.4 on; the third never has more
    found = weight_range(np.array([[1.0, 0.3], [0.5, 0.5], [0.1, 0.1]]), np.array([2.0, 1.0]), 0, 0)
    assert (found.low, found.high, found.below, found.above) == (pytest.approx(0.4), np.inf, 1, None)
