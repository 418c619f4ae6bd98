"""The matrix that settings name."""

import pytest
import zoo

from editguard.errors import MethodRefused
from editguard.methods.chosen_matrix import chosen_matrix


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_down_and_up_are_the_mlps_own_matrices(family: str) -> None:
    model = zoo.tiny(family)
    down, up = (chosen_matrix(model, "toy", 1, which) for which in ("down", "up"))
    assert down.shape == (up.shape[1], up.shape[0]) == (zoo.D_MODEL, model.anatomy.d_ff)
    assert down.name == model.anatomy.down_projection(1).name
    gate = model.anatomy.gate_projection(1)
    assert gate is None or gate.name != up.name


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(MethodRefused, match="toy should edit layer 4 of tiny-gpt2, which has layers 0 to 3"):
        chosen_matrix(zoo.tiny("gpt2"), "toy", 4, "down")
