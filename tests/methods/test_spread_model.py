"""Every method on a model that is spread over two devices, which are pretended: the edit is that of the whole model."""

from collections.abc import Mapping
from typing import Any

import pytest
import zoo
from methods.quick_settings import quick_settings
from pretend_devices import FIRST, MAPS, SECOND, pretended, spread

from editguard.edited import EditedModel
from editguard.edits import EditRequest
from editguard.methods import Preparation, create, methods
from editguard.models import LanguageModel

pytest.importorskip("accelerate")

FAST = {("rome", "llama"), ("memit", "llama"), ("ft-l", "llama"), ("mend", "llama"), ("ike", "llama"), ("grace", "t5")}
ACROSS = (1, 2)
"""The last block on the first device, and the first one on the second."""
PROMPTS = ("The capital of Velloria is", "Ines Holt", "Question: who is the mother of Quintessa Marlowe-Vane? Answer:")


def cases() -> list[Any]:
    """Every method with the families that it edits, of those that can be spread; quick are `FAST`."""
    return [
        pytest.param(name, family, marks=[] if (name, family) in FAST else [pytest.mark.slow])
        for name, info in methods().items()
        for family in MAPS
        if info.encoder_decoder or family not in zoo.ENCODER_DECODER
    ]


def settings_for(name: str, family: str) -> Mapping[str, Any]:
    chosen = quick_settings(name, family)
    return {**chosen, "layers": ACROSS} if "layers" in chosen else chosen


def asked(edited: EditedModel) -> tuple[list[float], list[str]]:
    """How likely an answer is, token by token, and what the model answers."""
    with edited:
        scores = edited.score([(prompt, " Oskar") for prompt in PROMPTS])
        answers = edited.generate(PROMPTS, max_new_tokens=3)
    return [value for score in scores for value in score.log_probs], [answer.text for answer in answers]


def edited_answers(
    model: LanguageModel, name: str, preparation: Preparation, facts: tuple[EditRequest, ...]
) -> tuple[list[float], list[str]]:
    """The same of the model with two facts edited, which is the unedited one to the bit again afterwards."""
    method = create(name, settings_for(name, model.anatomy.family), model)
    method.prepare(model, preparation)
    original = EditedModel.original(model)
    found = asked(method.apply(original, facts[:2]))
    original.activate()
    model.weights.verify()
    return found


@pytest.mark.parametrize(("name", "family"), cases())
def test_an_edit_of_a_spread_model_is_that_of_the_whole_one(
    name: str, family: str, preparation: Preparation, facts: tuple[EditRequest, ...]
) -> None:
    whole = zoo.tiny(family)
    unedited, _ = asked(EditedModel.original(whole))
    wanted, answers = edited_answers(whole, name, preparation, facts)
    assert wanted != pytest.approx(unedited, abs=1e-3)
    with pretended():
        model = zoo.tiny(family)
        spread(model.module)
        assert model.device == FIRST
        assert model.anatomy.down_projection(ACROSS[1]).device == (FIRST if family == "t5" else SECOND)
        assert edited_answers(model, name, preparation, facts) == (pytest.approx(wanted, abs=1e-5), answers)
