"""Two independent trainings on gold rows, and a state that goes to a file and back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from methods.conftest import training_case
from methods.small_serac import QUICK

from editguard.methods import create
from editguard.methods.counterfactual_model import as_language_model
from editguard.methods.editor_examples import Draws, editor_examples, split
from editguard.methods.editor_store import EditorFiles, Identity
from editguard.methods.editor_training import JobSettings, train
from editguard.methods.scope_classifier import balanced_loss
from editguard.methods.serac import Serac
from editguard.methods.serac_training import SeracEditor, SeracTraining
from editguard.models import LanguageModel
from editguard.models.answer_rows import answer_rows

CASES = [training_case(number) for number in range(8)]
SETTINGS: dict[str, Any] = {**QUICK, "edits_per_pass": 4, "validation_edits": 3}


def started(model: LanguageModel, **changes: Any) -> SeracTraining:
    method: Any = create("serac", {**SETTINGS, **changes}, model)
    assert isinstance(method, Serac)
    usable, _ = editor_examples(model, "serac", CASES, asks_model=False)
    learnt, held_out = split(usable, "serac")
    draws = (Draws(chosen, locality=1, seed=0) for chosen in (learnt, held_out))
    return method._trainee(model, {}, method._build(model, {}, 0), *draws)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
@pytest.mark.parametrize("form", ["embedding", "cross-attention"])
def test_either_loss_reaches_its_own_network_and_nothing_reaches_the_model(family: str, form: str) -> None:
    model = zoo.tiny(family)
    before = model.weights.digest()
    training = started(model, form=form)
    editor = training.module
    parts: dict[str, Sequence[torch.nn.Parameter]] = {
        name: list(getattr(editor, name).parameters()) for name in ("classifier", "counterfactual")
    }
    batch = training._train.take(0, 4)
    losses = {
        "classifier": balanced_loss(*training.log_scores(batch)),
        "counterfactual": training.answer_losses(batch)[0].mean(),
    }
    for own, loss in losses.items():
        for name, parameters in parts.items():
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
            assert any(each is not None and bool(each.any()) for each in gradients) == (name == own)
    assert model.weights.digest() == before
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.module.parameters())
    together, _ = training.losses(0, 4)
    torch.testing.assert_close(together, 0.1 * losses["counterfactual"] + losses["classifier"])


def test_the_counterfactual_model_learns_from_the_edit_that_a_prompt_belongs_to() -> None:
    """Whatever row the classifier would find: here it takes every prompt for the first edit's."""
    model = zoo.tiny("t5")
    training = started(model)
    batch = training._train.take(0, 4)
    found, _ = training.answer_losses(batch)
    small = as_language_model(training.module.counterfactual, model.tokenizer, "again", 32)
    for row, (prompt, answer), loss in zip(batch.rows, batch.in_scope, found.tolist(), strict=True):
        assert row.endswith(answer)
        ids, closed = small.encode_answer(f"{row} {prompt}", answer)
        rows = answer_rows(small, [(f"{row} {prompt}", answer)], 0)
        assert loss == pytest.approx(float(rows.losses(rows.passes.logits())), rel=1e-4)
        assert len(rows.labels) == len(closed) < len(ids)
    training.module.requires_grad_(True)
    for parameter in training.module.classifier.parameters():
        parameter.data.zero_()
    torch.testing.assert_close(training.answer_losses(batch)[0], found)


def test_the_scores_of_the_last_best_validation_are_kept_with_the_weights(tmp_path: Path) -> None:
    model = zoo.tiny("gpt2")
    training = started(model)
    identity = Identity(method="serac", code=1, model="m", matrices={}, settings={}, data="d", seed=0)
    files = EditorFiles(tmp_path, "serac", identity)
    settings = JobSettings(steps=4, edits_per_step=2, edits_per_pass=2, validate_every=2, patience=None)
    done = train(training, settings, files=files, told=lambda _: None)
    assert {name.split(".")[0] for name in done.state} == {
        *("classifier", "counterfactual", "in_scope_scores", "out_of_scope_scores")
    }
    edits = len(training._validation)
    assert done.state["in_scope_scores"].shape == (edits,)
    assert len(done.state["out_of_scope_scores"]) >= edits
    files.store(done.state, {})
    other = started(model).module
    loaded = files.load()
    assert loaded is not None
    other.load_state_dict(loaded)
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, done.state[name])


def test_tied_weights_are_stored_once_and_stay_tied() -> None:
    model = zoo.tiny("gpt2")
    editor = started(model).module
    assert isinstance(editor, SeracEditor)
    state = editor.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values() if tensor.numel()}) == sum(
        tensor.numel() > 0 for tensor in state.values()
    )
    other = started(zoo.tiny("gpt2"), untrained_step_size=1e-2).module
    for parameter in other.parameters():
        parameter.data.add_(0.5)
    other.load_state_dict(state)
    small: Any = other.counterfactual
    assert small.get_input_embeddings().weight is small.get_output_embeddings().weight
    assert torch.equal(small.get_input_embeddings().weight, model_embedding(editor))


def model_embedding(editor: SeracEditor) -> torch.Tensor:
    small: Any = editor.counterfactual
    weight: torch.Tensor = small.get_input_embeddings().weight
    return weight


def test_step_sizes_fall_to_nothing_over_the_schedule_and_named_models_have_their_own() -> None:
    model = zoo.tiny("gpt2")
    training = started(model, schedule=10)
    assert [training.step_scale(step) for step in (0, 5, 10, 20)] == [1.0, 0.5, 0.0, 0.0]
    assert started(model).step_scale(10**6) == 1.0
    rates = {name: each.param_groups[0]["lr"] for name, each in training.optimisers().items()}
    assert rates == {"classifier": 1e-3, "counterfactual": 1e-3}
