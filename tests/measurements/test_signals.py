"""Cheap signs of collapse: what they read of a model, and that an edit leaves them alone where it changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import zoo

from editguard.edited import AppliedEdit, EditedModel, WeightDelta
from editguard.edits import EditRequest
from editguard.measurements.signals import SIGNALS, Series, Signals, read_signals, relative_changes
from editguard.models.weights import Dense, LowRank

REQUEST = EditRequest(prompt="The capital of {} is", subject="Velloria", target="Oskar")
TEXTS = zoo.SENTENCES[:4]


def with_delta(model: zoo.LanguageModel, layer: int, scale: float, *, low_rank: bool = True) -> EditedModel:
    """One edit of a down projection, of `scale` times its own values, or of a random matrix of rank one."""
    EditedModel.original(model).activate()
    matrix = model.anatomy.down_projection(layer)
    if low_rank:
        generator = torch.Generator().manual_seed(layer)
        left, right = (torch.randn(width, 1, generator=generator) * scale for width in matrix.shape)
        delta: LowRank | Dense = LowRank(left, right)
    else:
        delta = Dense(matrix.weight().detach() * scale)
    return EditedModel(model, [AppliedEdit("toy", (REQUEST,), (WeightDelta({matrix.name: delta}),))])


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bart"])
def test_without_an_edit_nothing_has_changed_and_reading_twice_gives_the_same(family: str) -> None:
    model = zoo.tiny(family)
    first = read_signals(EditedModel.original(model), 0, TEXTS)
    assert first == read_signals(EditedModel.original(model), 0, TEXTS)
    assert first.weights == {}
    assert first.weight_change == 0.0
    assert first.log_perplexity is not None
    assert first.log_perplexity > 0
    assert not model.installed


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_change_of_a_known_part_of_a_weight_is_that_part(family: str) -> None:
    """GPT-2 stores its matrices the other way round than Llama."""
    model = zoo.tiny(family)
    edited = with_delta(model, 1, 0.25, low_rank=False)
    name = model.anatomy.down_projection(1).name
    assert relative_changes(edited) == {name: pytest.approx(0.25, rel=1e-4)}
    twice = EditedModel(model, [*edited.edits, *with_delta(model, 1, 0.5, low_rank=False).edits])
    assert relative_changes(twice) == {name: pytest.approx(0.75, rel=1e-4)}


def test_a_ruined_model_reads_worse() -> None:
    model = zoo.tiny("gpt2")
    at_rest = read_signals(EditedModel.original(model), 0, TEXTS)
    ruined = read_signals(with_delta(model, 0, 100.0), 1, TEXTS)
    assert ruined.log_perplexity is not None
    assert at_rest.log_perplexity is not None
    assert ruined.log_perplexity > at_rest.log_perplexity
    assert ruined.weight_change > 10


def test_signals_survive_json_and_none_is_a_value() -> None:
    read = Signals(edits=3, log_perplexity=None, entropy=1.5, weights={"a": 0.5, "b": 2.0})
    assert Signals.from_json(read.to_json()) == read
    assert read.weight_change == 2.0


def test_a_series_says_from_which_edit_on_a_signal_gets_worse() -> None:
    points = tuple(
        Signals(
            edits=n, log_perplexity=1.0 + max(0, n - 12) / 4, entropy=4.0 - max(0, n - 20) / 8, weights={"a": n / 9}
        )
        for n in range(40)
    )
    series = Series("toy", points)
    found = [series.onset(signal) for signal in SIGNALS]
    assert found[0] is not None
    assert found[1] is not None
    assert (found[0].after, found[1].after) == (12, 20)
    assert found[0].slope > 0 > found[1].slope
    assert found[2] is None
    back = zip(points, reversed(points), strict=True)
    better = Series("toy", tuple(replace(worse, edits=point.edits) for point, worse in back))
    assert better.onset(SIGNALS[0]) is None
