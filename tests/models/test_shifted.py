"""Passes with changed weights: what the changed weights would give, row by row, with gradients into the change."""

from collections.abc import Sequence

import pytest
import torch
import zoo
from torch import Tensor

from editguard.models import LanguageModel
from editguard.models.anatomy import Matrix
from editguard.models.answer_rows import answer_rows
from editguard.models.shifted import RowShifts, shifted

PAIRS = (
    ("The capital of Velloria is", "Ines Holt"),
    ("Ines", "Tamrin"),
    ("Question: who is the mother of Quintessa Marlowe-Vane? Answer:", "Oskar"),
    ("Aldo Holt was born in", "Belmora"),
)
EXACT = frozenset({"gpt2", "opt", "opt_post_norm", "gpt_neox", "gpt_neox_sequential"})
"""Families that compute everything in float64 where the weights are; others have parts in float32."""
EDITS = (1, 0, 1, 2)
"""Which edit each row sees; edit 2 changes nothing."""


def shifts(matrix: Matrix, seed: int, *, dtype: torch.dtype = torch.float64) -> RowShifts:
    """Five terms of three edits, out of order; the third edit has none."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (0.3 * torch.randn(5, width, dtype=dtype, generator=generator) for width in matrix.shape)
    return RowShifts(left, right, torch.tensor([1, 0, 1, 1, 0]), 3)


def edited_matrices(model: LanguageModel) -> list[Matrix]:
    anatomy = model.anatomy
    return [matrix for layer in (1, 3) for matrix in (*anatomy.up_projections(layer), anatomy.down_projection(layer))]


def logits_with_weights(model: LanguageModel, changes: Sequence[tuple[Matrix, RowShifts]], edit: int) -> list[Tensor]:
    """Logits of all rows with one edit's changes added to the weights themselves."""
    pristine = [matrix.parameter.detach().clone() for matrix, _ in changes]
    with torch.no_grad():
        for matrix, each in changes:
            matrix.weight().add_(each.alone(edit).dense())
        rows = answer_rows(model, PAIRS, 0)
        found = rows.passes.logits()
        for (matrix, _), before in zip(changes, pristine, strict=True):
            matrix.parameter.copy_(before)
    return list(torch.split(found, rows.reads))


@pytest.mark.parametrize("family", zoo.ALL)
def test_every_row_is_answered_as_by_the_weights_of_its_own_edit(family: str) -> None:
    model = zoo.tiny(family, dtype=torch.float64)
    changes = [(matrix, shifts(matrix, seed)) for seed, matrix in enumerate(edited_matrices(model))]
    wanted = [logits_with_weights(model, changes, edit) for edit in range(3)]
    rows = answer_rows(model, PAIRS, 1)
    with torch.no_grad(), shifted(changes, torch.tensor(EDITS)):
        found = torch.split(rows.passes.logits(), rows.reads)
    bounds = {"rtol": 1e-8, "atol": 1e-9} if family in EXACT else {"rtol": 1e-3, "atol": 1e-4}
    for row, edit in enumerate(EDITS):
        torch.testing.assert_close(found[row], wanted[edit][row], **bounds)
    assert not torch.allclose(wanted[0][0], wanted[1][0], atol=1e-2)


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_the_gradient_flows_into_the_change_and_into_nothing_else(family: str) -> None:
    model = zoo.tiny(family, dtype=torch.float64)
    matrix = model.anatomy.up_projections(2)[0]
    made = shifts(matrix, 0)
    left, right = made.left.requires_grad_(), made.right.requires_grad_()
    rows = answer_rows(model, PAIRS[:1], 2)

    def loss(left: Tensor) -> Tensor:
        with shifted([(matrix, RowShifts(left, right, made.edit, 3))], torch.tensor([1])):
            return rows.losses(rows.passes.logits()).sum()

    [gradient, other] = torch.autograd.grad(loss(left), [left, right])
    assert other.any()
    own = made.edit == 1
    assert not gradient[~own].any()
    width, bound = (1e-5, 1e-5) if family in EXACT else (3e-3, 0.05)
    step = torch.zeros_like(left)
    step[2, 3] = width
    with torch.no_grad():
        slope = (loss(left + step) - loss(left - step)) / (2 * width)
    assert float(gradient[2, 3]) == pytest.approx(float(slope), rel=bound, abs=1e-7)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.module.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_a_change_of_nothing_gives_the_same_bits(family: str, dtype: torch.dtype) -> None:
    model = zoo.tiny(family, dtype=dtype)
    rows = answer_rows(model, PAIRS, 1)
    nothing = [
        (matrix, RowShifts(0.0 * made.left, made.right, made.edit, 3))
        for matrix in edited_matrices(model)
        for made in [shifts(matrix, 1, dtype=torch.float32)]
    ]
    with torch.no_grad():
        before = rows.passes.logits()
        with shifted(nothing, torch.tensor(EDITS)):
            assert torch.equal(rows.passes.logits(), before)


def test_no_edit_at_all_and_edits_without_terms_change_nothing() -> None:
    model = zoo.tiny("gpt2")
    matrix = model.anatomy.down_projection(1)
    d_out, d_in = matrix.shape
    empty = RowShifts(torch.zeros(0, d_out), torch.zeros(0, d_in), torch.zeros(0, dtype=torch.long), 2)
    assert empty.padded()[0].shape == (2, 0, d_out)
    assert not empty.together().dense().any()
    rows = answer_rows(model, PAIRS[:2], 1)
    with torch.no_grad():
        before = rows.passes.logits()
        with shifted([(matrix, empty)], torch.tensor([0, 1])):
            assert torch.equal(rows.passes.logits(), before)


def test_the_changes_of_all_edits_are_the_sum_of_each_alone() -> None:
    made = shifts(zoo.tiny("gpt2").anatomy.down_projection(0), 0)
    torch.testing.assert_close(made.together().dense(), sum(made.alone(edit).dense() for edit in range(3)))
    assert made.alone(2).left.shape[1] == 0
    left, right = made.padded()
    for edit in range(3):
        torch.testing.assert_close(left[edit].T @ right[edit], made.alone(edit).dense())


def test_hooks_are_gone_also_after_a_failure() -> None:
    model = zoo.tiny("gpt2")
    matrix = model.anatomy.down_projection(1)
    with pytest.raises(RuntimeError, match="power"), shifted([(matrix, shifts(matrix, 0))], torch.tensor([0])):
        raise RuntimeError("the power went out")
    assert not matrix.module._forward_hooks
