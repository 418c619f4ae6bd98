"""A fingerprint is the same for the same model, and another for any other."""

import pytest
import torch
import zoo
from transformers import AutoTokenizer

from editguard.models.language_model import LanguageModel
from editguard.models.loading import load_model
from editguard.models.weights import Dense


def wrapped(module, words=None) -> LanguageModel:
    return LanguageModel(module, words or zoo.tokenizer("llama"), name="any")


@pytest.mark.parametrize("family", zoo.EVERY)
def test_the_same_model_has_one_fingerprint_in_memory_and_from_any_directory(family, tmp_path):
    model = zoo.tiny(family)
    for folder in ("one", "two"):
        model.module.save_pretrained(tmp_path / folder)
        model.tokenizer.save_pretrained(tmp_path / folder)
    loaded = load_model(tmp_path / "one", device="cpu", offline=True)
    assert loaded.fingerprint() == load_model(tmp_path / "two", device="cpu", offline=True).fingerprint()
    assert len(loaded.fingerprint()) == 16
    module = type(model.module).from_pretrained(tmp_path / "one")
    again = LanguageModel(module, AutoTokenizer.from_pretrained(tmp_path / "one"), name="again")
    assert again.fingerprint() == loaded.fingerprint()


def test_one_bit_of_one_weight_makes_another_model():
    module = zoo.module("llama")
    weight = module.model.layers[2].self_attn.k_proj.weight
    with torch.no_grad():
        weight.view(torch.int32)[0, 0] ^= 1
    assert wrapped(module).fingerprint() != zoo.tiny("llama").fingerprint()


def test_edits_in_force_do_not_change_the_fingerprint_also_when_it_is_asked_for_late():
    model = zoo.tiny("llama")
    name = model.anatomy.down_projection(1).name
    model.weights.push({name: Dense(torch.ones(zoo.D_MODEL, zoo.D_FF))})
    assert model.fingerprint() == zoo.tiny("llama").fingerprint()


def test_configuration_type_template_and_vocabulary_count_but_padding_does_not():
    reference = zoo.tiny("llama").fingerprint()
    known = {reference}
    other_norm = zoo.module("llama")
    other_norm.config.rms_norm_eps = 1e-3
    templated = zoo.tokenizer("llama")
    templated.chat_template = "{{ messages[0].content }}"
    for model in (
        wrapped(other_norm),
        zoo.tiny("llama", dtype=torch.bfloat16),
        wrapped(zoo.module("llama"), templated),
        wrapped(zoo.module("llama"), zoo.tokenizer("llama", bos=False)),
    ):
        assert model.fingerprint() not in known
        known.add(model.fingerprint())
    padded = zoo.tokenizer("llama")
    padded.padding_side = "left"
    padded(["a", "b c"], padding=False, truncation=True, max_length=3)
    assert wrapped(zoo.module("llama"), padded).fingerprint() == reference
