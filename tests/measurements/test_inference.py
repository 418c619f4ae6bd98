"""What edits make of a pass: timed over the same prompts, with what a memory of edits is asked and adds."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from editguard.edited import AppliedEdit, EditedModel
from editguard.edited.consulted import Consulted
from editguard.edited.memory import PromptMemory
from editguard.edits import EditRequest
from editguard.measurements import AnsweringCost, answering_cost
from editguard.measurements.inference import PASSES


class Clock:
    """A clock that stands still until a model runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """A model whose passes take what it is told, one after the other, and that tells what happens to it."""

    looking_up, tokens = 0.0, 5

    def __init__(self, name: str, clock: Clock, log: list[str], seconds: list[float]) -> None:
        self.name, self.clock, self.log, self.seconds = name, clock, log, list(seconds)

    def anew(self) -> Timed:
        self.log.append(f"{self.name} anew")
        return self

    def activate(self) -> None:
        self.log.append(f"{self.name} in force")
        self.clock.now += 100.0  # no part of a pass

    def consult(self, prompts: object) -> None:
        self.log.append(f"{self.name} looks up {prompts}")
        self.clock.now += self.looking_up

    def count_tokens(self, prompts: Sequence[str]) -> int:
        return self.tokens * len(prompts)

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
    assert cost == AnsweringCost(prompts=2, edited_seconds=3.0, unedited_seconds=2.0, tokens=10)
    assert cost.ratio == 1.5
    reads = "reads ['P', 'Q']"
    assert log == [
        "edited anew",
        "original anew",
        "edited in force",
        "edited looks up ['P', 'Q']",
        *[f"edited {reads}"] * 4,
        "original in force",
        "original looks up ['P', 'Q']",
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


def test_looking_up_is_part_of_the_edited_pass_and_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, log = Clock(), list[str]()
    monkeypatch.setattr(time, "perf_counter", clock)
    edited, original = Timed("edited", clock, log, [1.0] * 4), Timed("original", clock, log, [1.0] * 4)
    edited.looking_up, edited.tokens = 6.0, 50
    cost = answering_cost(edited, original, ["P", "Q"])
    assert (cost.edited_seconds, cost.lookup_seconds, cost.unedited_seconds) == (3.5, 3.0, 0.5)
    assert cost.tokens == 10  # of the question as asked, whatever the edited model reads
    assert cost.overhead_per_token == pytest.approx((3.5 - 0.5) / 5)
    assert cost.spent == pytest.approx(4 * 1.0 + 6.0 + 4 * 1.0)


@given(st.integers(1, 9), st.integers(1, 99), st.floats(0.01, 10), st.floats(0.01, 10), st.floats(0, 5))
@settings(deadline=None)
def test_what_is_added_to_all_tokens_is_what_is_added_to_all_prompts(
    prompts: int, tokens: int, edited: float, unedited: float, lookup: float
) -> None:
    cost = AnsweringCost(
        prompts=prompts,
        edited_seconds=edited + lookup,
        unedited_seconds=unedited,
        lookup_seconds=lookup,
        tokens=tokens,
    )
    assert cost.overhead_per_token is not None
    assert cost.overhead_per_token * tokens == pytest.approx((edited + lookup - unedited) * prompts, abs=1e-9)
    assert cost.spent == pytest.approx(prompts * ((1 + PASSES) * (edited + unedited) + lookup))


def test_lines_of_earlier_versions_have_no_tokens_and_no_cost_per_token() -> None:
    cost = AnsweringCost.from_json({"prompts": 4, "edited_seconds": 0.5, "unedited_seconds": 0.25})
    assert (cost.ratio, cost.tokens, cost.overhead_per_token) == (2.0, None, None)
    assert cost.spent == (1 + PASSES) * 4 * 0.75


class Counting:
    """A memory's front that writes two words before every prompt, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def consult(self, memory: object, prompts: Sequence[str]) -> list[Consulted]:
        self.asked += prompts
        return [Consulted(prompt=f"Tamrin Oskar {prompt}") for prompt in prompts]


def test_a_memory_that_knows_the_prompts_already_is_looked_up_once_more_and_keeps_what_it_found() -> None:
    model, front = zoo.tiny("gpt2"), Counting()
    rows: Any = ["a row"]
    request = EditRequest(prompt="The capital of {} is", subject="Velloria", target="Oskar")
    original = EditedModel.original(model)
    edited = original.extended(AppliedEdit("counting", (request,), (PromptMemory("counting", rows, front),)))
    edited.consult([request.text])
    cost = answering_cost(edited, original, [request.text])
    assert front.asked == [request.text] * 2
    edited.consult([request.text])
    assert front.asked == [request.text] * 2
    assert cost.tokens == len(model.encode(request.text)) == original.count_tokens([request.text])
    assert cost.lookup_seconds > 0
