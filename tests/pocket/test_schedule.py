"""The learning rate rises, stays, and falls; only where the fall begins depends on the number of steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editguard.pocket.schedule import Schedule

lengths = st.integers(4, 20_000)


@given(lengths, lengths)
def test_two_lengths_agree_until_the_earlier_fall_begins(one: int, other: int) -> None:
    first, second = Schedule(one), Schedule(other)
    for step in range(0, min(first.decay_start, second.decay_start), 97):
        assert first.factor(step) == second.factor(step)


@given(lengths)
def test_the_rate_never_exceeds_the_peak_and_ends_low(steps: int) -> None:
    schedule = Schedule(steps)
    assert all(0 < schedule.factor(step) <= 1 for step in range(0, steps, 53))
    assert schedule.factor(steps - 1) == pytest.approx(schedule.final)


def test_a_schedule_by_hand() -> None:
    schedule = Schedule(steps=400, warm_up=100, decay=0.25, final=0.02)
    assert schedule.decay_start == 300
    assert schedule.factor(0) == 0.01  # the first of 100 steps up
    assert schedule.factor(99) == 1.0
    assert schedule.factor(299) == 1.0
    assert schedule.factor(349) == pytest.approx(0.51)  # half way from 1 to 0.02
