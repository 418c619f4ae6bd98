"""Keys and outputs at the subject's last token."""

import pytest
import torch
import zoo

from editguard.edits import EditRequest
from editguard.methods.keys import keys_and_outputs, subject_row
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
