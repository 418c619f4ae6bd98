"""AlphaEdit: the projector, the closed form, and earlier keys as state of the chain of edits alone."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from editguard.edited import EditedModel
from editguard.edited.key_memory import KeyMemory, earlier_keys
from editguard.edits import EditRequest
from editguard.errors import InvalidSettings, MethodRefused
from editguard.methods import Preparation, create
from editguard.methods.alphaedit import AlphaEdit, AlphaEditSettings, NullSpace, confined_gain
from editguard.methods.context_templates import prefix_contexts
from editguard.methods.keys import averaged_keys
from editguard.methods.residual_spreading import block_or_mlp
from editguard.methods.value_optimisation import optimise_values, value_problem
from editguard.models import LanguageModel
from editguard.models.second_moment import SecondMoment, second_moments

close = torch.testing.assert_close


@st.composite
def moments(draw: Callable[..., Any]) -> SecondMoment:
    """Second moments whose eigenvalues spread over many orders."""
    columns = draw(st.integers(4, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    basis, _ = torch.linalg.qr(torch.randn(columns, columns, generator=generator, dtype=torch.float64))
    values = torch.logspace(-3, 2, columns, dtype=torch.float64)
    matrix = basis * values @ basis.T
    return SecondMoment((matrix + matrix.T) / 2, 100, "drawn")


def random(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def projector(space: NullSpace, width: int) -> Tensor:
    return space.project(torch.eye(width, dtype=torch.float64))


@given(moments(), st.sampled_from([0.0137, 1.37, 31.0]))  # at none of the eigenvalues
@settings(deadline=None)
def test_the_projector_is_one_and_as_wide_as_the_small_eigenvalues_are_many(
    moment: SecondMoment, threshold: float
) -> None:
    space = NullSpace.of(moment, threshold)
    p = projector(space, moment.d_ff)
    close(p, p.T)
    close(p, p @ p)
    wanted = int((torch.linalg.eigvalsh(moment.matrix) < threshold).sum())
    assert space.rank == wanted == round(float(p.trace()))
    assert space.record["rank"] == wanted
    assert space.record["rank_fraction"] == wanted / moment.d_ff
    close(p @ moment.matrix, moment.matrix @ p, rtol=1e-8, atol=1e-9)
    assert torch.linalg.eigvalsh(p @ moment.matrix @ p).max() <= threshold


@given(moments(), st.floats(0.01, 50), st.sampled_from([0.01, 0.5]))
@settings(deadline=None)
def test_a_relative_threshold_does_not_see_the_scale_of_the_keys(
    moment: SecondMoment, scale: float, threshold: float
) -> None:
    scaled = SecondMoment(scale * moment.matrix, 100, "scaled")
    one, other = (NullSpace.of(each, threshold, "relative") for each in (moment, scaled))
    close(projector(one, moment.d_ff), projector(other, moment.d_ff), rtol=1e-7, atol=1e-8)
    assert one.record["eigenvalue_threshold"] == pytest.approx(threshold * float(moment.matrix.trace()) / moment.d_ff)


@given(moments(), st.integers(1, 4), st.integers(0, 3), st.integers(0, 10**6))
@settings(deadline=None)
def test_the_short_way_is_the_published_system(moment: SecondMoment, edits: int, past: int, seed: int) -> None:
    space = NullSpace.of(moment, 1.0)
    keys, earlier, residuals = (
        random(moment.d_ff, edits, seed),
        random(moment.d_ff, past, seed + 1),
        random(3, edits, seed + 2),
    )
    p, identity = projector(space, moment.d_ff), torch.eye(moment.d_ff, dtype=torch.float64)
    system = p @ (keys @ keys.T + earlier @ earlier.T) + 0.7 * identity
    direct = torch.linalg.solve(system, p @ keys @ residuals.T).T
    found = residuals @ confined_gain(keys, space, 0.7, earlier).T
    close(found, direct, rtol=1e-8, atol=1e-9)
    close(found @ (identity - p), torch.zeros_like(found), atol=1e-9, rtol=0)
    leak = float((found @ moment.matrix @ found.T).trace())  # mean square of what text's outputs move by
    assert leak <= 1.0 * float(found.square().sum()) * (1 + 1e-9)


@given(moments(), st.integers(0, 10**6))
@settings(deadline=None)
def test_no_free_direction_is_no_change_and_all_free_is_ridge_regression(moment: SecondMoment, seed: int) -> None:
    keys, residuals = random(moment.d_ff, 2, seed), random(3, 2, seed + 1)
    none, every = NullSpace.of(moment, 0.0), NullSpace.of(moment, math.inf)
    assert not (residuals @ confined_gain(keys, none, 1.0, keys[:, :0]).T).any()
    ridge = residuals @ keys.T @ torch.linalg.inv(keys @ keys.T + torch.eye(moment.d_ff, dtype=torch.float64))
    close(residuals @ confined_gain(keys, every, 1.0, keys[:, :0]).T, ridge, rtol=1e-8, atol=1e-9)


@given(moments(), st.integers(0, 10**6))
@settings(deadline=None)
def test_new_keys_reach_their_targets_while_earlier_ones_do_not_move_where_there_is_room(
    moment: SecondMoment, seed: int
) -> None:
    space = NullSpace.of(moment, 30.0)
    keys, earlier, residuals = random(moment.d_ff, 1, seed), random(moment.d_ff, 1, seed + 1), random(3, 1, seed + 2)
    assert space.rank >= 2
    found = residuals @ confined_gain(keys, space, 1e-11, earlier).T
    close(found @ keys, residuals, rtol=1e-3, atol=1e-3)
    close(found @ earlier, torch.zeros_like(residuals), rtol=0, atol=1e-3)
    forgetful = residuals @ confined_gain(keys, space, 1e-11, keys[:, :0]).T
    assert (forgetful @ earlier).norm() > 1e-6


# ---- through the models

SHORT: dict[str, Any] = {
    "layers": (1, 2),
    "steps": 5,
    "step_size": 0.2,
    "context_lengths": ((5, 3),),
    "nullspace_threshold": 0.3,
    "regulariser": 1e-3,
    "unit": "relative",
}


def prepared(model: LanguageModel, texts: tuple[str, ...], **changes: Any) -> AlphaEdit:
    method = AlphaEdit(AlphaEditSettings(**{**SHORT, **changes}))
    method.prepare(model, Preparation(texts=texts))
    return method


def update(edited: EditedModel, layer: int) -> Tensor:
    return edited.edits[-1].changes[0].deltas[edited.model.anatomy.down_projection(layer).name].dense()


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_earlier_keys_belong_to_the_chain_and_go_with_it(
    family: str, texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny(family)
    method = prepared(model, texts)
    original = EditedModel.original(model)
    chain = original
    for number, fact in enumerate(facts):
        chain = method.apply(chain, [fact])
        assert [layer["earlier_keys"] for layer in chain.edits[-1].record["layers"]] == [number, number]
    for layer in (1, 2):
        keys = earlier_keys(chain.changes, model.anatomy.down_projection(layer).name)
        assert keys is not None
        assert keys.shape == (model.anatomy.d_ff, 3)
    assert earlier_keys(original.changes, model.anatomy.down_projection(1).name) is None
    rolled_back = method.apply(chain.prefix(1), facts[1:2])
    assert torch.equal(update(rolled_back, 2), update(chain.prefix(2), 2))
    fresh = prepared(model, texts).apply(original, facts[1:2])
    assert torch.equal(update(fresh, 2), update(method.apply(original, facts[1:2]), 2))
    assert not torch.equal(update(fresh, 2), update(rolled_back, 2))


def test_the_remembered_keys_are_those_that_the_update_was_solved_with(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from editguard.methods import alphaedit

    seen: list[tuple[Tensor, Tensor]] = []
    plain = alphaedit.confined_gain

    def watched(keys: Tensor, space: NullSpace, regulariser: float, earlier: Tensor) -> Tensor:
        seen.append((keys, earlier))
        return plain(keys, space, regulariser, earlier)

    monkeypatch.setattr(alphaedit, "confined_gain", watched)
    model = zoo.tiny("gpt2", dtype=torch.float64)
    method = prepared(model, texts)
    chain = method.apply(EditedModel.original(model), facts[:2])
    method.apply(chain, facts[2:])
    [memory] = [change for change in chain.changes if isinstance(change, KeyMemory)]
    for number, layer in enumerate((1, 2)):
        assert torch.equal(memory.keys[model.anatomy.down_projection(layer).name], seen[number][0])
        assert torch.equal(seen[2 + number][1], seen[number][0])
        assert seen[number][1].shape == (zoo.D_FF, 0)


@pytest.mark.parametrize("unit", ["absolute", "relative"])
@pytest.mark.parametrize("family", ["gpt2", "gemma3_text"])
def test_the_first_layers_update_is_the_closed_form_at_its_share_of_the_residual_in_either_unit(
    family: str, unit: str, texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny(family, dtype=torch.float64)
    matrix = model.anatomy.down_projection(1)
    [moment] = second_moments(model, [1], texts, tokens=10 * model.anatomy.d_ff).values()
    one = moment.scale if unit == "absolute" else 1.0
    method = prepared(model, texts, nullspace_threshold=0.3 * one, regulariser=1e-2 * one, unit=unit)
    contexts = prefix_contexts(model, lengths=SHORT["context_lengths"])
    problems = [value_problem(model, fact, contexts) for fact in facts]
    place = block_or_mlp(model)
    assert (place == "mlp") == (family == "gemma3_text")
    found = optimise_values(model, problems, method.settings.value_settings(place))
    keys = averaged_keys(model, matrix, [problem.prompts for problem in problems]).T
    space = NullSpace.of(moment, 0.3 * moment.scale)
    assert 0 < space.rank < moment.d_ff
    gain = confined_gain(keys, space, 1e-2 * moment.scale, keys[:, :0])
    wanted = torch.stack([each.delta for each in found]).T / len(SHORT["layers"]) @ gain.T
    edited = method.apply(EditedModel.original(model), facts)
    close(update(edited, 1), wanted, rtol=1e-5, atol=1e-7 * float(wanted.abs().max()))


def test_the_update_keeps_to_the_free_directions_and_says_how_much_of_the_keys_these_hold(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("llama", dtype=torch.float64)
    method = prepared(model, texts)
    edited = method.apply(EditedModel.original(model), facts)
    for line in edited.edits[0].record["layers"]:
        space = method.statistics.of(model)[line["layer"]]
        delta = update(edited, line["layer"])
        close(space.project(delta.T).T, delta, rtol=1e-8, atol=1e-10)
        assert 0 < line["free_part_of_keys"] < 1
        assert line["null_space"]["rank"] == space.rank
        assert 0 < line["null_space"]["trace_fraction"] < line["null_space"]["rank_fraction"]


def test_a_model_without_free_directions_is_refused_or_warned_about(
    texts: tuple[str, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("gpt2")
    with pytest.raises(MethodRefused, match=r"no free direction in layers 1, 2.*nullspace_threshold"):
        prepared(model, texts, nullspace_threshold=0.0).apply(EditedModel.original(model), facts)
    smallest = [float(torch.linalg.eigvalsh(space.matrix)[0]) for space in _matrices(model, texts)]
    between = sum(smallest) / 2
    method = prepared(model, texts, nullspace_threshold=between, unit="absolute")
    with pytest.warns(RuntimeWarning, match=r"layers \d have no free direction"):
        edited = method.apply(EditedModel.original(model), facts)
    assert sorted(bool(update(edited, layer).any()) for layer in (1, 2)) == [False, True]
    model.weights.verify()


def _matrices(model: LanguageModel, texts: tuple[str, ...]) -> list[SecondMoment]:
    return list(second_moments(model, (1, 2), texts, tokens=10 * model.anatomy.d_ff).values())


def test_an_unknown_model_gets_numbers_relative_to_its_own_keys() -> None:
    method = create("alphaedit", {}, zoo.tiny("gpt2"))
    assert method.settings.unit == "relative"
    assert method.provenance["nullspace_threshold"].startswith("derived from depth")
    for bad in ({"nullspace_threshold": -1.0}, {"regulariser": 0.0}, {"layers": ()}):
        with pytest.raises(InvalidSettings):
            AlphaEditSettings(**bad)
