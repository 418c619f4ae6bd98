"""Intervals against values worked out by hand, and what must hold for all of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editguard.measurements import cluster_bootstrap, mean_interval, wilson


@pytest.mark.parametrize(
    ("passes", "cases", "low", "high"),
    [
        (85, 100, 0.767, 0.907),
        (10, 10, 0.722, 1.0),
        (0, 10, 0.0, 0.278),
        (50, 50, 0.929, 1.0),
        (480, 500, 0.939, 0.974),
    ],
)
def test_wilson_agrees_with_the_table(passes: int, cases: int, low: float, high: float) -> None:
    assert wilson(passes, cases) == (pytest.approx(low, abs=6e-4), pytest.approx(high, abs=6e-4))


@given(cases=st.integers(1, 400), data=st.data())
def test_wilson_holds_the_proportion_and_is_symmetric(cases: int, data: st.DataObject) -> None:
    passes = data.draw(st.integers(0, cases))
    low, high = wilson(passes, cases)
    assert 0 <= low <= passes / cases <= high <= 1
    assert low < high
    mirrored = wilson(cases - passes, cases)
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-12)


def test_without_cases_nothing_is_known() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert mean_interval([], [], binary=True) == (0.0, 1.0)


def test_the_bootstrap_is_fixed_by_its_seed() -> None:
    values, clusters = [i * i % 17 / 17 for i in range(40)], [f"edit {i // 2}" for i in range(40)]
    assert cluster_bootstrap(values, clusters, seed=1) == cluster_bootstrap(values, clusters, seed=1)
    assert cluster_bootstrap(values, clusters, seed=1) != cluster_bootstrap(values, clusters, seed=2)


def test_probes_that_move_together_widen_the_interval() -> None:
    """Ten edits of ten equal probes are ten observations, not a hundred."""
    values = [float(edit < 5) for edit in range(10) for _ in range(10)]
    together = mean_interval(values, [edit for edit in range(10) for _ in range(10)], binary=True)
    apart = mean_interval(values, range(100), binary=True)
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])


def test_the_bootstrap_of_unrelated_cases_comes_near_the_normal_interval() -> None:
    low, high = cluster_bootstrap([0.0, 1.0] * 200, range(400))
    assert (low, high) == (pytest.approx(0.451, abs=0.01), pytest.approx(0.549, abs=0.01))


def test_agreement_of_all_probes_is_worth_as_many_cases_as_there_are_edits() -> None:
    clusters = [edit for edit in range(10) for _ in range(3)]
    assert mean_interval([1.0] * 30, clusters, binary=True) == wilson(10, 10)
    assert mean_interval([0.0] * 30, clusters, binary=True) == wilson(0, 10)


def test_the_probes_of_a_single_edit_are_the_cases() -> None:
    assert mean_interval([1.0, 0.0, 1.0], ["edit"] * 3, binary=True) == wilson(2, 3)


def test_a_bootstrap_needs_cases_and_their_groups() -> None:
    with pytest.raises(ValueError, match="at least one case"):
        cluster_bootstrap([], [])
    with pytest.raises(ValueError, match="one group"):
        cluster_bootstrap([1.0], [])
