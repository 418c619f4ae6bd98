"""A/A comparisons: what is asked again, what is found, and that everything is as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from measurements.scripted import Said, Scripted, case, locality, moved
from zoo import tiny

from editguard.edited import AppliedEdit, EditedModel, WeightDelta
from editguard.edits import EditCase
from editguard.errors import ConfigurationError
from editguard.measurements import ModelUnderTest, NoiseFloor, noise_floor, noise_floors
from editguard.measurements.noise import VARIANTS, Reordered, Variant, varied
from editguard.models.weights import LowRank

PROMPTS = ("What is one?", "What is two?", "What is three?", "What is four?")


@dataclass
class Physical:
    name: str = "scripted"
    batch_size: int = 32
    devices: tuple[str, ...] = ("cpu",)


@dataclass
class Fickle(Scripted):
    """Answers otherwise under one condition; notes the batches that it was asked."""

    model: Any = field(default_factory=Physical)
    moved_by: str = ""
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def generate(self, prompts: Sequence[str], **options: Any) -> list[Said]:
        self.asked.append(tuple(prompts))
        said = super().generate(prompts)
        now = {
            "batch size": self.model.batch_size != 32,
            "threads": torch.get_num_threads() != THREADS,
            "order": tuple(prompts) != self.asked[0] and sorted(prompts) == sorted(self.asked[0]),
        }
        return [replace(said[0], text="otherwise"), *said[1:]] if now.get(self.moved_by) else said


THREADS = 1
"""As tests/conftest.py sets it."""


def under_test(moved_by: str = "", **more: Any) -> tuple[ModelUnderTest, Fickle]:
    edited = Fickle({"The capital of Velloria is": "Oskar"}, moved_by=moved_by, **more)
    cases = [case(moved(), *map(locality, PROMPTS))]
    return ModelUnderTest(edited, original=ModelUnderTest(Fickle({})), cases=cases, method="rome"), edited


@pytest.mark.parametrize("moved_by", ["", "batch size", "threads", "order"])
def test_the_condition_that_moves_an_answer_is_named_and_no_other(moved_by: str) -> None:
    model, _ = under_test(moved_by)
    first = model.locality()
    floor = noise_floor(model, lambda each: each.locality(), first)
    assert [repeat.variant.split(" ")[0] for repeat in floor.repeats] == [name.split(" ")[0] for name in VARIANTS]
    for repeat in floor.repeats:
        hit = bool(moved_by) and repeat.variant.startswith(moved_by)
        assert (repeat.flips, repeat.difference) == ((1, 1 / len(first.values)) if hit else (0, 0.0))
    assert floor.flips == bool(moved_by)
    assert floor.cases == len(first.values)
    assert moved_by in str(floor)


def test_every_comparison_asks_anew_and_leaves_batches_threads_and_answers_as_they_were() -> None:
    model, edited = under_test("batch size")
    first = model.locality()
    asked = len(edited.asked)
    noise_floor(model, lambda each: each.locality(), first)
    assert len(edited.asked) == asked + len(VARIANTS)
    assert (edited.model.batch_size, torch.get_num_threads()) == (32, THREADS)
    assert model.locality() == first, "what the model remembers is what it said the first time"
    assert len(edited.asked) == asked + len(VARIANTS)


def test_conditions_are_put_back_when_asking_fails() -> None:
    model, edited = under_test()
    for variant in VARIANTS:
        with pytest.raises(RuntimeError, match="no"), varied(model, variant, cases=4):
            raise RuntimeError("no")
        assert (edited.model.batch_size, torch.get_num_threads()) == (32, THREADS)


@pytest.mark.parametrize(("before", "cases", "other"), [(32, 100, 16), (32, 4, 2), (32, 1, 1), (2, 9, 1), (1, 9, 2)])
def test_another_batch_size_splits_what_was_one_batch(before: int, cases: int, other: int) -> None:
    model, _ = under_test(model=Physical(batch_size=before))
    with varied(model, "batch size", cases=cases) as (told, again):
        assert told == f"batch size {before} -> {other}"
        assert again is not None


def test_what_means_nothing_here_is_left_out() -> None:
    model, _ = under_test(model=Physical(devices=("cuda:0",)))
    model.physical.batch_size = None  # type: ignore[attr-defined]
    floor = noise_floor(model, lambda each: each.reliability(), model.reliability())
    assert [repeat.variant for repeat in floor.repeats] == ["no-op edit", "order"]


def test_a_case_that_only_one_run_could_judge_counts_as_flipped() -> None:
    model, _ = under_test()
    first = model.locality()
    part = replace(first, values=(replace(first.values[0], value=None), *first.values[1:3]))
    floor = noise_floor(model, lambda _: part, first, variants=("order",))
    assert (floor.flips, floor.repeats[0].difference) == (len(first.values) - 2, 0.0)
    gone = replace(first, values=())
    assert noise_floor(model, lambda _: gone, first, variants=("order",)).repeats[0].difference is None


def test_each_property_with_probes_has_a_floor() -> None:
    model, edited = under_test("order")
    assert list(noise_floors(model)) == ["reliability", "locality"]
    edited.asked.clear()
    assert noise_floors(model.anew(), ["locality"], variants=("order",))["locality"].flips == 1
    with pytest.raises(ConfigurationError):
        noise_floors(model, ["portability"])


def test_no_comparison_has_no_floor_and_json_keeps_all_of_it() -> None:
    assert (NoiseFloor(cases=3, repeats=()).difference, NoiseFloor(cases=3, repeats=()).flips) == (0.0, 0)
    model, _ = under_test("order")
    floor = noise_floor(model, lambda each: each.locality(), model.locality())
    assert NoiseFloor.from_json(floor.to_json()) == floor


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_a_real_model_is_asked_under_every_condition_and_keeps_its_bytes(dtype: torch.dtype) -> None:
    language_model = tiny("gpt2", dtype=dtype)
    down = language_model.anatomy.down_projection(1).name
    d_model, d_ff = language_model.anatomy.d_model, language_model.anatomy.d_ff
    delta = WeightDelta({down: LowRank(torch.ones(d_model, 1, dtype=dtype), torch.ones(d_ff, 1, dtype=dtype) / 50)})
    unedited = EditedModel.original(language_model)
    cases: list[EditCase] = [case(moved(), locality("The mayor of Tamrin is"))]
    edited = unedited.extended(AppliedEdit("made up", (moved(),), (delta,)))
    model = ModelUnderTest(edited, original=ModelUnderTest(unedited), cases=cases)
    before = model.digest()
    floors = noise_floors(model, ["locality"])
    variants: tuple[Variant, ...] = VARIANTS
    assert all(len(floor.repeats) == len(variants) for floor in floors.values())
    assert all(floor.repeats[0].flips == 0 for floor in floors.values()), "an edit of nothing changes nothing"
    assert model.digest() == before
    assert language_model.batch_size == 32


def test_what_is_asked_in_another_order_is_answered_in_the_askers() -> None:
    edited = Fickle({prompt: prompt.upper() for prompt in PROMPTS})
    model = Reordered(edited)
    assert [said.text for said in model.generate(PROMPTS, max_new_tokens=3)] == [prompt.upper() for prompt in PROMPTS]
    assert sorted(edited.asked[0]) == sorted(PROMPTS)
    assert edited.asked[0] != PROMPTS
    pairs = [(prompt, "x" * place) for place, prompt in enumerate(PROMPTS, 1)]
    assert [len(score.answer_ids) for score in model.score(pairs)] == [1, 2, 3, 4]
    assert model.next_tokens(PROMPTS, 1) == edited.next_tokens(PROMPTS, 1)
