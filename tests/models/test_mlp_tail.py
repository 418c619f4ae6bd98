"""The last MLP's way to the logits, at single tokens, is that of the whole model."""

import pytest
import torch
import zoo

from editguard.models import LanguageModel, capture
from editguard.models.answer_passes import AnswerPasses, answer_passes, whole_answer_passes
from editguard.models.hooks import replaced
from editguard.models.mlp_tail import MlpTail

PAIRS = (((5, 9, 20, 31, 44), (50, 61, 70)), ((11, 12, 13), (40,)), ((9,), (10, 11, 12)))
READS = sum(len(answer) for _, answer in PAIRS)
POST_NORM = ("opt_post_norm", "bart")
WITH_TAIL = [family for family in zoo.ALL if family not in POST_NORM]


def passes_of(model: LanguageModel) -> AnswerPasses:
    return answer_passes(model, PAIRS, model.anatomy.layers - 1)


def moved(output: torch.Tensor) -> torch.Tensor:
    """Another output; one that is no multiple of it, as norms take no notice of these."""
    return output + 2 * output.flip(-1)


def when_moved(model: LanguageModel, passes: AnswerPasses) -> torch.Tensor:
    """The passes' logits with the last MLP putting out something else."""
    mlp = model.anatomy.mlp(model.anatomy.layers - 1)
    with torch.no_grad(), replaced(mlp, moved):
        return passes.logits()


@pytest.mark.parametrize("family", WITH_TAIL)
@pytest.mark.parametrize("whole", [False, True], ids=["replayed", "whole"])
def test_logits_follow_the_mlps_output_as_in_the_whole_model(family: str, whole: bool) -> None:
    model = zoo.tiny(family, dtype=torch.float64)
    assert MlpTail.available(model)
    passes = whole_answer_passes(model, PAIRS) if whole else passes_of(model)
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
    passes = passes_of(model)
    tail = MlpTail.of(model, passes)
    with torch.no_grad():
        found = tail.logits(moved(tail.outputs))
    assert found.dtype == torch.float32
    wanted = when_moved(model, passes)
    assert (found - wanted).abs().max() <= rounding * wanted.abs().max()


@pytest.mark.parametrize("family", WITH_TAIL)
def test_inputs_and_outputs_are_those_where_the_answers_are_predicted(family: str) -> None:
    model = zoo.tiny(family)
    layer = model.anatomy.layers - 1
    tail = MlpTail.of(model, passes_of(model))
    up, mlp = model.anatomy.up_projections(layer)[0].module, model.anatomy.mlp(layer)
    prompt, answer = PAIRS[0]
    row = model.forced_row(prompt, answer[:-1])
    ids = torch.tensor([row.stream])
    with torch.no_grad(), capture(up, "input") as entering, capture(mlp) as leaving:
        source = model.encoded([row.source]) if row.source else None
        model.forward(ids, torch.ones_like(ids), source=source)
    for found, captured in ((tail.inputs, entering), (tail.outputs, leaving)):
        wanted = captured.value.reshape(len(row.stream), -1)[list(row.read)]
        torch.testing.assert_close(found[:3], wanted, rtol=1e-3, atol=1e-4)


def test_a_step_runs_no_block_at_all() -> None:
    model = zoo.tiny("gpt2")
    tail = MlpTail.of(model, passes_of(model))
    ran = []
    handles = [model.anatomy.block(layer).register_forward_pre_hook(lambda *_: ran.append(1)) for layer in range(4)]
    with torch.no_grad():
        tail.logits(tail.outputs)
    for handle in handles:
        handle.remove()
    assert not ran


def test_parts_are_the_whole() -> None:
    model = zoo.tiny("gemma2", dtype=torch.float64)
    tail = MlpTail.of(model, passes_of(model))
    with torch.no_grad():
        whole = tail.logits(moved(tail.outputs))
        parts = [part.logits(moved(part.outputs)) for part in tail.chunks(3)]
    assert [len(part) for part in parts] == [3, 3, 1]
    torch.testing.assert_close(torch.cat(parts), whole)


@pytest.mark.parametrize("family", POST_NORM)
def test_a_norm_over_the_whole_stream_is_no_sum(family: str) -> None:
    assert not MlpTail.available(zoo.tiny(family))
