"""What trains MEND and KE on a model: losses against models that are really changed, and the edited matrices."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import zoo
from methods.small_mend import SETTINGS, disturbed

from editguard.edits import EditCase
from editguard.errors import MethodRefused
from editguard.methods.editor_examples import Draws, editor_examples
from editguard.methods.gradient_editors import GradientEditorTraining, edited_matrices
from editguard.methods.mend import MendEditor
from editguard.models import LanguageModel
from editguard.models.answer_rows import answer_rows
from editguard.models.gradient_factors import gradient_factors


def new_training(model: LanguageModel, cases: Sequence[EditCase], **changes: Any) -> GradientEditorTraining:
    settings = replace(SETTINGS, **changes)
    matrices = edited_matrices(model, "mend", settings)
    shapes = {matrix.name: matrix.shape for of_layer in matrices.values() for matrix in of_layer}
    examples, _ = editor_examples(model, "mend", cases)
    draws = Draws(examples, locality=settings.locality_examples, seed=0)
    editor = MendEditor(shapes, settings, 0)
    return GradientEditorTraining(
        "mend", model, matrices, editor, settings, train=draws, validation=draws, statistics_edits=4
    )


@pytest.mark.parametrize("family", [*zoo.REPRESENTATIVE, "t5", "bart"])
def test_the_losses_are_those_of_models_with_the_changes_added_to_their_weights(
    family: str, training: tuple[EditCase, ...]
) -> None:
    model = zoo.tiny(family)
    job = new_training(model, training, edit_rate=2e-3, locality_examples=2)
    job.begin()
    editor: Any = job.module
    disturbed(editor, seed=3)
    with torch.no_grad():
        editor.rates.fill_(2e-3)
    loss, figures = job.losses(0, 3)
    drawn = job._train.take(0, 3)
    losses, divergences = [], []
    for number, example in enumerate(drawn.examples):
        factors, _ = gradient_factors(model, [example.pair], job._matrices)
        made = editor.changes(model, factors, [example.request])
        stay = [pair for pair, edit in zip(drawn.locality, drawn.locality_of, strict=True) if edit == number]
        rows = answer_rows(model, stay, 0, whole=True)
        with torch.no_grad():
            before = rows.passes.logits().log_softmax(-1)
        model.weights.push({name: change.together() for name, change in made.items()})
        with torch.no_grad():
            asked = answer_rows(model, [drawn.rephrases[number]], 0)
            losses.append(asked.losses(asked.passes.logits()))
            again = answer_rows(model, stay, 0, whole=True)
            after = again.passes.logits().log_softmax(-1)
            kl = torch.nn.functional.kl_div(after, before, log_target=True, reduction="none").sum(-1)
            divergences.append(torch.stack([part.mean() for part in torch.split(kl, again.reads)]))
        model.weights.pop()
    wanted = 0.1 * torch.cat(losses).mean() + torch.cat(divergences).mean()
    assert float(torch.cat(divergences).max()) > 1e-4
    torch.testing.assert_close(loss.detach(), wanted, rtol=2e-3, atol=1e-4)
    assert figures["divergence"] == pytest.approx(float(torch.cat(divergences).mean()), rel=0.02)


def test_the_gradient_of_the_objective_is_that_of_its_differences(training: tuple[EditCase, ...]) -> None:
    model = zoo.tiny("gpt2", dtype=torch.float64)
    job = new_training(model, training, edit_rate=1e-2)
    job.begin()
    torch.nn.Module.to(job.module, torch.float64)
    editor: Any = job.module
    frozen = [each.requires_grad_(False) for name, each in editor.named_parameters() if name != "rates"]
    assert frozen
    editor.learn = dict
    loss, _ = job.losses(0, 2)
    [gradient] = torch.autograd.grad(loss, [editor.rates])
    for index in range(len(editor.rates)):
        ends = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                editor.rates[index] += step
                ends.append(float(job.losses(0, 2)[0]))
                editor.rates[index] -= step
        assert float(gradient[index]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-3, abs=1e-5)


def test_rates_of_zero_leave_the_edited_model_as_it_is_to_the_bit(training: tuple[EditCase, ...]) -> None:
    model = zoo.tiny("llama")
    job = new_training(model, training)
    job.begin()
    editor: Any = job.module
    with torch.no_grad():
        editor.rates.zero_()
        outcome = job._outcome(job._train.take(0, 3), job._factors(job._train.take(0, 3)), requests=True)
    assert not outcome.divergences.any()
    assert outcome.kept.all()


def test_undefined_gradients_of_the_model_do_not_reach_the_statistics(
    training: tuple[EditCase, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = zoo.tiny("gpt2")
    job = new_training(model, training)
    job.begin()
    before = {name: tensor.clone() for name, tensor in job.module.state_dict().items()}
    head = model.anatomy.logits
    monkeypatch.setattr(model.anatomy, "logits", lambda hidden: head(hidden) * float("nan"))
    loss, _ = job.losses(0, 2)
    assert loss.isnan()
    assert all(torch.equal(tensor, before[name]) for name, tensor in job.module.state_dict().items())
    monkeypatch.undo()
    job.losses(0, 2)
    assert int(job.module.state_dict()["networks.16x40.inputs.count"]) > int(before["networks.16x40.inputs.count"])


def test_validation_changes_no_statistic_and_asks_for_edit_rephrase_and_what_should_stay(
    training: tuple[EditCase, ...],
) -> None:
    model = zoo.tiny("gpt2")
    job = new_training(model, training, edit_rate=0.05)
    job.begin()
    before = {name: tensor.clone() for name, tensor in job.module.state_dict().items()}
    first, again = job.validate(), job.validate()
    assert first == again
    assert set(first.figures) == {"loss", "edit_success", "rephrase_success", "locality", "divergence"}
    assert first.value == first.figures["loss"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in job.module.state_dict().items())
    assert first.figures["divergence"] > 0


def test_gates_are_edited_where_they_are_asked_for_and_refused_where_there_are_none() -> None:
    settings = replace(SETTINGS, matrices=("up", "gate", "down"))
    model = zoo.tiny("llama")
    found = edited_matrices(model, "mend", settings)
    assert [matrix.name.rpartition("mlp.")[2] for matrix in found[1]] == [
        "up_proj.weight",
        "gate_proj.weight",
        "down_proj.weight",
    ]
    with pytest.raises(MethodRefused, match="which has none: set `matrices`"):
        edited_matrices(zoo.tiny("gpt2"), "mend", settings)
