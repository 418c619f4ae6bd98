"""Keys and outputs at the subject's last token."""

import pytest
import torch
import zoo

from editguard.edits import EditRequest
from editguard.methods.keys import average_over_contexts, averaged_keys, keys_and_outputs, subject_row, vectors
from editguard.models import capture


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_a_batch_gives_what_whole_passes_over_single_prompts_give(family: str, facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny(family, dtype=torch.float64, batch_size=2)
    matrix = model.anatomy.down_projection(2)
    rows = [subject_row(model, fact, context) for fact in facts for context in ("", "Because it is. ")]
    keys, outputs = keys_and_outputs(model, matrix, rows)
    for row, key, output in zip(rows, keys, outputs, strict=True):
        ids = torch.tensor([row.ids])
        with torch.no_grad(), capture(matrix.module, "input") as entering, capture(matrix.module) as leaving:
            model.logits(ids, torch.ones_like(ids))
        wide = (len(row.ids), -1)
        torch.testing.assert_close(key, entering.value.reshape(wide)[row.end], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(output, leaving.value.reshape(wide)[row.end], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_the_row_ends_at_the_subject_behind_any_context(family: str, facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny(family)
    for fact in facts:
        for context in ("", "The Velloria. ", f"I know {fact.subject}. "):
            row = subject_row(model, fact, context)
            text = model.decode(row.ids[: row.end + 1])
            wanted = context + fact.prompt.partition("{}")[0] + fact.subject
            assert text.startswith(wanted)
            assert len(model.decode(row.ids[: row.end])) < len(wanted)


def test_braces_in_prompt_and_context_are_only_text() -> None:
    model = zoo.tiny("gpt2")
    fact = EditRequest(prompt='{"of": {} and } the', subject="Tamrin", target="x")
    row = subject_row(model, fact, "A {b} c}. ")
    assert model.decode(row.ids) == 'A {b} c}. {"of": Tamrin and } the'


def test_no_block_above_the_matrix_and_no_head_runs() -> None:
    model = zoo.tiny("gpt2")
    ran = []
    for number in range(4):
        model.anatomy.block(number).mlp.c_proj.register_forward_hook(lambda *_, number=number: ran.append(number))
    keys_and_outputs(
        model,
        model.anatomy.down_projection(1),
        [subject_row(model, EditRequest(prompt="{} is", subject="Tamrin", target="x"))],
    )
    assert ran == [0, 1]


def test_the_bare_prompt_weighs_one_half_and_the_contexts_share_the_other() -> None:
    numbered = torch.arange(1.0, 7.0, dtype=torch.float64)[:, None].expand(6, 3)
    wanted = 0.5 * 1 + 0.1 * (2 + 3 + 4 + 5 + 6)
    torch.testing.assert_close(average_over_contexts(numbered), torch.full((3,), wanted, dtype=torch.float64))
    assert torch.equal(average_over_contexts(numbered[:1]), numbered[0])


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_averaged_keys_are_each_edits_own_whatever_shares_the_batch(
    family: str, facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny(family, dtype=torch.float64, batch_size=3)
    matrix = model.anatomy.down_projection(1)
    prompts = [[subject_row(model, fact, context) for context in ("", "Because it is. ", "Red. ")] for fact in facts]
    prompts[1] = prompts[1][:2]
    together = averaged_keys(model, matrix, prompts)
    for rows, found in zip(prompts, together, strict=True):
        keys, _ = keys_and_outputs(model, matrix, rows)
        torch.testing.assert_close(found, average_over_contexts(keys), rtol=1e-6, atol=1e-6)


def test_several_places_are_read_in_one_pass_that_ends_at_the_last(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("llama", dtype=torch.float64)
    rows = [subject_row(model, fact) for fact in facts]
    matrix, block = model.anatomy.down_projection(1), model.anatomy.block(2)
    ran = []
    handles = [
        model.anatomy.block(number).register_forward_pre_hook(lambda *_, number=number: ran.append(number))
        for number in range(4)
    ]
    keys, states = vectors(model, rows, [(matrix.module, "input"), (block, "output")])
    for handle in handles:
        handle.remove()
    assert ran == [0, 1, 2]
    for row, key, state in zip(rows, keys, states, strict=True):
        ids = torch.tensor([row.ids])
        with torch.no_grad(), capture(matrix.module, "input") as entering, capture(block) as leaving:
            model.logits(ids, torch.ones_like(ids))
        torch.testing.assert_close(key, entering.value[0, row.end], rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(state, leaving.value[0, row.end], rtol=1e-8, atol=1e-9)


def test_short_memory_halves_the_batch_and_changes_nothing(
    facts: tuple[EditRequest, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = zoo.tiny("gpt2", dtype=torch.float64)
    matrix = model.anatomy.down_projection(1)
    rows = [subject_row(model, fact, context) for fact in facts for context in ("", "Because it is. ")]
    wanted = keys_and_outputs(model, matrix, rows)
    plain = model.forward

    def short(ids: torch.Tensor, mask: torch.Tensor, **options: object) -> object:
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(ids, mask, **options)

    monkeypatch.setattr(model, "forward", short)
    with pytest.warns(RuntimeWarning, match="going on with"):
        found = keys_and_outputs(model, matrix, rows)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_keys_of_half_precision_are_widened_before_they_are_averaged(
    dtype: torch.dtype, facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("llama", dtype=dtype)
    matrix = model.anatomy.down_projection(1)
    rows = [subject_row(model, facts[0], context) for context in ("", "Because it is. ", "Red. ", "The blue. ")]
    keys, outputs = keys_and_outputs(model, matrix, rows)
    assert keys.dtype == outputs.dtype == torch.float32
    assert torch.equal(keys, keys.to(dtype).float())
    [found] = averaged_keys(model, matrix, [rows])
    wanted = keys[0].double() / 2 + keys[1:].double().mean(0) / 2
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-6)
