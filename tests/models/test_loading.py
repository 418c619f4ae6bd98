"""Loading: what a user gets, and the one sentence for each thing that can be wrong."""

import json

import pytest
import torch
import zoo
from transformers import AutoModelForSeq2SeqLM, PegasusConfig
from transformers.utils import logging as transformers_logging

from editguard.errors import ConfigurationError, ModelNotLoaded, UnsupportedModel
from editguard.models.loading import choose_device, load_model

PAIRS = [("The capital of Velloria is", "Tamrin"), ("Who", "Ines Holt")]


def saved(folder, family="llama", dtype=torch.float32, template=None):
    words = zoo.tokenizer(family)
    if template:
        words.chat_template = template
    zoo.module(family, dtype=dtype).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def load(folder, **options):
    return load_model(folder, **{"device": "cpu", "offline": True, **options})


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_a_saved_model_answers_as_it_did(family, tmp_path):
    loaded = load(saved(tmp_path, family))
    assert loaded.score(PAIRS) == zoo.tiny(family).score(PAIRS)
    assert loaded.name == str(tmp_path)
    assert loaded.attention
    assert loaded.offline
    assert not load(tmp_path, offline=False).offline


def test_loading_prints_nothing_and_leaves_the_librarys_settings(tmp_path, capfd):
    saved(tmp_path)
    transformers_logging.set_verbosity_info()
    try:
        capfd.readouterr()
        load(tmp_path)
        assert capfd.readouterr() == ("", "")
        assert transformers_logging.get_verbosity() == transformers_logging.INFO
        assert transformers_logging.is_progress_bar_enabled()
    finally:
        transformers_logging.set_verbosity_warning()


def test_half_precision_is_widened_on_a_cpu_unless_it_is_asked_for(tmp_path):
    saved(tmp_path, dtype=torch.float16)
    assert load(tmp_path).dtype is torch.float32
    assert load(tmp_path, dtype="float16").dtype is torch.float16
    assert load(tmp_path, dtype="bfloat16").dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("template", "choice", "on"),
    [
        ("x{{ messages[0].content }}", "auto", True),
        (None, "auto", False),
        ("x{{ messages[0].content }}", "off", False),
        ("x", "on", True),
    ],
)
def test_the_chat_template_is_used_as_chosen(tmp_path, template, choice, on):
    assert load(saved(tmp_path, template=template), chat=choice).chat is on


def test_a_chat_template_that_is_asked_for_must_exist(tmp_path):
    with pytest.raises(ConfigurationError, match="has none"):
        load(saved(tmp_path), chat="on")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"dtype": "flaot32"}, "Did you mean 'float32'"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"chat": "maybe"}, "unknown chat template 'maybe'"),
        ({"device": "gpu0"}, "unknown device 'gpu0'"),
        ({"device": "cuda:97"}, "torch sees"),
    ],
)
def test_an_unknown_option_is_named_with_the_known_ones(tmp_path, options, problem):
    with pytest.raises(ConfigurationError, match=problem):
        load(saved(tmp_path), **options)


def test_auto_is_the_gpu_when_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"


@pytest.mark.parametrize("device_map", [{"": "cpu"}, '{"": "cpu"}', "auto"], ids=str)
def test_a_device_map_spreads_the_modules(tmp_path, device_map):
    pytest.importorskip("accelerate")
    mapped = load_model(saved(tmp_path), device_map=device_map, offline=True)
    assert mapped.score(PAIRS) == zoo.tiny("llama").score(PAIRS)


def test_half_precision_is_widened_where_a_map_finds_no_accelerator(tmp_path, monkeypatch):
    pytest.importorskip("accelerate")
    saved(tmp_path, dtype=torch.float16)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert load_model(tmp_path, device_map={"": "cpu"}, offline=True).dtype is torch.float32
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert load_model(tmp_path, device_map={"": "cpu"}, offline=True).dtype is torch.float16


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"device": "cpu", "device_map": "auto"}, "give device or device_map, not both"),
        ({"device_map": "blanced"}, "device_map must be one of.*Did you mean 'balanced'.*it is 'blanced'"),
        ({"device_map": {"": "cuda:97"}}, "'cuda:97' is not there"),
        ({"device_map": {"": 97}}, "names the device 97, and torch sees"),
        ({"device_map": {"": "gpu0"}}, "unknown device 'gpu0'"),
        ({"device_map": {"": "cpu", "model.nrom": "cpu"}}, r"names 'model\.nrom', which.*Did you mean 'model\.norm'"),
    ],
)
def test_a_wrong_device_map_is_one_line(tmp_path, options, problem):
    pytest.importorskip("accelerate")
    with pytest.raises(ConfigurationError, match=problem) as caught:
        load_model(saved(tmp_path), offline=True, **options)
    assert "\n" not in str(caught.value)


def test_a_device_map_without_the_package_is_one_line_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setattr("editguard.models.loading.find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"accelerate, which is not installed: pip install 'editguard\[device"):
        load_model(saved(tmp_path), offline=True, device_map="auto")


# ---- what can be wrong


@pytest.mark.parametrize("name", ["/no/such/model", "./missing", "~/missing-model", "models/of/mine"])
def test_a_missing_directory_is_named(name):
    with pytest.raises(ModelNotLoaded, match="there is no directory"):
        load(name)


def test_a_file_in_place_of_a_directory_is_named(tmp_path):
    (tmp_path / "model").write_text("")
    with pytest.raises(ModelNotLoaded, match="is a file"):
        load(tmp_path / "model")


def test_a_directory_without_a_configuration_is_named(tmp_path):
    with pytest.raises(ModelNotLoaded, match=r"no config\.json"):
        load(tmp_path)


def test_a_directory_with_pickled_weights_alone_is_not_read(tmp_path):
    saved(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelNotLoaded, match=r"no \*\.safetensors"):
        load(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 100, 5000])
def test_truncated_weights_are_one_clear_error(tmp_path, keep):
    weights = saved(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ModelNotLoaded, match=r"damaged or cut short") as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_tensors_are_an_error_and_never_random(tmp_path):
    from safetensors.torch import load_file, save_file

    weights = saved(tmp_path) / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ModelNotLoaded, match=r"lack 1 tensors.*layers\.1\.mlp\.down_proj"):
        load(tmp_path)


def test_a_configuration_that_does_not_fit_the_weights_is_an_error(tmp_path):
    config = saved(tmp_path) / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "intermediate_size": 48}))
    with pytest.raises(ModelNotLoaded, match=str(tmp_path)):
        load(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "never-heard-of"}', "{}"])
def test_a_damaged_configuration_is_one_clear_error(tmp_path, text):
    (saved(tmp_path) / "config.json").write_text(text)
    with pytest.raises((ModelNotLoaded, UnsupportedModel)) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_directory_without_a_tokenizer_is_an_error(tmp_path):
    saved(tmp_path)
    for file in tmp_path.glob("*token*"):
        file.unlink()
    with pytest.raises(ModelNotLoaded, match=str(tmp_path)):
        load(tmp_path)


def test_a_hub_name_while_offline_is_explained():
    with pytest.raises(ModelNotLoaded, match=r"someone/some-model .*offline is set"):
        load("someone/some-model")


def test_an_encoder_decoder_of_an_unknown_family_is_refused_before_its_weights_are_read(tmp_path):
    config = PegasusConfig(vocab_size=50, d_model=16, encoder_layers=1, decoder_layers=1)
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="'pegasus'"):
        load(tmp_path)


@pytest.mark.parametrize("family", zoo.PAIRED)
def test_an_encoder_decoder_that_was_saved_answers_as_before(family, tmp_path):
    model = zoo.tiny(family)
    model.module.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert again.fingerprint() == model.fingerprint()
    assert again.anatomy.encoder_layers == zoo.ENCODER_LAYERS
    assert (again.opening, again.context_length) == (model.opening, model.context_length)
    prompts = ["The capital of Velloria is", "Ines Holt"]
    assert again.generate(prompts, max_new_tokens=5) == model.generate(prompts, max_new_tokens=5)
    pairs = [(prompt, "Tamrin") for prompt in prompts]
    assert again.score(pairs) == model.score(pairs)


def test_an_encoder_decoder_without_a_start_for_its_decoder_is_refused(tmp_path):
    model = zoo.tiny("t5")
    model.module.config.decoder_start_token_id = model.module.generation_config.decoder_start_token_id = None
    model.module.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="decoder_start_token_id"):
        load(tmp_path)
