"""Since which run a check is what it is."""

from __future__ import annotations

from history.recorded import VERDICTS, check, run
from hypothesis import given
from hypothesis import strategies as st

from editguard.history import last_change, series_of, since_regressed

values = st.none() | st.integers(0, 4).map(lambda number: number / 4)
verdicts = st.none() | st.sampled_from(VERDICTS)
SILENT = (None, "missing", "not comparable")


@given(st.lists(values))
def test_from_the_change_on_all_is_the_last_value_and_before_it_was_another(numbers) -> None:
    found = last_change(numbers)
    if found is None:
        assert len(set(numbers)) <= 1
    else:
        assert numbers[found:] == [numbers[-1]] * (len(numbers) - found)
        assert numbers[found - 1] != numbers[-1]


@given(st.lists(values, min_size=1), st.integers(1, 3))
def test_more_runs_of_the_same_value_move_no_change_and_another_value_is_the_change(numbers, more) -> None:
    assert last_change([*numbers, *[numbers[-1]] * more]) == last_change(numbers)
    other = 2.0 if numbers[-1] != 2.0 else 3.0
    assert last_change([*numbers, other]) == len(numbers)


def test_what_other_rounding_makes_is_no_change_but_many_small_steps_are() -> None:
    assert last_change([1.0, 1.0 + 1e-9, 1.0 - 1e-9]) is None
    assert last_change([1.0 + 0.6e-6 * step for step in range(10)]) is not None
    assert last_change([0.0, 1e-7]) == 1


@given(st.lists(verdicts))
def test_since_is_the_first_of_the_regressions_that_end_the_runs(told) -> None:
    found, saying = since_regressed(told), [verdict for verdict in told if verdict not in SILENT]
    if found is None:
        assert not saying or saying[-1] != "regressed"
        return
    assert told[found] == "regressed"
    assert set(told[found:]) - set(SILENT) == {"regressed"}
    before = [verdict for verdict in told[:found] if verdict not in SILENT]
    assert not before or before[-1] != "regressed"


@given(st.lists(verdicts), st.sampled_from(SILENT))
def test_runs_that_compared_nothing_end_no_regression(told, silent) -> None:
    assert since_regressed([*told, silent]) == since_regressed(told)
    assert since_regressed([*told, "held"]) is None
    assert since_regressed([*told, "held", "regressed", silent, "regressed"]) == len(told) + 1


def test_a_check_goes_on_under_another_name_and_not_in_another_environment_or_model() -> None:
    recorded = [
        run([check(1.0), check(0.5, check="c1", name="locality")], day=0),
        run([check(0.75, label="test_renamed[rome]")], day=1),
        run([check(0.25, environment="cuda-float32-abc")], day=2),
        run([check(0.0)], day=3, model="other"),
    ]
    found = {tuple(one.means): one for one in series_of(recorded)}
    assert set(found) == {(1.0, 0.75), (0.5,), (0.25,), (0.0,)}
    renamed = found[1.0, 0.75]
    assert (renamed.latest.label, renamed.changed, renamed.runs) == ("test_renamed[rome]", 1, tuple(recorded[:2]))


@given(st.permutations([None, *VERDICTS]))
def test_of_two_tests_that_measure_the_same_the_worst_verdict_counts(order) -> None:
    present = run([check(1.0, verdict, label=str(verdict)) for verdict in order])
    [series] = series_of([present])
    assert series.latest.verdict == "regressed"
    present = run([check(1.0, verdict) for verdict in order if verdict in (None, "missing")])
    assert series_of([present])[0].latest.verdict == "missing"


def test_a_series_says_since_when_it_is_regressed() -> None:
    told = [(1.0, "held"), (0.5, "undecided"), (0.5, None), (0.25, "regressed"), (0.25, "regressed")]
    [series] = series_of([run([check(mean, verdict)], day=day) for day, (mean, verdict) in enumerate(told)])
    assert (series.changed, series.regressed) == (3, 3)
