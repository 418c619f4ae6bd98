"""Curves over checkpoints, and where a series begins to change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editguard.comparison import Acceptance, CheckRecord, judge
from editguard.errors import ConfigurationError
from editguard.measurements.drift import FEWEST, curve, onset
from editguard.measurements.record import CaseValue, Measurement


def measured(edits: int, passing: int | list[bool], *, name: str = "locality", per_edit: int = 1) -> Measurement:
    """Probes of the first `edits` edits, of which the given ones, or so many, pass."""
    outcomes = [place < passing for place in range(edits * per_edit)] if isinstance(passing, int) else passing
    values = tuple(
        CaseValue(
            probe=f"probe {place}",
            edit=f"edit {place // per_edit}",
            kind="neighbourhood",
            prompt=f"prompt {place}",
            expected=("yes",),
            answer="yes" if passed else "no",
            outcome="exact" if passed else "other",
            value=float(passed),
        )
        for place, passed in enumerate(outcomes)
    )
    ids = tuple(f"edit {place}" for place in range(edits))
    return Measurement(name=name, protocol="decode_agreement", values=values, mode="sequence", edit_ids=ids)


def test_a_curve_holds_every_probe_once_per_checkpoint() -> None:
    found = curve([measured(2, 2), measured(5, 4)])
    assert found.name == "locality curve"
    assert (found.n, found.edits, found.clusters) == (7, 5, 5)
    assert found.mean == pytest.approx(6 / 7)
    assert len({value.probe for value in found.values}) == 7
    assert found.values[0].prompt == "after 2 edits: prompt 0"
    assert found.id != measured(5, 4).id


def test_a_probe_that_was_left_out_at_two_checkpoints_was_left_out_twice() -> None:
    parts = [replace(measured(count, count), excluded_probes=("x",)) for count in (2, 5)]
    found = curve(parts)
    assert found.excluded == len(set(found.excluded_probes)) == 2
    assert found.id != curve([replace(parts[0], excluded_probes=()), parts[1]]).id


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [measured(5, 4), measured(2, 2)],
        [measured(2, 2), measured(2, 2)],
        [measured(2, 2), measured(5, 5, name="reliability")],
    ],
    ids=["none", "falling", "twice the same", "two properties"],
)
def test_what_is_no_growing_sequence_is_no_curve(parts: list[Measurement]) -> None:
    with pytest.raises(ConfigurationError):
        curve(parts)


def test_a_drift_that_no_checkpoint_shows_turns_the_whole_curve_red() -> None:
    """At each of four checkpoints four other edits lose their probe: none is enough alone, sixteen of them are."""
    counts = (20, 30, 40, 50)
    accepted = [measured(count, count) for count in counts]
    present = [measured(count, [place // 4 != step for place in range(count)]) for step, count in enumerate(counts)]

    def verdict(before: Measurement, now: Measurement) -> str:
        record = CheckRecord.of(before, label="test", accepted=Acceptance("Ada", "", "2026-01-01"))
        return judge(record, now, checks=4).kind

    alone = {verdict(before, now) for before, now in zip(accepted, present, strict=True)}
    assert alone == {"undecided"}
    assert verdict(curve(accepted), curve(present)) == "regressed"


COUNTS = st.integers(FEWEST + 4, 60)


@settings(deadline=None)
@given(count=COUNTS, data=st.data())
def test_a_level_and_then_a_line_is_found_where_it_bends(count: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, count - 4))
    slope = data.draw(st.sampled_from([-2.0, -0.01, 0.01, 3.0]))
    values = [5.0 + slope * max(0, edits - start) for edits in range(count)]
    found = onset(range(count), values, rises=slope > 0, draws=300)
    assert found is not None
    assert found.after == start
    assert found.slope == pytest.approx(slope)
    assert onset(range(count), values, rises=slope < 0, draws=300) is None


@settings(deadline=None)
@given(
    values=st.lists(st.floats(-10, 10), min_size=FEWEST, max_size=30),
    scale=st.sampled_from([0.5, 2.0, 8.0]),
    shift=st.sampled_from([-4.0, 0.0, 4.0]),
)
def test_unit_and_origin_of_the_values_do_not_matter(values: list[float], scale: float, shift: float) -> None:
    rounded = [round(value * 8) / 8 for value in values]  # so that scaling and shifting are exact
    one = onset(range(len(values)), rounded, rises=True, draws=200)
    other = onset(range(len(values)), [scale * value + shift for value in rounded], rises=True, draws=200)
    mirrored = onset(range(len(values)), [-value for value in rounded], rises=False, draws=200)
    assert (one is None) == (other is None) == (mirrored is None)
    if one is not None and other is not None and mirrored is not None:
        assert one.after == other.after == mirrored.after
        assert other.slope == pytest.approx(scale * one.slope)
        assert mirrored.slope == pytest.approx(-one.slope)


def test_noise_without_a_trend_is_seldom_taken_for_one() -> None:
    import numpy as np

    generator = np.random.default_rng(3)
    found = [onset(range(40), list(generator.normal(size=40)), rises=True, draws=300) for _ in range(200)]
    assert sum(each is not None for each in found) <= 8  # 1 % of 200, and three standard errors of it


def test_few_values_and_equal_ones_tell_nothing() -> None:
    assert onset(range(FEWEST - 1), [float(n) for n in range(FEWEST - 1)], rises=True) is None
    assert onset(range(20), [1.0] * 20, rises=True) is None
    missing = [None if place % 2 else float(max(0, place - 10)) for place in range(30)]
    found = onset(range(30), missing, rises=True, draws=300)
    assert found is not None
    assert found.after == 10
