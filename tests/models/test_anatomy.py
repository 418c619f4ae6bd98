"""Every row of the table of families, tested by experiment on a tiny model."""

from contextlib import ExitStack

import pytest
import torch
import zoo
from torch import Tensor
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    GPT2Config,
    GPT2Model,
    MambaConfig,
    MambaForCausalLM,
    PegasusConfig,
    T5Config,
    T5Model,
)

from editguard.errors import UnknownPart, UnsupportedModel
from editguard.models.anatomy import Anatomy
from editguard.models.families import FAMILIES
from editguard.models.hooks import capture

every_family = pytest.mark.parametrize("family", zoo.FAMILIES)
PROMPT = "The mayor of the capital of Oskaria is"


def states(model, ids: Tensor | None = None) -> list[Tensor]:
    """The residual stream before block 0, 1, ... and after the last block, by hooks on the blocks alone."""
    ids = torch.tensor([model.encode(PROMPT)]) if ids is None else ids
    blocks = [model.anatomy.block(layer) for layer in range(model.anatomy.layers)]
    with torch.no_grad(), ExitStack() as hooks:
        entering = [hooks.enter_context(capture(block, "input")) for block in blocks]
        leaving = hooks.enter_context(capture(blocks[-1], "output"))
        model.module(input_ids=ids)
    return [*(each.value for each in entering), leaving.value]


def shifted(matrix) -> None:
    with torch.no_grad():
        matrix.weight().mul_(1.5).add_(0.1)


@every_family
def test_a_changed_down_projection_moves_the_residual_stream_exactly_from_its_layer_on(family):
    for layer in (0, 2):
        model = zoo.tiny(family)
        before = states(model)
        shifted(model.anatomy.down_projection(layer))
        after = states(model)
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            assert torch.equal(old, new) == (index <= layer), (layer, index)


@every_family
def test_a_changed_attention_output_moves_the_residual_stream_exactly_from_its_layer_on(family):
    model = zoo.tiny(family)
    before = states(model)
    shifted(model.anatomy.attention_output(1))
    same = [torch.equal(old, new) for old, new in zip(before, states(model), strict=True)]
    assert same == [True, True, False, False, False]


@every_family
def test_up_projections_change_the_key_of_their_layer_and_attention_does_not_in_a_parallel_block(family):
    def key(model):
        with torch.no_grad(), capture(model.anatomy.down_projection(1).module, "input") as captured:
            model.module(input_ids=torch.tensor([model.encode(PROMPT)]))
        return captured.value

    reference = key(zoo.tiny(family))
    assert reference.shape[-1] == zoo.tiny(family).anatomy.d_ff
    matrices = zoo.tiny(family).anatomy.up_projections(1)
    assert len(matrices) == (2 if FAMILIES[zoo.tiny(family).anatomy.family].gate else 1)
    for place in range(len(matrices)):
        model = zoo.tiny(family)
        matrix = model.anatomy.up_projections(1)[place]
        assert matrix.shape == (model.anatomy.d_ff, model.anatomy.d_model)
        shifted(matrix)
        assert not torch.equal(key(model), reference)
    model = zoo.tiny(family)
    shifted(model.anatomy.attention_output(1))
    assert torch.equal(key(model), reference) == model.anatomy.parallel


@every_family
def test_the_residual_stream_and_what_attention_and_mlp_write_add_up(family):
    model = zoo.tiny(family, dtype=torch.float64)
    anatomy = model.anatomy
    stream = states(model)
    for layer in range(anatomy.layers):
        attention, mlp = anatomy.residual_writers(layer)
        with torch.no_grad(), capture(attention) as first, capture(mlp) as second:
            model.module(input_ids=torch.tensor([model.encode(PROMPT)]))
            wrote = [each.value.reshape(stream[layer].shape) for each in (first, second)]
            if anatomy.normalises_stream:
                block = anatomy.block(layer)
                middle = block.self_attn_layer_norm(stream[layer] + wrote[0])
                expected = block.final_layer_norm(middle + wrote[1])
            else:
                expected = stream[layer] + wrote[0] + wrote[1]
        torch.testing.assert_close(stream[layer + 1], expected, rtol=1e-9, atol=1e-12)


@every_family
def test_the_mlp_module_returns_what_the_down_projection_makes_of_the_key(family):
    model = zoo.tiny(family, dtype=torch.float64)
    down = model.anatomy.down_projection(2)
    with torch.no_grad(), capture(down.module, "input") as key, capture(model.anatomy.mlp(2)) as output:
        model.module(input_ids=torch.tensor([model.encode(PROMPT)]))
    expected = key.value @ down.weight().T + (0 if down.bias() is None else down.bias())
    torch.testing.assert_close(output.value, expected, rtol=1e-9, atol=1e-12)


@every_family
def test_a_shift_of_the_mlp_output_is_one_of_the_block_output_unless_a_norm_stands_between(family):
    model = zoo.tiny(family, dtype=torch.float64)
    before = states(model)[2]
    shift = torch.linspace(-1, 1, zoo.D_MODEL, dtype=torch.float64)
    with torch.no_grad():
        mlp = model.anatomy.mlp(1)
        handle = mlp.register_forward_hook(lambda _, __, output: output + shift)
        moved = states(model)[2] - before
        handle.remove()
    arrived = torch.allclose(moved, shift.expand_as(moved), rtol=1e-9, atol=1e-12)
    assert arrived == (not model.anatomy.post_mlp_norm)


@every_family
def test_logits_of_the_last_residual_stream_are_the_models_own(family):
    model = zoo.tiny(family, dtype=torch.float64)
    ids = torch.tensor([model.encode(PROMPT)])
    with torch.no_grad():
        own = model.module(input_ids=ids).logits
        torch.testing.assert_close(model.anatomy.logits(states(model)[-1]), own, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(model.logits(ids, torch.ones_like(ids)), own, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
def test_a_cap_on_the_logits_is_part_of_them(family):
    model = zoo.module(family)
    model.config.final_logit_softcapping = 0.5
    anatomy = Anatomy(model)
    hidden = torch.randn(3, zoo.D_MODEL)
    assert anatomy.logits(hidden).abs().max() <= 0.5


@every_family
def test_embedding_and_head_are_where_the_row_says(family):
    model = zoo.tiny(family)
    assert model.anatomy.embedding is model.module.get_input_embeddings()
    assert model.anatomy.head is model.module.get_output_embeddings()


@pytest.mark.parametrize("family", [name for name in zoo.FAMILIES if name != "bloom"])
def test_orientation_is_told_by_the_module_also_when_the_matrix_is_square(family):
    model = zoo.tiny(family, square=True, dtype=torch.float64)
    down = model.anatomy.down_projection(1)
    assert down.shape == (zoo.D_MODEL, zoo.D_MODEL)
    with torch.no_grad(), capture(down.module, "input") as key, capture(down.module) as output:
        model.module(input_ids=torch.tensor([model.encode(PROMPT)]))
    expected = key.value @ down.weight().T + (0 if down.bias() is None else down.bias())
    torch.testing.assert_close(output.value, expected, rtol=1e-9, atol=1e-12)


@every_family
def test_names_of_matrices_are_those_of_the_models_parameters(family):
    model = zoo.tiny(family)
    for matrix in (
        model.anatomy.down_projection(3),
        *model.anatomy.up_projections(0),
        model.anatomy.attention_output(1),
    ):
        assert model.module.get_parameter(matrix.name) is matrix.parameter
        if matrix.bias_name:
            assert model.module.get_parameter(matrix.bias_name) is matrix.bias()
        assert tuple(matrix.weight().shape) == matrix.shape == (matrix.d_out, matrix.d_in)


def test_every_row_has_a_tiny_model():
    covered = {zoo.tiny(family).anatomy.family for family in (*zoo.FAMILIES, *zoo.ENCODER_DECODER)}
    assert covered == set(FAMILIES)


@pytest.mark.parametrize("layer", [-1, zoo.LAYERS, True, 1.0])
def test_a_layer_that_is_not_there_is_named_with_those_that_are(layer):
    with pytest.raises(UnknownPart, match="layers 0 to 3"):
        zoo.tiny("gpt2").anatomy.down_projection(layer)


def test_an_unknown_family_is_refused_with_the_known_ones():
    mamba = MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, state_size=4))
    with pytest.raises(UnsupportedModel, match=r"'mamba'.*gpt2"):
        Anatomy(mamba)


def test_a_model_without_a_head_is_refused():
    with pytest.raises(UnsupportedModel, match="causal language model"):
        Anatomy(GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=50)))


def test_an_encoder_decoder_of_another_family_is_refused():
    small = {"vocab_size": 50, "d_model": 8, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = PegasusConfig(**small, encoder_layers=1, decoder_layers=1)
    with pytest.raises(UnsupportedModel, match="'pegasus'"):
        Anatomy(AutoModelForSeq2SeqLM.from_config(config))


def test_an_encoder_that_is_wider_than_its_decoder_is_refused():
    small = {"vocab_size": 50, "d_model": 8, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = BartConfig(**small, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=24)
    with pytest.raises(UnsupportedModel, match="differ in width"):
        Anatomy(AutoModelForSeq2SeqLM.from_config(config))


def test_an_encoder_decoder_without_a_head_is_refused():
    config = T5Config(vocab_size=50, d_model=8, d_ff=16, num_layers=1, num_heads=2, d_kv=4)
    with pytest.raises(UnsupportedModel, match="sequence-to-sequence language model"):
        Anatomy(T5Model(config))


def test_a_bloom_variant_whose_stream_starts_from_a_norm_is_refused():
    model = zoo.module("bloom")
    model.config.apply_residual_connection_post_layernorm = True
    with pytest.raises(UnsupportedModel, match="apply_residual_connection_post_layernorm"):
        Anatomy(model)


def test_a_matrix_held_by_another_kind_of_module_is_refused():
    model = zoo.module("llama")
    model.model.layers[2].mlp.down_proj = torch.nn.Embedding(zoo.D_FF, zoo.D_MODEL)
    with pytest.raises(UnsupportedModel, match=r"layers\.2\.mlp\.down_proj.*Embedding"):
        Anatomy(model).down_projection(2)
