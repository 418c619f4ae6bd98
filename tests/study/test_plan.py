"""What a plan takes, and the cells that follow from it."""

import pytest

from editguard.errors import ConfigurationError, UnknownMethod
from editguard.study.plan import UNEDITED, Cell, Plan


def test_the_cells_follow_mode_and_size():
    plan = Plan(methods=("rome", "ft-l", "rome"), single=7, batches=(10, 1, 10), sequences=(3,))
    assert plan.methods == ("rome", "ft-l")
    assert plan.most == 10
    assert [cell.name for cell in plan.cells("rome")] == [
        "rome-single-1",
        "rome-batch-1",
        "rome-batch-10",
        "rome-sequence-3",
    ]
    assert plan.cells(UNEDITED)[0] == Cell(UNEDITED, "single", 7)


@pytest.mark.parametrize("name", ["ft-l-sequence-10", "memit-rect-batch-1", "rome-single-1"])
def test_a_cell_is_found_by_its_name(name):
    assert Cell.named(name).name == name


@pytest.mark.parametrize("name", ["rome-other-1", "rome", "rome-batch-x"])
def test_other_names_are_no_cells(name):
    with pytest.raises(ValueError):
        Cell.named(name)


@pytest.mark.parametrize("wrong", [{}, {"methods": (), "single": 1}, {"single": -1}, {"batches": (0, 3)}])
def test_an_impossible_plan_is_refused(wrong):
    with pytest.raises(ConfigurationError):
        Plan(**{"methods": ("rome",), **wrong})


def test_an_unknown_method_is_refused_also_among_the_settings():
    for wrong in ({"methods": ("romee",)}, {"methods": ("rome",), "settings": {"romee": {}}}):
        with pytest.raises(UnknownMethod, match="Did you mean 'rome'"):
            Plan(single=1, **wrong)
