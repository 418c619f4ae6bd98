"""MEND: the identity at first, gradients that live, statistics that stay, and an update that is what it says."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import zoo
from methods.small_mend import LAYERS, QUICK, SETTINGS, disturbed, generator
from torch import Tensor

from editguard.edited import EditedModel
from editguard.edits import EditCase, EditRequest
from editguard.errors import InvalidSettings, MethodRefused
from editguard.methods import Preparation, create
from editguard.methods.gradient_editors import Outcome, edited_matrices
from editguard.methods.mend import Mend, MendEditor, low_rank_or_dense, rectified
from editguard.methods.settings import Shape, resolve
from editguard.models import LanguageModel
from editguard.models.answer_rows import answer_rows
from editguard.models.gradient_factors import Factors, gradient_factors
from editguard.models.shifted import shifted
from editguard.models.weights import Dense, LowRank

UP, DOWN = "up.weight", "down.weight"
SHAPES = {UP: (5, 3), DOWN: (3, 5), "other up.weight": (5, 3)}


def gap(found: Tensor, wanted: Tensor) -> float:
    """The largest difference in units of the largest wanted entry: updates are small numbers."""
    return float((found - wanted).detach().abs().max() / wanted.detach().abs().max())


def some_factors(seed: int = 0, tokens: int = 6, rows: int = 2) -> dict[str, Factors]:
    """Factors for `SHAPES`, of other numbers of tokens for each matrix."""
    found = {}
    for number, (name, (d_out, d_in)) in enumerate(SHAPES.items()):
        count = tokens + number
        inputs, gradients = (torch.randn(count, width, generator=generator(seed + number)) for width in (d_in, d_out))
        row = torch.arange(count) % rows
        found[name] = Factors(3 * inputs + 1, 1e-3 * gradients, row, rows)
    return found


def new_editor(seed: int = 0, **changes: Any) -> MendEditor:
    editor = MendEditor(SHAPES, replace(SETTINGS, **changes), seed)
    editor.learn(some_factors(seed=90, tokens=30))
    return editor


def changes(editor: MendEditor, factors: Mapping[str, Factors], rows: int = 2) -> dict[str, Tensor]:
    """The sums of all rows' changes, (d_out, d_in)."""
    requests = [EditRequest(prompt="{} is", subject=str(number), target="x") for number in range(rows)]
    model: Any = None  # a text is read by other editors alone
    return {name: each.together().dense() for name, each in editor.changes(model, factors, requests).items()}


# ---- the network


def test_the_rectified_line_has_slope_one_at_zero_and_hides_nothing_undefined() -> None:
    values = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True)
    made = rectified(values)
    assert made.tolist() == [0.0, 0.0, 3.0]
    assert torch.autograd.grad(made.sum(), [values])[0].tolist() == [0.0, 1.0, 1.0]
    assert rectified(torch.tensor(float("nan"))).isnan()


@pytest.mark.parametrize("normalise", [True, False])
def test_an_untrained_network_is_the_identity_bit_for_bit_for_every_matrix(normalise: bool) -> None:
    editor = new_editor(normalise=normalise)
    factors = some_factors()
    network: Any = editor.networks["3x5"]
    for own, (inputs, gradients) in zip(
        (factors[UP], factors["other up.weight"]), network([factors[UP], factors["other up.weight"]]), strict=True
    ):
        wanted = (own.inputs, own.gradients)
        if normalise:
            wanted = (network.inputs.normalised(own.inputs), network.gradients.normalised(own.gradients))
        assert torch.equal(inputs, wanted[0])
        assert torch.equal(gradients, wanted[1])


def test_untrained_and_without_normalising_it_is_a_step_down_the_gradient() -> None:
    factors = some_factors()
    for name, change in changes(new_editor(normalise=False), factors).items():
        assert gap(change, -SETTINGS.edit_rate * factors[name].gradient()) < 1e-5


def test_untrained_it_multiplies_what_is_normalised_by_all_that_was_seen() -> None:
    factors, seen = some_factors(), some_factors(seed=90, tokens=30)
    groups = {UP: (UP, "other up.weight"), DOWN: (DOWN,)}
    found = changes(new_editor(), factors)
    for name, group in groups.items():
        inputs, gradients = (
            (own - every.mean(0)) / (every.std(0) + 1e-7)
            for own, every in (
                (factors[name].inputs, torch.cat([seen[each].inputs for each in group])),
                (factors[name].gradients, torch.cat([seen[each].gradients for each in group])),
            )
        )
        assert gap(found[name], -SETTINGS.edit_rate * gradients.T @ inputs) < 1e-4


@pytest.mark.parametrize("family", [*zoo.REPRESENTATIVE, "t5", "bart"])
def test_a_small_untrained_step_lowers_the_edits_loss(family: str, facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny(family)
    settings = replace(SETTINGS, normalise=False, edit_rate=1e-3)
    matrices = edited_matrices(model, "mend", settings)
    shapes = {matrix.name: matrix.shape for of_layer in matrices.values() for matrix in of_layer}
    pairs = [(fact.text, fact.target) for fact in facts]
    factors, before = gradient_factors(model, pairs, matrices)
    made = MendEditor(shapes, settings, 0).changes(model, factors, facts)
    rows = answer_rows(model, pairs, min(LAYERS))
    by_matrix = [(matrix, made[matrix.name]) for of_layer in matrices.values() for matrix in of_layer]
    with torch.no_grad(), shifted(by_matrix, torch.arange(len(pairs))):
        after = rows.losses(rows.passes.logits())
    assert bool((after < before).all())


def test_the_first_gradient_reaches_what_was_zero_and_not_what_it_multiplies() -> None:
    """A dead start would train nothing but the rates, without any error."""
    editor = new_editor()
    total = torch.stack([(change**2).sum() for change in changes(editor, some_factors()).values()]).sum()
    names = [name for name, _ in editor.named_parameters()]
    gradients = dict(zip(names, torch.autograd.grad(total, list(editor.parameters())), strict=True))
    for name, gradient in gradients.items():
        part = name.rpartition(".")[2]
        assert bool(gradient.any()) == (part not in ("right", "scale")), name
        assert bool(gradient.isfinite().all()), name


def test_matrices_of_one_shape_share_a_network_and_keep_scales_of_their_own() -> None:
    editor = disturbed(new_editor())
    assert set(editor.networks) == {"3x5", "5x3"}
    factors = some_factors()
    same = {**factors, "other up.weight": factors[UP]}
    found = changes(editor, same)
    assert not torch.allclose(found[UP], found["other up.weight"])
    swapped = {**factors, UP: factors["other up.weight"], "other up.weight": factors[UP]}
    before = changes(editor, factors)
    with torch.no_grad():
        for block in editor.networks["3x5"].blocks:
            for part in (block.scale, block.offset):
                part.copy_(part.flip(0))
        editor.rates.copy_(editor.rates[torch.tensor([2, 1, 0])])
    after = changes(editor, swapped)
    assert gap(after[UP], before["other up.weight"]) < 1e-5
    assert gap(after["other up.weight"], before[UP]) < 1e-5
    assert gap(after[DOWN], before[DOWN]) < 1e-5
    fresh = new_editor()
    untrained = changes(fresh, same)
    assert gap(untrained[UP], untrained["other up.weight"]) < 1e-5


def test_square_matrices_share_one_network_whatever_their_place() -> None:
    assert set(MendEditor({"up": (4, 4), "down": (4, 4)}, SETTINGS, 0).networks) == {"4x4"}


def test_statistics_change_when_they_are_told_to_and_by_nothing_else() -> None:
    editor = new_editor()
    before = {name: tensor.clone() for name, tensor in editor.state_dict().items()}
    first = changes(editor, some_factors(seed=5))
    changes(editor, some_factors(seed=6))
    again = changes(editor, some_factors(seed=5))
    assert all(torch.equal(tensor, before[name]) for name, tensor in editor.state_dict().items())
    assert all(torch.equal(first[name], again[name]) for name in first)
    loaded = MendEditor(SHAPES, SETTINGS, 7)
    loaded.load_state_dict(editor.state_dict())
    assert all(torch.equal(first[name], each) for name, each in changes(loaded, some_factors(seed=5)).items())
    assert editor.report()["statistic_tokens"] == {"3x5": 30 + 32, "5x3": 31}
    with pytest.raises(MethodRefused, match="has seen 0 tokens"):
        changes(MendEditor(SHAPES, SETTINGS, 0), some_factors())


def test_no_tokens_are_no_change_and_not_an_undefined_one() -> None:
    nothing = {
        name: Factors(torch.zeros(0, d_in), torch.zeros(0, d_out), torch.zeros(0, dtype=torch.long), 2)
        for name, (d_out, d_in) in SHAPES.items()
    }
    editor = disturbed(new_editor())
    editor.learn(nothing)
    for name, change in changes(editor, nothing).items():
        assert torch.equal(change, torch.zeros(SHAPES[name]))


def test_every_row_gets_the_change_that_it_gets_alone() -> None:
    editor, factors = disturbed(new_editor()), some_factors()
    model: Any = None
    requests = [EditRequest(prompt="{} is", subject=str(number), target="x") for number in range(2)]
    together = editor.changes(model, factors, requests)
    for row in range(2):
        alone = {
            name: Factors(each.inputs[each.row == row], each.gradients[each.row == row], each.row[each.row == row], 2)
            for name, each in factors.items()
        }
        for name, change in editor.changes(model, alone, requests).items():
            assert gap(together[name].alone(row).dense(), change.together().dense()) < 1e-4


def test_the_seed_decides_the_first_weights_and_no_global_generator_is_asked() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, same, other = (MendEditor(SHAPES, SETTINGS, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    first = one.state_dict()
    assert all(torch.equal(tensor, first[name]) for name, tensor in same.state_dict().items())
    assert not all(torch.equal(tensor, first[name]) for name, tensor in other.state_dict().items())


def test_the_rates_have_a_learning_rate_of_their_own_and_every_parameter_is_trained_once() -> None:
    editor = new_editor(step_size=1e-5, rate_step_size=1e-2)
    [optimiser] = editor.optimisers().values()
    groups = {group["lr"]: group["params"] for group in optimiser.param_groups}
    assert groups[1e-2] == [editor.rates]
    assert len(groups[1e-5]) + 1 == len(list(editor.parameters()))
    for parameter in editor.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = editor.rates.detach().clone()
    optimiser.step()
    torch.testing.assert_close(before - editor.rates.detach(), torch.full_like(before, 1e-2))


def test_the_objective_weighs_rephrases_against_what_should_stay() -> None:
    outcome = Outcome(
        losses=torch.tensor([1.0, 3.0]),
        right=torch.tensor([True, False]),
        divergences=torch.tensor([0.5, 0.0, 1.0]),
        kept=torch.tensor([True, True, False]),
        changes={},
    )
    editor = new_editor(edit_weight=0.1, locality_weight=2.0)
    assert float(editor.objective(outcome)) == pytest.approx(0.1 * 2.0 + 2.0 * 0.5)
    assert editor.value({"loss": 3.0}) == 3.0


# ---- the method


def prepared(model: LanguageModel, cases: Sequence[EditCase], **changes: Any) -> Mend:
    method = create("mend", {**QUICK, **changes}, model)
    assert isinstance(method, Mend)
    method.prepare(model, Preparation(training=cases))
    return method


def deltas(edited: EditedModel) -> dict[str, Any]:
    [change] = edited.edits[-1].changes
    return dict(change.deltas)


@pytest.mark.parametrize("family", [*zoo.REPRESENTATIVE, "t5", "bart"])
def test_an_edit_is_the_trained_editors_change_at_its_own_matrices_alone(
    family: str, facts: tuple[EditRequest, ...], training: tuple[EditCase, ...]
) -> None:
    model = zoo.tiny(family)
    method = prepared(model, training)
    edited = method.apply(EditedModel.original(model), facts[:1])
    editor = method._editors.of(model).editor
    matrices = edited_matrices(model, "mend", method.settings)
    factors, [loss] = gradient_factors(model, [(facts[0].text, facts[0].target)], matrices)
    wanted = editor.changes(model, factors, facts[:1])
    anatomy = model.anatomy
    names = {
        each.name for layer in LAYERS for each in (anatomy.up_projections(layer)[0], anatomy.down_projection(layer))
    }
    assert deltas(edited).keys() == wanted.keys() == names
    for name, delta in deltas(edited).items():
        assert gap(delta.dense(), wanted[name].together().dense()) < 1e-4
        shape = edited.edits[0].record["matrices"][name]
        weight = model.weights.present(name)
        assert shape["relative_norm"] == pytest.approx(float(delta.dense().norm() / weight.norm()), rel=1e-4)
    [line] = edited.edits[0].record["requests"]
    assert line["loss"] == pytest.approx(float(loss), rel=1e-5)


def test_the_rank_is_at_most_the_number_of_tokens_and_one_for_one_read_token_in_the_last_block(
    training: tuple[EditCase, ...],
) -> None:
    model = zoo.tiny("gpt2")
    token = model.decode([model.encode_answer("Velloria", "Tamrin")[1][0]]).strip()
    request = EditRequest(prompt="{} is", subject="Velloria", target=token)
    before, after = model.encode_answer(request.text, request.target)
    assert len(after) == 1
    edited = prepared(model, training, layers=(2, 3)).apply(EditedModel.original(model), [request])
    ranks = {name: torch.linalg.matrix_rank(delta.dense()).item() for name, delta in deltas(edited).items()}
    for layer, most in ((2, len(before)), (3, 1)):
        anatomy = model.anatomy
        for matrix in (anatomy.up_projections(layer)[0], anatomy.down_projection(layer)):
            assert 1 <= ranks[matrix.name] <= most


def test_a_batch_is_the_sum_of_its_requests_changes(
    facts: tuple[EditRequest, ...], training: tuple[EditCase, ...]
) -> None:
    model = zoo.tiny("gpt2")
    method, rest = prepared(model, training), EditedModel.original(model)
    together = deltas(method.apply(rest, facts))
    alone = [deltas(method.apply(rest, [fact])) for fact in facts]
    for name, delta in together.items():
        assert gap(delta.dense(), torch.stack([each[name].dense() for each in alone]).sum(0)) < 1e-3
    model.batch_size = 1
    for name, delta in deltas(method.apply(rest, facts)).items():
        assert gap(delta.dense(), together[name].dense()) < 1e-3


def test_a_later_edit_reads_the_gradient_of_the_model_as_edited_so_far(
    facts: tuple[EditRequest, ...], training: tuple[EditCase, ...]
) -> None:
    model = zoo.tiny("gpt2")
    method, rest = prepared(model, training, edit_rate=0.05), EditedModel.original(model)
    first = method.apply(rest, facts[:1])
    on_top, fresh = deltas(method.apply(first, facts[1:2])), deltas(method.apply(rest, facts[1:2]))
    assert not any(torch.allclose(on_top[name].dense(), fresh[name].dense(), rtol=1e-2) for name in fresh)
    editor = method._editors.of(model).editor
    with first:
        pair = (facts[1].text, facts[1].target)
        factors, _ = gradient_factors(model, [pair], edited_matrices(model, "mend", method.settings))
        wanted = editor.changes(model, factors, facts[1:2])
    for name, delta in on_top.items():
        assert gap(delta.dense(), wanted[name].together().dense()) < 1e-4


def test_a_request_that_is_true_already_is_left_out_of_the_sum(
    facts: tuple[EditRequest, ...], training: tuple[EditCase, ...]
) -> None:
    model = zoo.tiny("gpt2")
    method, rest = prepared(model, training), EditedModel.original(model)
    true = next(
        EditRequest(prompt=f"{{}} {ending}", subject="Velloria", target=token.strip())
        for ending in zoo.SENTENCES
        for [(token, _)] in [model.next_tokens([f"Velloria {ending}"], k=1)[0]]
        if token.strip() and model.score([(f"Velloria {ending}", token.strip())])[0].exact
    )
    with pytest.warns(RuntimeWarning, match="answers so already"):
        edited = method.apply(rest, [facts[0], true])
    wanted = deltas(method.apply(rest, facts[:1]))
    for name, delta in deltas(edited).items():
        assert torch.equal(delta.dense(), wanted[name].dense())
    assert [line["already_true"] for line in edited.edits[0].record["requests"]] == [False, True]
    assert edited.edits[0].record["edits_in_batch"] == 1


def test_training_leaves_the_model_and_its_flags_as_they_were(training: tuple[EditCase, ...]) -> None:
    model = zoo.tiny("llama")
    before = model.weights.digest()
    prepared(model, training)
    assert model.weights.digest() == before
    assert all(each.grad is None and not each.requires_grad for each in model.module.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.module.modules())


def test_an_undefined_gradient_is_refused_and_nothing_is_changed(
    facts: tuple[EditRequest, ...], training: tuple[EditCase, ...]
) -> None:
    model = zoo.tiny("gpt2")
    method = prepared(model, training)
    with torch.no_grad():
        method._editors.of(model).editor.rates.fill_(float("inf"))
    with pytest.raises(MethodRefused, match=r"infinite or undefined\. Nothing was changed"):
        method.apply(EditedModel.original(model), facts)
    assert model.installed == []
    model.weights.verify()


def test_many_terms_are_kept_as_the_matrix_that_they_make() -> None:
    few, many = (LowRank(torch.randn(6, rank), torch.randn(4, rank)) for rank in (2, 3))
    assert low_rank_or_dense(few) is few
    dense = low_rank_or_dense(many)
    assert isinstance(dense, Dense)
    assert torch.equal(dense.dense(), many.dense())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rank", 0),
        ("step_size", 0.0),
        ("rate_step_size", -1.0),
        ("edit_weight", -1.0),
        ("locality_examples", 0),
        ("layers", ()),
        ("layers", (2, 1)),
        ("layers", (-1, 1)),
        ("matrices", ()),
        ("matrices", ("up", "up")),
    ],
)
def test_impossible_settings_are_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidSettings, match=name):
        replace(SETTINGS, **{name: value})


@pytest.mark.parametrize(
    ("shape", "layers", "matrices", "origin"),
    [
        (("gpt2", 48, 1600), (45, 46, 47), ("up", "down"), "published"),
        (("gptj", 28, 4096), (25, 26, 27), ("up", "down"), "published"),
        (("llama", 32, 4096), (29, 30, 31), ("up", "gate", "down"), "published"),
        (("mistral", 32, 4096), (29, 30, 31), ("up", "gate", "down"), "published"),
        (("qwen2", 28, 3584), (25, 26, 27), ("up", "gate", "down"), "published"),
        (("t5", 48, 2048), (22, 23, 46, 47), ("gate", "down"), "published"),
        (("bart", 12, 768), (4, 5, 10, 11), ("up", "down"), "published"),
        (("opt", 24, 2048), (21, 22, 23), ("up", "down"), "derived from depth"),
        (("opt", 2, 64), (0, 1), ("up", "down"), "derived from depth"),
    ],
)
def test_the_last_blocks_are_edited(
    shape: tuple[str, int, int], layers: tuple[int, ...], matrices: tuple[str, ...], origin: str
) -> None:
    found = resolve("mend", Mend.recipe, {}, Shape(*shape))
    assert found.settings.layers == layers
    assert found.settings.matrices == matrices
    assert found.provenance["layers"].startswith(origin)


def test_models_of_one_depth_and_width_are_told_apart_by_the_width_of_their_mlps() -> None:
    for d_ff, matrices in ((16384, ("up", "down")), (4096, ("up", "down"))):
        found = resolve("mend", Mend.recipe, {}, Shape("t5", 48, 1024, d_ff=d_ff, encoder_layers=24))
        assert (found.settings.layers, found.settings.matrices) == ((22, 23, 46, 47), matrices)
        assert found.provenance["layers"].startswith("published")


def test_of_a_model_with_an_encoder_the_last_two_blocks_of_both_are_edited() -> None:
    found = resolve("mend", Mend.recipe, {}, Shape("any", 10, 64, encoder_layers=6))
    assert found.settings.layers == (4, 5, 8, 9)
