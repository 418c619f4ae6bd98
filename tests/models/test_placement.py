"""Where modules compute, and what is known of weights that are not in memory."""

from pathlib import Path

import pytest
import torch
import zoo
from pretend_devices import FIRST, SECOND, pretended, spread
from torch import nn

from editguard.errors import MethodRefused
from editguard.models import LanguageModel, load_model
from editguard.models.placement import device_of, in_memory, present_value

AlignDevicesHook, SequentialHook = (
    getattr(pytest.importorskip("accelerate.hooks"), name) for name in ("AlignDevicesHook", "SequentialHook")
)

PAIRS = [("The capital of Velloria is", "Tamrin"), ("Who", "Ines Holt")]
AWAY = {
    "model.embed_tokens": "disk",
    "model.rotary_emb": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "cpu",
    "model.layers.3": "disk",
    "model.norm": "cpu",
    "lm_head": "disk",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    zoo.module("llama").save_pretrained(path)
    zoo.tokenizer("llama").save_pretrained(path)
    return path


@pytest.fixture
def offloaded(folder: Path) -> LanguageModel:
    with pytest.warns(RuntimeWarning, match=r"weights of .* are offloaded, the first is model\.embed_tokens\.weight"):
        return load_model(folder, device_map=AWAY, offline=True)


def test_a_module_computes_where_its_weights_are() -> None:
    with pretended():
        model = zoo.tiny("gpt2")
        spread(model.module)
        devices = [device_of(model.anatomy.block(layer)) for layer in range(4)]
        assert devices == [FIRST, FIRST, SECOND, SECOND]
        assert [model.anatomy.down_projection(layer).device for layer in range(4)] == devices
        assert model.devices == ("cpu:0", "cpu:1")


def test_an_offloaded_module_computes_where_its_weights_are_brought(offloaded: LanguageModel) -> None:
    assert offloaded.anatomy.down_projection(1).parameter.is_meta
    assert offloaded.anatomy.down_projection(1).device == offloaded.device == torch.device("cpu")
    assert offloaded.devices == ("cpu", "offloaded")
    module = nn.Sequential(nn.Linear(2, 2, device="meta"))
    assert device_of(module) == torch.device("cpu")
    module[0]._hf_hook = SequentialHook(AlignDevicesHook(), AlignDevicesHook(execution_device=SECOND))
    assert device_of(module) == device_of(module[0]) == SECOND


def test_an_offloaded_model_answers_and_has_the_fingerprint_of_the_whole_one(
    offloaded: LanguageModel, folder: Path
) -> None:
    whole = load_model(folder, device="cpu", offline=True)
    assert offloaded.score(PAIRS) == whole.score(PAIRS)
    assert offloaded.fingerprint() == whole.fingerprint()
    assert offloaded.weights.digest() == whole.weights.digest()
    offloaded.weights.verify()
    for name, parameter in whole.module.named_parameters():
        assert torch.equal(present_value(offloaded.module, name), parameter)


def test_two_offloaded_models_of_one_shape_are_told_apart(offloaded: LanguageModel, tmp_path: Path) -> None:
    zoo.module("llama", seed=1).save_pretrained(tmp_path)
    zoo.tokenizer("llama").save_pretrained(tmp_path)
    with pytest.warns(RuntimeWarning, match="offloaded"):
        other = load_model(tmp_path, device_map={"": "disk"}, offline=True)
    assert other.fingerprint() != offloaded.fingerprint()


def test_matrices_that_are_away_are_refused_with_their_name_and_the_cure(offloaded: LanguageModel) -> None:
    here, away = (offloaded.anatomy.down_projection(layer) for layer in (0, 1))
    assert in_memory("rome", [here]) == [here]
    with pytest.raises(MethodRefused, match=rf"rome would change {away.name}, which is offloaded.*choose layers that"):
        in_memory("rome", [here, away])
