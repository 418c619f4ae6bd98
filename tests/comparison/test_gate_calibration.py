"""The benchmark's simulation of whole runs, over few of them: it counts rightly, and the gate keeps its level."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gate_calibration.py"


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gate_calibration", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gate_calibration"] = module
    spec.loader.exec_module(module)
    return module


def test_three_hundred_null_runs_of_five_checks_raise_no_more_alarms_than_stated(simulation: ModuleType) -> None:
    design = simulation.Design(5, 40, 1, 0.0)
    found = simulation.simulate(design, "alarms", runs=300, work=10**9)
    assert (found.runs, found.checks) == (300, 1500)
    assert found.alarms / found.runs <= simulation.bound(0.05, 300)
    worse = simulation.Design(5, 40, 1, 0.0, drop=0.2, discordance=0.2)
    assert simulation.simulate(worse, "power", runs=50, work=10**9).alarms > 45, "a gate that sleeps raises none either"


def test_a_drop_of_the_minimum_effect_is_seldom_held_where_edits_fail_as_wholes(simulation: ModuleType) -> None:
    design = simulation.Design(1, 10, 20, 0.9, drop=0.05, discordance=0.05)
    found = simulation.simulate(design, "held", runs=200, work=10**9)
    assert found.held / found.checks <= simulation.bound(0.05, 200)
    assert found.unlost > 0, "where no case was lost, held speaks of these cases alone"


def test_cases_of_an_edit_are_drawn_with_the_stated_correlation_flips_and_drop(simulation: ModuleType) -> None:
    design = simulation.Design(1, 200, 2, 0.5, drop=0.05, discordance=0.2)
    before, now = simulation.draw(design, 200, np.random.default_rng(0))
    change = now - before
    assert set(np.unique(before)) == set(np.unique(now)) == {0.0, 1.0}
    assert np.corrcoef(change[..., 0].ravel(), change[..., 1].ravel())[0, 1] == pytest.approx(0.5, abs=0.02)
    assert -change.mean() == pytest.approx(0.05, abs=0.005)
    assert (change != 0).mean() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("shape", ["noise", "rare"])
def test_graded_changes_have_the_stated_drop(simulation: ModuleType, shape: str) -> None:
    before, now = simulation.draw(simulation.Design(1, 100, 2, 0.5, shape, drop=0.05), 200, np.random.default_rng(0))
    assert (before - now).mean() == pytest.approx(0.05, abs=0.01)
