"""Time and memory per phase."""

from __future__ import annotations

import json
import time

import pytest

from editguard.measurements import PhaseCost, phase, summarise


def test_a_phase_measures_its_block_even_when_it_fails() -> None:
    with pytest.raises(RuntimeError), phase("rome", "edit", edits=2) as cost:
        time.sleep(0.02)
        raise RuntimeError
    assert 0.02 <= cost.seconds < 5
    assert cost.host_peak_bytes > 1_000_000
    assert PhaseCost.from_json(json.loads(json.dumps(cost.to_json()))) == cost


def test_preparation_stays_apart_and_the_first_edit_too() -> None:
    costs = [
        PhaseCost(method="rome", phase="prepare", seconds=30.0, host_peak_bytes=5),
        PhaseCost(method="rome", phase="edit", edits=1, seconds=9.0, host_peak_bytes=7),
        *(PhaseCost(method="rome", phase="edit", edits=1, seconds=float(s)) for s in (1, 2, 3)),
        PhaseCost(method="rome", phase="edit", edits=10, seconds=40.0, device_peak_bytes=11),
        PhaseCost(method="rome", phase="evaluate", seconds=6.0),
        PhaseCost(method="ike", phase="edit", edits=1, seconds=0.5),
    ]
    rome, ike = summarise(costs)
    assert (rome.preparation_seconds, rome.first_seconds, rome.evaluation_seconds) == (30.0, 9.0, 6.0)
    assert rome.median_seconds == 2.5  # of 1, 2, 3 and 40 / 10
    assert rome.quartiles == (1.75, 3.25)
    assert (rome.edits, rome.host_peak_bytes, rome.device_peak_bytes) == (14, 7, 11)
    assert (ike.first_seconds, ike.median_seconds, ike.quartiles, ike.device_peak_bytes) == (0.5, 0.5, None, None)
