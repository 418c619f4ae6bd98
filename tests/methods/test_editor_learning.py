"""Editors learn: on tiny random models within seconds, and on the pocket model up to what their papers promise."""

from typing import Any

import pytest
import zoo
from methods.conftest import training_case

from editguard.methods import Preparation, create, editor_training
from editguard.methods.protocol import TrainedMethod
from editguard.models import LanguageModel, load_model
from editguard.probes.pocket import pocket_training_cases

LEARNING: dict[str, dict[str, Any]] = {
    "mend": {"rank": 32, "step_size": 1e-3, "rate_step_size": 1e-3, "statistics_edits": 20, "edit_weight": 1.0},
    "ke": {"lstm_width": 16, "code_width": 32, "conditioner_width": 16, "warm_up": 5, "step_size": 3e-3},
}


@pytest.fixture
def history(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """The validations of the trainings that the test runs."""
    found: list[dict[str, float]] = []
    real = editor_training._Job.record

    def kept(job: Any) -> Any:
        found.extend(job.position.history)
        return real(job)

    monkeypatch.setattr(editor_training._Job, "record", kept)
    return found


def trained(name: str, model: LanguageModel, cases: Any, **settings: Any) -> None:
    method = create(name, settings, model)
    assert isinstance(method, TrainedMethod)
    method.train(model, Preparation(training=cases), None)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
@pytest.mark.parametrize("name", list(LEARNING))
def test_an_editor_of_a_tiny_model_learns_edits_of_subjects_that_it_was_not_trained_on(
    name: str, family: str, history: list[dict[str, float]]
) -> None:
    cases = [training_case(number) for number in range(30)]
    settings = {**LEARNING[name], "locality_examples": 2, "layers": (1, 2, 3), "steps": 60, "edits_per_step": 4}
    trained(name, zoo.tiny(family), cases, **settings, edits_per_pass=4, validate_every=20, validation_edits=10)
    untrained, learnt = history[0], history[1:]
    assert untrained["edit_success"] == 0.0
    falls = 0.2 if family == "t5" else 1.0  # whose logits are small beside the others'
    assert min(line["loss"] for line in learnt) < untrained["loss"] - falls
    if family != "t5":
        assert max(line["edit_success"] for line in learnt) > 0.3


@pytest.mark.slow
def test_mend_edits_most_facts_of_the_pocket_model_after_a_few_hundred_and_hardly_moves_others(
    history: list[dict[str, float]],
) -> None:
    """After 60 steps of ten edits; the editor that comes with the model has had ten times as many."""
    settings = {"steps": 60, "validate_every": 60, "validation_edits": 60}
    trained("mend", load_model("pocket", device="cpu"), pocket_training_cases(), **settings)
    untrained, learnt = history
    assert untrained["edit_success"] < 0.15
    assert learnt["edit_success"] > 0.8
    assert learnt["rephrase_success"] > 0.8
    assert learnt["divergence"] < 0.05
    assert learnt["locality"] > 0.9
