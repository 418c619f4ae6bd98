"""Time and memory per phase."""

from __future__ import annotations

import json
import time

import pytest

from editguard.measurements import AnsweringCost, PhaseCost, answering_cost, phase, summarise


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


class Clock:
    """A clock that stands still until a model runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """A model whose passes take what it is told, one after the other, and that tells what happens to it."""

    def __init__(self, name: str, clock: Clock, log: list[str], seconds: list[float]) -> None:
        self.name, self.clock, self.log, self.seconds = name, clock, log, list(seconds)

    def activate(self) -> None:
        self.log.append(f"{self.name} in force")
        self.clock.now += 100.0  # no part of a pass

    def next_tokens(self, prompts: object, k: int = 5) -> None:
        self.log.append(f"{self.name} reads {prompts}")
        self.clock.now += self.seconds.pop(0)


def test_passes_of_both_states_are_timed_over_the_same_prompts_without_the_first_and_without_the_switch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, log = Clock(), list[str]()
    monkeypatch.setattr(time, "perf_counter", clock)
    edited = Timed("edited", clock, log, [50.0, 6.0, 9.0, 6.0])
    original = Timed("original", clock, log, [40.0, 4.0, 1.0, 4.0])
    cost = answering_cost(edited, original, ["P", "Q"], passes=3)
    assert cost == AnsweringCost(prompts=2, edited_seconds=3.0, unedited_seconds=2.0)
    assert cost.ratio == 1.5
    reads = "reads ['P', 'Q']"
    assert log == [
        "edited in force",
        *[f"edited {reads}"] * 4,
        "original in force",
        *[f"original {reads}"] * 4,
        "edited in force",
    ]
    assert AnsweringCost.from_json(json.loads(json.dumps(cost.to_json()))) == cost


def test_a_pass_that_fails_leaves_the_edited_state_in_force() -> None:
    clock, log = Clock(), list[str]()
    with pytest.raises(IndexError):
        answering_cost(Timed("edited", clock, log, [1.0] * 4), Timed("original", clock, log, []), ["P"])
    assert log[-1] == "edited in force"


def test_without_prompts_nothing_is_timed() -> None:
    log: list[str] = []
    with pytest.raises(ValueError, match="no pass"):
        answering_cost(Timed("edited", Clock(), log, []), Timed("original", Clock(), log, []), [])
    assert log == []
