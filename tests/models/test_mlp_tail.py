"""The last MLP's way to the logits, at single tokens, is that of the whole model."""

import pytest
import torch
import zoo

from editguard.models import LanguageModel, capture
from editguard.models.continuation import Continuation, FullForward, Row
from editguard.models.hooks import replaced
from editguard.models.mlp_tail import MlpTail

ROWS = (
    Row((5, 9, 20, 31, 44, 50, 61, 70, 80), 4, (5, 7, 8)),
    Row((11, 12, 13), 2, (2,)),
    Row((40, 41, 42, 43, 44, 45, 46), 0, (0, 3, 6)),
)
READS = sum(len(row.read) for row in ROWS)
WITH_TAIL = [family for family in zoo.FAMILIES if family != "opt_post_norm"]


def moved(output: torch.Tensor) -> torch.Tensor:
    """Another output; one that is no multiple of it, as norms take no notice of these."""
    return output + 2 * output.flip(-1)


def when_moved(model: LanguageModel, passes: Continuation | FullForward) -> torch.Tensor:
    """The passes' logits with the last MLP putting out something else."""
    mlp = model.anatomy.mlp(model.anatomy.layers - 1)
    with torch.no_grad(), replaced(mlp, moved):
        return passes.logits()


@pytest.mark.parametrize("family", WITH_TAIL)
@pytest.mark.parametrize("make", [Continuation, FullForward])
def test_logits_follow_the_mlps_output_as_in_the_whole_model(family: str, make: type) -> None:
    model = zoo.tiny(family, dtype=torch.float64)
    assert MlpTail.available(model)
    passes = make(model, ROWS, model.anatomy.layers - 1)
    tail = MlpTail.of(model, passes)
    assert tail.inputs.shape == tail.outputs.shape == tail.stream.shape == (READS, zoo.D_MODEL)
    with torch.no_grad():
        unchanged = passes.logits()
        torch.testing.assert_close(tail.logits(tail.outputs), unchanged, rtol=1e-9, atol=1e-9)
        found = tail.logits(moved(tail.outputs))
    torch.testing.assert_close(found, when_moved(model, passes), rtol=1e-9, atol=1e-9)
    assert (found - unchanged).abs().max() > 1e-2


@pytest.mark.parametrize("family", WITH_TAIL)
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_in_the_models_own_type_it_is_off_by_rounding_alone(family: str, dtype: torch.dtype, rounding: float) -> None:
    model = zoo.tiny(family, dtype=dtype)
    passes = Continuation(model, ROWS, model.anatomy.layers - 1)
    tail = MlpTail.of(model, passes)
    with torch.no_grad():
        found = tail.logits(moved(tail.outputs))
    assert found.dtype == torch.float32
    wanted = when_moved(model, passes)
    assert (found - wanted).abs().max() <= rounding * wanted.abs().max()


@pytest.mark.parametrize("family", WITH_TAIL)
def test_inputs_and_outputs_are_those_at_the_positions_read(family: str) -> None:
    model = zoo.tiny(family)
    layer = model.anatomy.layers - 1
    tail = MlpTail.of(model, Continuation(model, ROWS, layer))
    ids = torch.tensor([ROWS[0].ids])
    up, mlp = model.anatomy.up_projections(layer)[0].module, model.anatomy.mlp(layer)
    with torch.no_grad(), capture(up, "input") as entering, capture(mlp) as leaving:
        model.forward(ids, torch.ones_like(ids))
    for found, captured in ((tail.inputs, entering), (tail.outputs, leaving)):
        wanted = captured.value.reshape(len(ROWS[0].ids), -1)[list(ROWS[0].read)]
        torch.testing.assert_close(found[:3], wanted, rtol=1e-3, atol=1e-4)


def test_a_step_runs_no_block_at_all() -> None:
    model = zoo.tiny("gpt2")
    tail = MlpTail.of(model, Continuation(model, ROWS, 3))
    ran = []
    handles = [model.anatomy.block(layer).register_forward_pre_hook(lambda *_: ran.append(1)) for layer in range(4)]
    with torch.no_grad():
        tail.logits(tail.outputs)
    for handle in handles:
        handle.remove()
    assert not ran


def test_parts_are_the_whole() -> None:
    model = zoo.tiny("gemma2", dtype=torch.float64)
    tail = MlpTail.of(model, Continuation(model, ROWS, 3))
    with torch.no_grad():
        whole = tail.logits(moved(tail.outputs))
        parts = [part.logits(moved(part.outputs)) for part in tail.chunks(3)]
    assert [len(part) for part in parts] == [3, 3, 1]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_a_norm_over_the_whole_stream_is_no_sum() -> None:
    assert not MlpTail.available(zoo.tiny("opt_post_norm"))
