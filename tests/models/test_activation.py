"""The activation of an MLP is found by what it does, and nothing is taken for one that it is not."""

import pytest
import torch
import zoo
from transformers.activations import ACT2FN

from editguard.models.activation import KNOWN, activation, fitting_activation, mlp_activation

PAIRS = (((5, 9, 20), (31, 44, 50, 61)), ((11, 12), (40, 41, 42, 43, 44, 45)))
BY_FAMILY = {
    "gpt2": "gelu_new",
    "gptj": "gelu_new",
    "gpt_neox": "gelu",
    "gpt_neox_sequential": "gelu",
    "opt": "relu",
    "opt_post_norm": "relu",
    "phi": "gelu_new",
    "falcon": "gelu",
    "falcon_alibi": "gelu",
    "falcon_new": "gelu",
    "bloom": "gelu_new",
    "t5": "relu",
    "bart": "gelu",
}
"""As the library's configurations have it; the families that are left out have gated MLPs."""


@pytest.mark.parametrize("family", zoo.ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_every_familys_own_activation_is_found(family: str, dtype: torch.dtype) -> None:
    model = zoo.tiny(family, dtype=dtype)
    assert mlp_activation(model, model.anatomy.layers - 2, PAIRS) == BY_FAMILY.get(family)


@pytest.mark.parametrize("family", ["gpt2", "opt", "gpt_neox"])
def test_in_half_precision_it_is_the_same_up_to_rounding(family: str) -> None:
    found = mlp_activation(zoo.tiny(family, dtype=torch.bfloat16), 1, PAIRS)
    assert found is not None
    values = torch.linspace(-4, 4, 200)
    gap = (activation(found)(values) - activation(BY_FAMILY[family])(values)).abs().max()
    assert gap < torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_function_is_told_from_all_others(name: str) -> None:
    values = torch.linspace(-5, 5, 400)
    assert fitting_activation(values, ACT2FN[name](values)) == name


def test_an_unknown_function_is_not_taken_for_a_known_one() -> None:
    values = torch.linspace(-5, 5, 400)
    assert fitting_activation(values, values.sin()) is None
    assert fitting_activation(values, 1.01 * ACT2FN["gelu"](values)) is None


def test_the_pass_ends_at_the_down_projection_and_leaves_no_hook() -> None:
    model = zoo.tiny("gpt2")
    ran = []
    handle = model.anatomy.block(2).register_forward_hook(lambda *_: ran.append(2))
    mlp_activation(model, 1, PAIRS)
    handle.remove()
    assert not ran
    assert not any(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.module.modules())
