"""KE: the bounds, the rank and the layout of its update, its constraint, and a model that never learns with it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from editguard.edited import EditedModel
from editguard.edits import EditCase, EditRequest
from editguard.errors import InvalidSettings, MethodRefused
from editguard.methods import Preparation, create
from editguard.methods.editor_examples import Draws, editor_examples
from editguard.methods.editor_training import train
from editguard.methods.gradient_editors import GradientEditorTraining, Outcome, edited_matrices
from editguard.methods.ke import Conditioner, Ke, KeEditor, KeSettings, Masks, condition_text, gated
from editguard.methods.settings import Shape, resolve
from editguard.models import LanguageModel
from editguard.models.gradient_factors import gradient_factors

QUICK: dict[str, Any] = {
    "layers": (1, 2),
    "lstm_width": 4,
    "code_width": 8,
    "conditioner_width": 4,
    "steps": 4,
    "edits_per_step": 2,
    "edits_per_pass": 2,
    "locality_examples": 2,
    "validation_edits": 2,
}
SETTINGS = KeSettings(**QUICK)
D_OUT, D_IN, TOKENS = 5, 3, 2


def masks(seed: int, *, transposed: bool, gate: float = 0.3) -> Masks:
    rows, columns = (D_IN, D_OUT) if transposed else (D_OUT, D_IN)
    source = torch.Generator().manual_seed(seed)
    sizes = (rows, columns, rows, columns)
    made = [torch.randn(size, dtype=torch.float64, generator=source) for size in sizes]
    return Masks(*made, torch.tensor(gate, dtype=torch.float64))


def factors(seed: int) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed + 1000)
    inputs = torch.randn(TOKENS, D_IN, dtype=torch.float64, generator=source)
    return inputs, torch.randn(TOKENS, D_OUT, dtype=torch.float64, generator=source)


def stored(left: Tensor, right: Tensor, *, transposed: bool) -> Tensor:
    """The update in the layout in which the matrix is stored, (rows, columns)."""
    dense = left.T @ right
    return dense.T if transposed else dense


def paper(gradient: Tensor, made: Masks, largest: float) -> Tensor:
    """The paper's formula on whole matrices in the stored layout."""
    first = torch.outer(made.gradient_rows.softmax(0), made.gradient_columns)
    second = torch.outer(made.own_rows.softmax(0), made.own_columns)
    return largest * torch.sigmoid(made.gate) * (gradient * first + second)


layouts = pytest.mark.parametrize("transposed", [False, True], ids=["Linear", "Conv1D"])


# ---- the update


@layouts
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), largest=st.floats(0.01, 3.0), gate=st.floats(-4, 4))
def test_the_factors_are_the_papers_update_within_its_bound_and_rank(
    transposed: bool, seed: int, largest: float, gate: float
) -> None:
    inputs, gradients = factors(seed)
    made = masks(seed, transposed=transposed, gate=gate)
    gradient = stored(gradients, inputs, transposed=transposed)
    update = stored(*gated((inputs, gradients), made, largest, transposed=transposed), transposed=transposed)
    torch.testing.assert_close(update, paper(gradient, made, largest))
    bound = largest * (made.gradient_columns.abs() * gradient.abs() + made.own_columns.abs())
    assert bool((update.abs() < bound).all())
    assert torch.linalg.matrix_rank(update) <= torch.linalg.matrix_rank(gradient) + 1


@layouts
def test_each_mask_sums_to_its_column_vector_over_the_rows_as_stored(transposed: bool) -> None:
    made = masks(0, transposed=transposed)
    rows, columns = (D_IN, D_OUT) if transposed else (D_OUT, D_IN)
    sigmoid = torch.sigmoid(made.gate)
    none = (torch.zeros(1, D_IN, dtype=torch.float64), torch.zeros(1, D_OUT, dtype=torch.float64))
    ones = (torch.ones(1, D_IN, dtype=torch.float64), torch.ones(1, D_OUT, dtype=torch.float64))
    for pair, wanted in ((none, made.own_columns), (ones, made.gradient_columns + made.own_columns)):
        update = stored(*gated(pair, made, 0.7, transposed=transposed), transposed=transposed)
        assert update.shape == (rows, columns)
        torch.testing.assert_close(update.sum(0), 0.7 * sigmoid * wanted)


@layouts
def test_a_closed_gate_changes_nothing(transposed: bool) -> None:
    made = masks(0, transposed=transposed, gate=-float("inf"))
    left, right = gated(factors(0), made, 1.0, transposed=transposed)
    assert not (left.T @ right).any()
    assert (left.T @ right).isfinite().all()


@layouts
def test_without_tokens_only_the_editors_own_part_is_left(transposed: bool) -> None:
    made = masks(0, transposed=transposed)
    empty = (torch.zeros(0, D_IN, dtype=torch.float64), torch.zeros(0, D_OUT, dtype=torch.float64))
    update = stored(*gated(empty, made, 1.0, transposed=transposed), transposed=transposed)
    assert torch.linalg.matrix_rank(update) == 1


def test_a_conditioner_splits_its_numbers_in_the_papers_order_and_takes_one_edit_at_a_time() -> None:
    conditioner = Conditioner((5, 3), code=4, hidden=6)
    code = torch.randn(4, generator=torch.Generator().manual_seed(0))
    made, numbers = conditioner(code), conditioner.layers(code)
    parts = (made.gradient_columns, made.gradient_rows, made.own_columns, made.own_rows, made.gate[None])
    assert [len(part) for part in parts] == [3, 5, 3, 5, 1]
    assert torch.equal(torch.cat(parts), numbers)
    with pytest.raises(ValueError, match="one edit"):
        conditioner(code[None])


# ---- the editor


def new_editor(model: LanguageModel, **changes: Any) -> KeEditor:
    chosen = replace(SETTINGS, **changes)
    matrices = [m for of_layer in edited_matrices(model, "ke", chosen).values() for m in of_layer]
    embedding: Any = model.anatomy.embedding.weight
    return KeEditor(embedding, matrices, chosen, seed=0)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_conditioners_have_the_shapes_of_the_matrices_as_they_are_stored(family: str) -> None:
    model = zoo.tiny(family)
    editor = new_editor(model)
    made = editor.conditioners[0](editor.encoded([1, 2, 3]))
    rows, columns = model.anatomy.up_projections(1)[0].parameter.shape
    assert (rows, columns) == ((zoo.D_MODEL, zoo.D_FF) if family == "gpt2" else (zoo.D_FF, zoo.D_MODEL))
    assert made.gradient_rows.shape == made.own_rows.shape == (rows,)
    assert made.gradient_columns.shape == made.own_columns.shape == (columns,)


def test_another_text_changes_the_update_and_so_does_its_order(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("gpt2")
    editor = new_editor(model)
    found, _ = gradient_factors(model, [(facts[0].text, facts[0].target)], edited_matrices(model, "ke", SETTINGS))

    def update(request: EditRequest) -> Tensor:
        changes = editor.changes(model, found, [request])
        return torch.cat([change.together().dense().flatten() for change in changes.values()])

    one = replace(facts[0], previous="Tamrin")
    base = update(one)
    assert torch.equal(update(one), base)
    for other in (replace(one, previous="Belmora"), replace(one, target="Oskar"), replace(one, subject="Oskaria")):
        assert not torch.allclose(update(other), base, rtol=1e-3)
    assert not torch.equal(editor.encoded([5, 6, 7]), editor.encoded([7, 6, 5]))


def test_the_text_is_old_answer_new_answer_and_prompt_and_is_cut() -> None:
    request = EditRequest(prompt="The capital of {} is", subject="Velloria", target=" Oskar")
    assert condition_text(request, " Tamrin") == "Tamrin >> Oskar || The capital of Velloria is"
    editor = new_editor(zoo.tiny("gpt2"), condition_tokens=3)
    assert torch.equal(editor.encoded([5, 6, 7, 8]), editor.encoded([5, 6, 7, 9, 10]))
    assert not torch.equal(editor.encoded([5, 6, 7]), editor.encoded([5, 6]))


def test_each_of_several_edits_gets_the_update_that_it_gets_alone(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("llama")
    editor, matrices = new_editor(model), edited_matrices(model, "ke", SETTINGS)
    requests = [replace(fact, previous="Tamrin") for fact in facts]
    pairs = [(fact.text, fact.target) for fact in requests]
    together = editor.changes(model, gradient_factors(model, pairs, matrices)[0], requests)
    for number, request in enumerate(requests):
        alone = editor.changes(model, gradient_factors(model, [pairs[number]], matrices)[0], [request])
        for name, change in alone.items():
            wanted = change.together().dense()
            found = together[name].alone(number).dense()
            assert (found - wanted).abs().max() < 1e-3 * wanted.abs().max()


def test_every_token_of_the_vocabulary_can_be_learnt_and_the_models_embedding_is_not() -> None:
    """Also token 0, which is a real token in many vocabularies; and the model's own embedding is no part of it."""
    model = zoo.tiny("gpt2")
    editor = new_editor(model)
    own: Any = model.anatomy.embedding.weight
    assert torch.equal(editor.embedding.weight.detach(), own)
    assert editor.embedding.weight.data_ptr() != own.data_ptr()
    [gradient] = torch.autograd.grad(editor.encoded([0, 5]).sum(), [editor.embedding.weight])
    assert gradient[0].any()
    assert gradient[5].any()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_training_changes_the_editor_and_no_byte_of_the_model(family: str, training: tuple[EditCase, ...]) -> None:
    model = zoo.tiny(family)
    before = model.weights.digest()
    editor = new_editor(model, warm_up=0)
    first = {name: tensor.clone() for name, tensor in editor.state_dict().items()}
    train(job_of(model, editor, training, warm_up=0), replace(SETTINGS, warm_up=0), told=str.strip)
    moved = [name for name, tensor in editor.state_dict().items() if not torch.equal(tensor, first[name])]
    assert "embedding.weight" in moved
    assert "multiplier" in moved
    assert any(name.startswith("conditioners.3.") for name in moved)
    assert model.weights.digest() == before
    assert all(each.grad is None and not each.requires_grad for each in model.module.parameters())


def job_of(model: LanguageModel, editor: KeEditor, cases: Sequence[EditCase], **changes: Any) -> GradientEditorTraining:
    chosen = replace(SETTINGS, **changes)
    examples, _ = editor_examples(model, "ke", cases)
    draws = Draws(examples, locality=chosen.locality_examples, seed=0)
    matrices = edited_matrices(model, "ke", chosen)
    return GradientEditorTraining("ke", model, matrices, editor, chosen, train=draws, validation=draws)


# ---- the constraint


def outcome(loss: float, divergence: float) -> Outcome:
    return Outcome(torch.tensor([loss]), torch.tensor([True]), torch.tensor([divergence]), torch.tensor([True]), {})


def test_the_multiplier_grows_while_the_constraint_is_violated_and_falls_but_never_below_zero() -> None:
    editor = new_editor(zoo.tiny("gpt2"), margin=0.1)
    optimiser = editor.optimisers()["multiplier"]
    values = [float(editor.multiplier.detach())]
    assert values == [1.0]
    for divergence in (0.5, 0.3, 0.0, 0.0, *[0.0] * 40):
        objective = editor.objective(outcome(2.0, divergence))
        assert float(objective.detach()) == pytest.approx(2.0 + values[-1] * (divergence - 0.1))
        [editor.multiplier.grad] = torch.autograd.grad(objective, [editor.multiplier])
        assert float(editor.multiplier.grad) == pytest.approx(0.1 - divergence)
        optimiser.step()
        editor.stepped()
        values.append(float(editor.multiplier.detach()))
    assert values[0] < values[1] < values[2]
    assert values[-1] < values[-2] or values[-1] == 0.0
    assert min(values) == 0.0


def test_the_networks_descend_on_the_loss_and_on_the_divergence_times_the_multiplier() -> None:
    editor = new_editor(zoo.tiny("gpt2"))
    with torch.no_grad():
        editor.multiplier.fill_(3.0)
    loss, divergence = (torch.tensor([1.0], requires_grad=True) for _ in range(2))
    made = replace(outcome(0.0, 0.0), losses=loss, divergences=divergence)
    gradients = torch.autograd.grad(editor.objective(made), [loss, divergence])
    assert [float(each) for each in gradients] == [1.0, 3.0]
    weighted = new_editor(zoo.tiny("gpt2"), objective="weighted", edit_weight=0.1, locality_weight=2.0)
    gradients = torch.autograd.grad(weighted.objective(made), [loss, divergence])
    assert [float(each) for each in gradients] == pytest.approx([0.1, 2.0])


def test_the_margin_shrinks_by_a_fifth_when_most_edits_succeed_and_not_below_its_floor() -> None:
    editor = new_editor(zoo.tiny("gpt2"), margin=1e-3, smallest_margin=5e-4)
    margins = []
    for success in (0.9, 0.91, 0.2, 1.0, 1.0, 1.0, 1.0):
        editor.validated({"edit_success": success})
        margins.append(float(editor.margin))
    assert margins == pytest.approx([1e-3, 8e-4, 8e-4, 6.4e-4, 5.12e-4, 5e-4, 5e-4])


def test_the_best_state_is_the_one_that_edits_and_keeps_best() -> None:
    editor = new_editor(zoo.tiny("gpt2"))
    never, always, both = (
        editor.value({"edit_success": edits, "locality": kept, "loss": 0.0})
        for edits, kept in ((0.0, 1.0), (1.0, 0.0), (0.9, 0.9))
    )
    assert both < never
    assert both < always
    assert new_editor(zoo.tiny("gpt2"), objective="weighted").value({"loss": 0.7}) == 0.7


def test_step_sizes_rise_and_then_fall_to_nothing() -> None:
    editor = new_editor(zoo.tiny("gpt2"), warm_up=10, schedule=110)
    assert [editor.step_scale(step) for step in (0, 4, 9, 10, 60, 110, 200)] == pytest.approx(
        [0.1, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0]
    )
    assert new_editor(zoo.tiny("gpt2"), objective="weighted").step_scale(0) == 1.0


def test_every_parameter_is_trained_once_and_the_multiplier_by_an_optimiser_of_its_own() -> None:
    for objective, names in (("constrained", {"networks", "multiplier"}), ("weighted", {"networks"})):
        editor = new_editor(zoo.tiny("gpt2"), objective=objective)
        optimisers = editor.optimisers()
        assert set(optimisers) == names
        trained = [id(p) for o in optimisers.values() for group in o.param_groups for p in group["params"]]
        wanted = {id(p) for p in editor.parameters()} - (set() if "multiplier" in names else {id(editor.multiplier)})
        assert len(trained) == len(set(trained))
        assert set(trained) == wanted


# ---- the method


def prepared(model: LanguageModel, cases: Sequence[EditCase], **changes: Any) -> Ke:
    method = create("ke", {**QUICK, **changes}, model)
    assert isinstance(method, Ke)
    method.prepare(model, Preparation(training=cases))
    return method


def test_an_edit_is_the_editors_update_of_the_models_own_previous_answer(
    facts: tuple[EditRequest, ...], training: tuple[EditCase, ...]
) -> None:
    model = zoo.tiny("gpt2")
    method = prepared(model, training)
    edited = method.apply(EditedModel.original(model), facts[:2])
    assert len(edited.edits) == 2
    editor = method._editors.of(model).editor
    matrices = edited_matrices(model, "ke", method.settings)
    for number, fact in enumerate(facts[:2]):
        before = edited.prefix(number)
        with before:
            [answer] = model.generate([fact.text], max_new_tokens=24)
            found, [loss] = gradient_factors(model, [(fact.text, fact.target)], matrices)
            wanted = editor.changes(model, found, [replace(fact, previous=answer.text)])
        [change] = edited.edits[number].changes
        assert change.deltas.keys() == wanted.keys()
        for name, delta in change.deltas.items():
            again = wanted[name].together().dense()
            assert (delta.dense() - again).abs().max() < 1e-4 * again.abs().max()
            tokens = found[name].row
            assert edited.edits[number].record["matrices"][name]["rank"] == len(tokens) + 1
        assert edited.edits[number].record["loss"] == pytest.approx(float(loss), rel=1e-5)


def test_several_edits_taken_back_leave_the_bytes_of_the_start(
    facts: tuple[EditRequest, ...], training: tuple[EditCase, ...]
) -> None:
    model = zoo.tiny("llama")
    before = model.weights.digest()
    rest = EditedModel.original(model)
    edited = prepared(model, training).apply(rest, facts)
    edited.activate()
    assert model.weights.digest() != before
    rest.activate()
    assert model.weights.digest() == before


def test_an_undefined_update_is_refused_and_nothing_is_changed(
    facts: tuple[EditRequest, ...], training: tuple[EditCase, ...]
) -> None:
    model = zoo.tiny("gpt2")
    method = prepared(model, training)
    with torch.no_grad():
        method._editors.of(model).editor.code.bias.fill_(float("nan"))
    with pytest.raises(MethodRefused, match=r"infinite or undefined\. Nothing was changed"):
        method.apply(EditedModel.original(model), facts)
    assert model.installed == []
    model.weights.verify()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lstm_width", 0),
        ("code_width", 0),
        ("condition_tokens", 0),
        ("step_size", 0.0),
        ("largest_gate", -1.0),
        ("margin", 0.0),
        ("smallest_margin", 1.0),
        ("label_smoothing", 1.0),
        ("warm_up", -1),
        ("edit_weight", -0.1),
    ],
)
def test_impossible_settings_are_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidSettings, match=name):
        replace(SETTINGS, **{name: value})


def test_the_port_is_published_for_its_models_and_the_papers_objective_is_the_default() -> None:
    port = resolve("ke", Ke.recipe, {}, Shape("gptj", 28, 4096))
    assert (port.settings.objective, port.settings.layers) == ("weighted", (25, 26, 27))
    assert "without the constraint" in port.provenance["objective"]
    other = resolve("ke", Ke.recipe, {}, Shape("opt", 24, 2048))
    assert (other.settings.objective, other.settings.layers) == ("constrained", (21, 22, 23))
    assert other.provenance["objective"] == "default"
