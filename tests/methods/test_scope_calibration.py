"""Thresholds and the curve of hits against false hits."""

import json
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from editguard.methods.scope_calibration import area, report, roc_point, threshold_for

scores = st.lists(st.integers(0, 32).map(lambda n: n / 32), min_size=1, max_size=30)


@given(scores, st.integers(0, 16).map(lambda n: n / 16))
def test_a_threshold_lets_no_more_through_than_it_may_and_no_lower_one_does(values: list[float], rate: float) -> None:
    out = torch.tensor(values)
    threshold = threshold_for(out, rate)
    assert float((out > threshold).double().mean()) <= rate + 1e-9
    lower = [value for value in values if value < threshold]
    if threshold > 0 and lower:
        assert float((out > max(lower)).double().mean()) > rate
    if rate == 1:
        assert threshold == 0


@given(scores, scores)
def test_the_area_is_that_of_the_curve(inside: list[float], outside: list[float]) -> None:
    labels = [1] * len(inside) + [0] * len(outside)
    assert area(torch.tensor(inside), torch.tensor(outside)) == pytest.approx(roc_auc_score(labels, inside + outside))


def test_a_score_at_the_threshold_is_no_hit() -> None:
    point = roc_point(torch.tensor([0.5, 0.6]), torch.tensor([0.5, 0.1, 0.7, 0.2]), 0.5)
    assert (point.hits, point.false_hits) == (0.5, 0.25)


def test_the_report_is_plain_and_hits_rise_with_what_is_let_through() -> None:
    generator = torch.Generator().manual_seed(0)
    inside, outside = (torch.rand(200, generator=generator).pow(power) for power in (0.3, 3))
    found = json.loads(json.dumps(report(inside, outside)))
    assert found["pairs"] == {"in_scope": 200, "out_of_scope": 200}
    points = list(found["at_false_hits"].values())
    assert all(point["false_hits"] <= float(rate) + 1e-9 for rate, point in found["at_false_hits"].items())
    assert all(a["hits"] <= b["hits"] and a["threshold"] >= b["threshold"] for a, b in pairwise(points))
