"""PRUNE: singular values above those of the original weight come down to it, always from the original weight."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from editguard.edited import EditedModel
from editguard.edited.compaction import merged
from editguard.edits import EditRequest
from editguard.errors import InvalidSettings
from editguard.methods import Preparation, create
from editguard.methods.fine_tuning import ConstrainedFineTuning, FreeFineTuning
from editguard.methods.prune import (
    Prune,
    PruneSettings,
    capped,
    largest_singular_value,
    singular_parts,
    standing_cap,
    summed,
    without_caps,
)
from editguard.methods.rome import Rome
from editguard.methods.settings import joined
from editguard.models import LanguageModel
from editguard.models.weights import Delta, Dense, LowRank

LAYER = 2
ROME: dict[str, Any] = {
    "layer": LAYER,
    "steps": 6,
    "step_size": 20.0,
    "clamp_factor": 1e6,
    "context_lengths": ((4, 2),),
    "shrinkage": 1e-1,
}
MEMIT: dict[str, Any] = {
    "layers": (1, 2),
    "steps": 4,
    "step_size": 20.0,
    "clamp_factor": 1e6,
    "context_lengths": ((4, 2),),
    "shrinkage": 1e-2,
}


class RomePrune(Prune):
    """ROME with PRUNE."""

    name = "rome-prune"
    inner = Rome
    recipe = joined(PruneSettings, Rome.recipe, Rome.name)
    settings_type = recipe.type


class TunedPrune(Prune):
    """FT with PRUNE: dense updates."""

    name = "ft-prune"
    inner = FreeFineTuning
    recipe = joined(PruneSettings, FreeFineTuning.recipe, FreeFineTuning.name)
    settings_type = recipe.type


# ---- the closed form


@given(
    st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=8),
    st.floats(0.01, 100),
    st.floats(1.01, 20),
)
def test_small_values_stay_large_ones_fall_none_rises_and_the_order_holds(
    values: list[float], limit: float, base: float
) -> None:
    before = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    after = capped(before, limit, base)
    assert torch.equal(after[before <= limit], before[before <= limit])
    assert (after <= before).all()
    assert (after[before > limit] > limit).all()
    assert (after[:-1] >= after[1:]).all()


def test_the_cap_is_the_papers_logarithm() -> None:
    # s_max = 2: ln(2 e) - ln 2 + 2 = 3; in base 10, log10(20) - log10(2) + 2 = 3
    torch.testing.assert_close(capped(torch.tensor([2 * math.e, 2.0, 1.0]), 2.0), torch.tensor([3.0, 2.0, 1.0]))
    torch.testing.assert_close(capped(torch.tensor([20.0]), 2.0, 10.0), torch.tensor([3.0]))


@given(st.floats(0.5, 50), st.floats(1.5, 20))
def test_the_cap_is_continuous_at_the_limit(limit: float, base: float) -> None:
    just_above = torch.tensor([limit * (1 + 1e-9)], dtype=torch.float64)
    assert float(capped(just_above, limit, base)) == pytest.approx(limit, rel=1e-6)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6), (1, 4)])
def test_the_largest_singular_value_is_that_of_the_svd(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    wanted = float(torch.linalg.svdvals(weight.double())[0])
    assert largest_singular_value(weight) == pytest.approx(wanted, rel=1e-9)
    assert largest_singular_value(torch.zeros(shape)) == 0


@st.composite
def update_lists(draw: Callable[..., Any]) -> list[Delta]:
    """Some updates of one matrix: factors, dense ones, or both; of low and of full rank together."""
    rows, columns = draw(st.sampled_from([(6, 9), (9, 6), (7, 7)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    updates: list[Delta] = []
    for rank in draw(st.lists(st.integers(0, 3), min_size=1, max_size=4)):
        left, right = (torch.randn(size, max(rank, 1), generator=generator).double() for size in (rows, columns))
        updates.append(LowRank(left, right) if rank else Dense(left @ right.T))
    return updates


@given(update_lists())
@settings(deadline=None)
def test_the_parts_of_a_sum_of_updates_are_its_singular_value_decomposition(updates: list[Delta]) -> None:
    left, values, right = singular_parts(updates)
    torch.testing.assert_close(left @ values.diag() @ right.T, summed(updates), rtol=1e-9, atol=1e-9)
    wanted = torch.linalg.svdvals(summed(updates))[: len(values)]
    torch.testing.assert_close(values, wanted, rtol=1e-9, atol=1e-9)
    for side in (left, right):
        torch.testing.assert_close(side.T @ side, torch.eye(len(values), dtype=side.dtype), rtol=0, atol=1e-9)


# ---- through the models


def by_hand(updates: Sequence[Delta], weight: Tensor, base: float = math.e) -> Tensor:
    """The capped sum by a full decomposition of the dense matrix."""
    left, values, right = torch.linalg.svd(summed(updates), full_matrices=False)
    limit = float(torch.linalg.svdvals(weight.double())[0])
    moved = torch.tensor([s if s <= limit else min(s, math.log(s / limit) / math.log(base) + limit) for s in values])
    return left @ moved.double().diag() @ right


def prepared(method: Prune, model: LanguageModel, texts: tuple[str, ...]) -> Prune:
    method.prepare(model, Preparation(texts=texts))
    return method


def rome_prune(model: LanguageModel, texts: tuple[str, ...], **own: Any) -> Prune:
    return prepared(RomePrune(RomePrune.settings_type(**ROME, **own)), model, texts)


def rome(model: LanguageModel, texts: tuple[str, ...]) -> Rome:
    method = create("rome", ROME, model)
    method.prepare(model, Preparation(texts=texts))
    assert isinstance(method, Rome)
    return method


def shrunken(family: str, dtype: torch.dtype = torch.float64, square: bool = False) -> LanguageModel:
    """A model whose edited matrix is small next to the edits."""
    model = zoo.tiny(family, dtype=dtype, square=square)
    with torch.no_grad():
        model.anatomy.down_projection(LAYER).parameter.mul_(0.3)
    return model


@pytest.mark.parametrize(("family", "square"), [("gpt2", False), ("gpt2", True), ("llama", False), ("opt", False)])
def test_at_every_point_the_weights_are_the_original_ones_plus_the_capped_sum_of_the_inner_methods_edits(
    family: str, square: bool, texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = shrunken(family, square=square)
    matrix = model.anatomy.down_projection(LAYER)
    original = matrix.weight().detach().clone()
    method = rome_prune(model, texts, logarithm_base=10.0)
    plain = rome(model, texts).apply(EditedModel.original(model), facts)
    updates = [delta for change in plain.changes for delta in change.deltas.values()]
    chain = EditedModel.original(model)
    for number, fact in enumerate(facts, start=1):
        chain = method.apply(chain, [fact])
        wanted = by_hand(updates[:number], original, base=10.0)
        with chain:
            change = matrix.weight().detach() - original
        torch.testing.assert_close(change, wanted, rtol=1e-6, atol=1e-9)
        assert (change - summed(updates[:number])).norm() > 1e-2 * change.norm()
    assert chain.edits[-1].record["prune"][matrix.name]["capped"] >= 1
    together = method.apply(EditedModel.original(model), facts)
    with chain:
        one_by_one = matrix.weight().detach().clone()
    with together:
        torch.testing.assert_close(matrix.weight().detach(), one_by_one, rtol=1e-9, atol=1e-12)


def test_where_nothing_exceeds_the_limit_the_edit_is_the_inner_methods_to_the_bit(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("gpt2")
    with torch.no_grad():
        model.anatomy.down_projection(LAYER).parameter[0, 0] = 1e4
    plain = rome(model, texts).apply(EditedModel.original(model), facts[:2])
    pruned = rome_prune(model, texts).apply(EditedModel.original(model), facts[:2])
    assert [len(edit.changes) for edit in pruned.edits] == [1, 1]
    with plain:
        wanted = model.weights.digest()
    with pruned:
        assert model.weights.digest() == wanted


def test_dense_updates_are_capped_as_well(facts: tuple[EditRequest, ...]) -> None:
    model = shrunken("gpt2")
    matrix = model.anatomy.down_projection(LAYER)
    original = matrix.weight().detach().clone()
    free = {"layer": LAYER, "step_size": 0.05, "epochs": 6, "trains_bias": True}
    method = TunedPrune(TunedPrune.settings_type(**free))
    chain = method.apply(method.apply(EditedModel.original(model), facts[:1]), facts[1:])
    updates = [change.deltas[matrix.name] for change in without_caps(chain).changes]
    assert all(isinstance(update, Dense) for update in updates)
    assert chain.edits[-1].record["prune"].keys() == {matrix.name}
    assert chain.edits[-1].record["prune"][matrix.name]["capped"] >= 1
    with chain:
        torch.testing.assert_close(
            matrix.weight().detach() - original, by_hand(updates, original), rtol=1e-6, atol=1e-9
        )


def test_a_sum_that_stands_for_earlier_edits_is_counted_once(facts: tuple[EditRequest, ...]) -> None:
    model = shrunken("gpt2")
    matrix = model.anatomy.down_projection(LAYER)
    free = {"layer": LAYER, "step_size": 0.05, "epochs": 6}
    tuning = FreeFineTuning(FreeFineTuning.settings_type(**free))
    chain = EditedModel.original(model)
    for fact in facts:
        chain = tuning.apply(chain, [fact])
    short = merged(chain, since=1)
    assert len(short.edits) == 2
    method = TunedPrune(TunedPrune.settings_type(**free))
    last = EditRequest(prompt="{} is in", subject="Tamrin", target="Oskar")
    values = []
    for before in (chain, short):
        with method.apply(before, [last]):
            values.append(matrix.weight().detach().clone())
    torch.testing.assert_close(values[1], values[0], rtol=1e-9, atol=1e-12)


def test_the_limit_is_that_of_the_unedited_weight_whatever_is_in_force(facts: tuple[EditRequest, ...]) -> None:
    model = shrunken("gpt2")
    matrix = model.anatomy.down_projection(LAYER)
    wanted = float(torch.linalg.svdvals(matrix.weight().detach())[0])
    free = {"layer": LAYER, "step_size": 0.05, "epochs": 6}
    chain = FreeFineTuning(FreeFineTuning.settings_type(**free)).apply(EditedModel.original(model), facts[:1])
    with chain:
        assert float(torch.linalg.svdvals(matrix.weight().detach())[0]) > 1.01 * wanted
        pruned = TunedPrune(TunedPrune.settings_type(**free)).apply(chain, facts[1:])
    assert pruned.edits[-1].record["prune"][matrix.name]["limit"] == pytest.approx(wanted, rel=1e-6)


def test_a_cap_that_is_no_longer_needed_is_given_back(texts: tuple[str, ...], facts: tuple[EditRequest, ...]) -> None:
    model = shrunken("gpt2")
    matrix = model.anatomy.down_projection(LAYER)
    method = rome_prune(model, texts)
    chain = method.apply(EditedModel.original(model), facts[:1])
    assert standing_cap(chain)
    [delta] = without_caps(chain).edits[0].changes[0].deltas.values()

    class Undoing(ConstrainedFineTuning):
        def apply(self, edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
            back = type(chain.edits[0].changes[0])({matrix.name: LowRank(-delta.left, delta.right)})
            from editguard.edited import AppliedEdit

            return edited.extended(AppliedEdit("undoing", tuple(requests), (back,)))

    method._method = Undoing()
    pristine = matrix.weight().detach().clone()
    undone = method.apply(chain, facts[1:2])
    assert not standing_cap(undone)
    with undone:
        torch.testing.assert_close(matrix.weight().detach(), pristine, rtol=1e-9, atol=1e-12)


def test_memit_goes_on_from_its_own_uncapped_edits(texts: tuple[str, ...], facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("gpt2")
    with torch.no_grad():
        for layer in (1, 2):
            model.anatomy.down_projection(layer).parameter.mul_(0.3)
    memit, prune = (create(name, MEMIT, model) for name in ("memit", "memit-prune"))
    for method in (memit, prune):
        method.prepare(model, Preparation(texts=texts))
    plain = memit.apply(memit.apply(EditedModel.original(model), facts[:2]), facts[2:])
    pruned = prune.apply(prune.apply(EditedModel.original(model), facts[:2]), facts[2:])
    assert {edit.method for edit in pruned.edits} == {"memit-prune"}
    for one, other in zip(plain.edits, without_caps(pruned).edits, strict=True):
        for name, delta in one.changes[0].deltas.items():
            assert torch.equal(delta.dense(), other.changes[0].deltas[name].dense())
    assert sum(report["capped"] for report in pruned.edits[-1].record["prune"].values()) > 0
    limits = {
        name: float(torch.linalg.svdvals(model.weights.pristine(name).double())[0]) for name in plain.changes[0].deltas
    }
    for name, limit in limits.items():
        report = pruned.edits[-1].record["prune"][name]
        assert report["limit"] == pytest.approx(limit, rel=1e-6)
        wanted = largest_singular_value(summed([change.deltas[name] for change in plain.changes]))
        assert report["largest"] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("base", [1.0, 0.5, 0.0, -2.0])
def test_a_base_of_the_logarithm_that_is_none_is_refused(base: float) -> None:
    with pytest.raises(InvalidSettings, match="logarithm_base is above 1"):
        create("memit-prune", {"logarithm_base": base})
