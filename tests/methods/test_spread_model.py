"""Every method on a model that is spread over two devices, which are pretended, or that is not all in memory: the edit
is that of the whole model, or is refused."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from methods.quick_settings import quick_settings
from pretend_devices import FIRST, MAPS, SECOND, pretended, spread

from editguard.edited import EditedModel
from editguard.edits import EditCase, EditRequest
from editguard.errors import MethodRefused
from editguard.measurements import ModelUnderTest
from editguard.methods import Preparation, create, methods
from editguard.methods.retrieval import MeanPooledEncoder
from editguard.models import LanguageModel, load_model
from editguard.models.causal_tracing import Restoration, clean_runs, prepare_fact, restored_runs
from editguard.models.indirect_effects import TraceSettings

pytest.importorskip("accelerate")

FAST = {("rome", "llama"), ("memit", "llama"), ("ft-l", "llama"), ("mend", "llama"), ("ike", "llama"), ("grace", "t5")}
ACROSS = (1, 2)
"""The last block on the first device, and the first one on the second."""
PROMPTS = ("The capital of Velloria is", "Question: who is the mother of Quintessa Marlowe-Vane? Answer:")


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
    here = {"layers": ACROSS, "steps": 2, "context_lengths": ((4, 1),)}
    return chosen | {setting: value for setting, value in here.items() if setting in chosen}


def asked(edited: EditedModel) -> tuple[list[float], list[str]]:
    """How likely an answer is, token by token, and what the model answers."""
    with edited:
        scores = edited.score([(prompt, " Oskar") for prompt in PROMPTS])
        answers = edited.generate(PROMPTS, max_new_tokens=2)
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


@pytest.mark.slow
def test_what_is_measured_and_traced_on_a_spread_model_is_that_of_the_whole_one(
    preparation: Preparation, facts: tuple[EditRequest, ...]
) -> None:
    """Perplexity, divergence, likeliest tokens, states of texts, and runs with restored states."""

    def measured(model: LanguageModel) -> list[float]:
        method = create("ft-l", settings_for("ft-l", "llama"), model)
        before = EditedModel.original(model)
        edited = method.apply(before, facts[:1])
        original = ModelUnderTest(before)
        after = ModelUnderTest(edited, original=original, cases=[EditCase(request=facts[0])])
        found = [
            value.value
            for of in (after.perplexity(zoo.SENTENCES), after.divergence(zoo.SENTENCES))
            for value in of.values
        ]
        before.activate()
        found += [chance for of_prompt in model.next_tokens(PROMPTS) for _, chance in of_prompt]
        found += np.asarray(MeanPooledEncoder(model).vectors(PROMPTS)).flatten().tolist()
        prepared = [prepare_fact(model, fact, TraceSettings(draws=1), 1.0) for fact in facts]
        clean = clean_runs(model, prepared)
        restored = [(0, 0, Restoration(kind, ACROSS, (2, 3))) for kind in ("block", "mlp", "attention")]
        return [*found, *(run.probability for run in clean), *restored_runs(model, prepared, clean, restored)]

    wanted = measured(zoo.tiny("llama"))
    with pretended():
        model = zoo.tiny("llama")
        spread(model.module)
        assert measured(model) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize(("name", "family"), [pytest.param(*case.values, id=case.id) for case in cases()])
def test_two_gpus_give_the_edit_that_one_gives(
    name: str, family: str, preparation: Preparation, facts: tuple[EditRequest, ...]
) -> None:
    whole = zoo.tiny(family)
    whole.module.to("cuda:0")
    wanted, _ = edited_answers(whole, name, preparation, facts)
    model = zoo.tiny(family)
    real = {FIRST: torch.device("cuda:0"), SECOND: torch.device("cuda:1")}
    spread(model.module, {part: real[device] for part, device in MAPS[family].items()}, main=real[FIRST])
    assert model.devices == ("cuda:0", "cuda:1")
    found, _ = edited_answers(model, name, preparation, facts)
    assert found == pytest.approx(wanted, abs=1e-2)


# ---- weights that are not in memory

AT_ONCE = {"rome", "memit", "ft-l", "mend", "mem-prompt"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    zoo.module("llama").save_pretrained(path)
    zoo.tokenizer("llama").save_pretrained(path)
    return path


def with_layers_away(folder: Path, away: Collection[int]) -> LanguageModel:
    """The tiny model with some of its blocks left on disk."""
    device_map = dict.fromkeys(MAPS["llama"], "cpu") | {f"model.layers.{layer}": "disk" for layer in away}
    with pytest.warns(RuntimeWarning, match="offloaded"):
        return load_model(folder, device_map=device_map, offline=True)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in AT_ONCE else [pytest.mark.slow]) for name in methods()]
)
def test_of_an_offloaded_model_the_weights_are_left_alone_or_the_method_refuses(
    name: str, folder: Path, preparation: Preparation, facts: tuple[EditRequest, ...]
) -> None:
    model = with_layers_away(folder, range(4))
    if methods()[name].changes.startswith("no weight") or methods()[name].changes.endswith("no weight"):
        whole = load_model(folder, device="cpu", offline=True)
        wanted, answers = edited_answers(whole, name, preparation, facts)
        assert edited_answers(model, name, preparation, facts) == (pytest.approx(wanted, abs=1e-5), answers)
        return
    method = create(name, settings_for(name, "llama"), model)
    for attempt in (
        lambda: method.prepare(model, preparation),
        lambda: method.apply(EditedModel.original(model), facts[:1]),
    ):
        with pytest.raises(MethodRefused, match=r"offloaded and not in memory|prepare"):
            attempt()
    with pytest.raises(MethodRefused, match=r"would change model\.layers\.\d.* which is offloaded"):
        method.prepare(model, preparation)
    model.weights.verify()


def test_a_layer_in_memory_is_edited_while_others_are_away(
    folder: Path, preparation: Preparation, facts: tuple[EditRequest, ...]
) -> None:
    whole = load_model(folder, device="cpu", offline=True)
    layer = settings_for("rome", "llama")["layer"]
    model = with_layers_away(folder, set(range(4)) - {layer})
    wanted, answers = edited_answers(whole, "rome", preparation, facts)
    assert edited_answers(model, "rome", preparation, facts) == (pytest.approx(wanted, abs=1e-5), answers)
