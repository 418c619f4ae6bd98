"""Every row of the table of families, tested by experiment on a tiny model."""

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
import zoo
from torch import Tensor, nn
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

every_family = pytest.mark.parametrize("family", zoo.EVERY)
every_pair = pytest.mark.parametrize("family", zoo.PAIRED)
GATED = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gemma3", "t5_gated", "mt5"})
PROMPT = "The mayor of the capital of Oskaria is"


def run(model):
    """A pass of the Hugging Face model itself: over the prompt, and over an answer where it has an encoder."""
    ids = {"input_ids": torch.tensor([model.encode(PROMPT)])}
    if model.anatomy.encoder_layers:
        ids["decoder_input_ids"] = torch.tensor([[*model.opening, 41, 9, 77]])
    with torch.no_grad():
        return model.module(**ids)


def states(model) -> list[Tensor]:
    """The residual stream before block 0, 1, ... and after the last block, by hooks on the blocks alone."""
    blocks = [model.anatomy.block(layer) for layer in range(model.anatomy.layers)]
    with ExitStack() as hooks:
        entering = [hooks.enter_context(capture(block, "input")) for block in blocks]
        leaving = hooks.enter_context(capture(blocks[-1], "output"))
        run(model)
    return [*(each.value for each in entering), leaving.value]


def untouched(model, layer: int) -> list[bool]:
    """Which of the states a change in that block cannot reach: an encoder's does not reach the decoder's embedding."""
    return [index <= layer or index == model.anatomy.encoder_layers for index in range(model.anatomy.layers + 1)]


def shifted(matrix) -> None:
    with torch.no_grad():
        matrix.weight().mul_(1.5).add_(0.1)


@every_family
def test_a_changed_down_projection_moves_the_residual_stream_exactly_from_its_layer_on(family):
    for layer in (0, 2):
        model = zoo.tiny(family)
        before = states(model)
        shifted(model.anatomy.down_projection(layer))
        same = [torch.equal(old, new) for old, new in zip(before, states(model), strict=True)]
        assert same == untouched(model, layer)


@every_family
def test_a_changed_attention_output_moves_the_residual_stream_exactly_from_its_layer_on(family):
    for layer in (1, 3):
        model = zoo.tiny(family)
        before = states(model)
        shifted(model.anatomy.attention_output(layer))
        same = [torch.equal(old, new) for old, new in zip(before, states(model), strict=True)]
        assert same == untouched(model, layer)


@every_family
@pytest.mark.parametrize("layer", [1, 3])
def test_up_projections_change_the_key_of_their_layer_and_attention_does_not_in_a_parallel_block(family, layer):
    def key(model):
        with capture(model.anatomy.down_projection(layer).module, "input") as captured:
            run(model)
        return captured.value

    reference = key(zoo.tiny(family))
    anatomy = zoo.tiny(family).anatomy
    assert reference.shape[-1] == anatomy.d_ff
    matrices = anatomy.up_projections(layer)
    assert len(matrices) == (1 if anatomy.gate_projection(layer) is None else 2)
    for place in range(len(matrices)):
        model = zoo.tiny(family)
        matrix = model.anatomy.up_projections(layer)[place]
        assert matrix.shape == (model.anatomy.d_ff, model.anatomy.d_model)
        shifted(matrix)
        assert not torch.equal(key(model), reference)
    model = zoo.tiny(family)
    shifted(model.anatomy.attention_output(layer))
    assert torch.equal(key(model), reference) == model.anatomy.parallel


@every_family
def test_a_query_reaches_its_own_token_alone_and_values_are_averaged(family):
    """Keys are left out where they have a matrix of their own."""
    model = zoo.tiny(family, dtype=torch.float64)
    for layer in (1, model.anatomy.layers - 1):
        matrices = model.anatomy.queries_and_values(layer)
        attention = model.anatomy.attention_output(layer).module

        def attended(matrix, size, attention=attention):
            """What the attention puts out, (tokens, width), when this output of the second token is moved by `size`."""

            def moved(_, __, output):
                place = torch.nn.functional.one_hot(torch.tensor(1), output.shape[-2])
                return output + size * place[:, None]

            handle = matrix.module.register_forward_hook(moved)
            with torch.no_grad(), capture(attention, "input") as captured:
                run(model)
            handle.remove()
            return captured.value.reshape(-1, captured.value.shape[-1])

        assert all(matrix.d_in == model.anatomy.d_model for matrix in matrices)
        changes = [attended(matrix, 1.0) - attended(matrix, 0.0) for matrix in matrices]
        assert all(change[2].abs().max() > 1e-6 for change in changes[-1:])
        if len(matrices) == 1:
            assert matrices[0].d_out > matrices[0].d_in
            continue
        query, value = changes
        assert query[1].abs().max() > 1e-6
        assert not query[[0, *range(2, len(query))]].any()  # a key would reach the tokens that see it
        torch.testing.assert_close(attended(matrices[1], 2.0) - attended(matrices[1], 0.0), 2 * value)


@every_family
def test_the_gate_is_the_matrix_whose_activation_multiplies_the_other(family):
    """What multiplies the up projection depends on the gate alone, and grows with it where it is positive."""
    model = zoo.tiny(family)
    gated = model.anatomy.gate_projection(3) is not None
    assert gated == (family in GATED)
    if gated:
        up, gate = model.anatomy.up_projections(3)
        assert gate.name == model.anatomy.gate_projection(3).name != up.name
        with torch.no_grad(), capture(model.anatomy.down_projection(3).module, "input") as key:
            with capture(up.module) as risen, capture(gate.module) as opened:
                run(model)
            ratio = key.value / risen.value
            order = opened.value.flatten().argsort()
        curve = ratio.flatten()[order]
        beyond = opened.value.flatten()[order] > 0
        assert (curve[beyond].diff() > -1e-3).all()


@every_family
def test_the_residual_stream_and_what_attention_and_mlp_write_add_up(family):
    model = zoo.tiny(family, dtype=torch.float64)
    anatomy = model.anatomy
    for layer in range(anatomy.layers):
        block, writers = anatomy.block(layer), anatomy.residual_writers(layer)
        assert len(writers) == (3 if 0 < anatomy.encoder_layers <= layer else 2)
        with ExitStack() as hooks:
            entering = hooks.enter_context(capture(block, "input"))
            leaving = hooks.enter_context(capture(block, "output"))
            wrote = [hooks.enter_context(capture(writer)) for writer in writers]
            run(model)
        stream = entering.value
        norms = [nn.Identity()] * len(writers)
        if anatomy.normalises_stream:
            cross = [block.encoder_attn_layer_norm] if len(writers) == 3 else []
            norms = [block.self_attn_layer_norm, *cross, block.final_layer_norm]
        for norm, each in zip(norms, wrote, strict=True):
            stream = norm(stream + each.value.reshape(stream.shape))
        torch.testing.assert_close(leaving.value, stream, rtol=1e-9, atol=1e-12)


@every_family
@pytest.mark.parametrize("layer", [1, 2])
def test_the_mlp_module_returns_what_the_down_projection_makes_of_the_key(family, layer):
    model = zoo.tiny(family, dtype=torch.float64)
    down = model.anatomy.down_projection(layer)
    with capture(down.module, "input") as key, capture(model.anatomy.mlp(layer)) as output:
        run(model)
    expected = key.value @ down.weight().T + (0 if down.bias() is None else down.bias())
    torch.testing.assert_close(output.value, expected, rtol=1e-9, atol=1e-12)


@every_family
def test_a_shift_of_the_mlp_output_is_one_of_the_block_output_unless_a_norm_stands_between(family):
    model = zoo.tiny(family, dtype=torch.float64)
    shift = torch.linspace(-1, 1, zoo.D_MODEL, dtype=torch.float64)
    with capture(model.anatomy.block(1)) as left:
        run(model)
        handle = model.anatomy.mlp(1).register_forward_hook(lambda _, __, output: output + shift)
        run(model)
        handle.remove()
    moved = left.calls[1] - left.calls[0]
    arrived = torch.allclose(moved, shift.expand_as(moved), rtol=1e-9, atol=1e-12)
    assert arrived == (not model.anatomy.post_mlp_norm)


@every_family
def test_logits_of_the_last_residual_stream_are_the_models_own(family):
    model = zoo.tiny(family, dtype=torch.float64)
    own = run(model).logits
    with torch.no_grad():
        torch.testing.assert_close(model.anatomy.logits(states(model)[-1]), own, rtol=1e-12, atol=1e-12)
        if not model.anatomy.encoder_layers:
            ids = torch.tensor([model.encode(PROMPT)])
            torch.testing.assert_close(model.logits(ids, torch.ones_like(ids)), own, rtol=1e-12, atol=1e-12)


@every_pair
def test_layers_are_counted_through_the_encoder_and_then_the_decoder(family):
    model = zoo.tiny(family)
    anatomy = model.anatomy
    stacks = [model.module.get_encoder(), model.module.get_decoder()]
    assert [anatomy.encoder, anatomy.backbone] == stacks
    assert (anatomy.layers, anatomy.encoder_layers) == (zoo.ENCODER_LAYERS + zoo.DECODER_LAYERS, zoo.ENCODER_LAYERS)
    blocks = [block for stack in stacks for block in getattr(stack, "block", None) or stack.layers]
    assert [anatomy.block(layer) for layer in range(anatomy.layers)] == blocks
    for layer in range(anatomy.layers):
        stack = "encoder" if layer < zoo.ENCODER_LAYERS else "decoder"
        place = layer if layer < zoo.ENCODER_LAYERS else layer - zoo.ENCODER_LAYERS
        matrices = [anatomy.down_projection(layer), anatomy.attention_output(layer), *anatomy.up_projections(layer)]
        for matrix in matrices:
            assert matrix.name.removeprefix("model.").startswith(f"{stack}.")
            assert f".{place}." in matrix.name
            assert model.module.get_parameter(matrix.name) is matrix.parameter
            assert any(module is matrix.module for module in anatomy.block(layer).modules())
        assert any(module is anatomy.mlp(layer) for module in anatomy.block(layer).modules())
    with pytest.raises(UnknownPart, match="layers 0 to 4"):
        anatomy.block(5)


@every_pair
def test_what_the_decoder_attends_to_is_the_encoders_last_output_behind_its_norm(family):
    model = zoo.tiny(family, dtype=torch.float64)
    source = model.encoded([model.encode(PROMPT)])
    with capture(model.anatomy.block(zoo.ENCODER_LAYERS - 1)) as last:
        attended = run(model).encoder_last_hidden_state
    with torch.no_grad():
        torch.testing.assert_close(model.anatomy.encoder_norm(last.value), attended, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(source.states, attended, rtol=1e-12, atol=1e-12)


def test_a_decoder_alone_has_no_encoder():
    anatomy = zoo.tiny("gpt2").anatomy
    assert (anatomy.encoder, anatomy.encoder_layers) == (None, 0)


def test_only_the_first_t5_scales_what_meets_the_head():
    for family, scale in (("t5", zoo.D_MODEL**-0.5), ("t5_gated", 1.0), ("mt5", 1.0)):
        anatomy = zoo.tiny(family).anatomy
        state = torch.randn(3, zoo.D_MODEL)
        torch.testing.assert_close(anatomy.unembed(state), state @ anatomy.head.weight.T * scale)


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


@pytest.mark.parametrize("family", [name for name in zoo.EVERY if name != "bloom"])
def test_orientation_is_told_by_the_module_also_when_the_matrix_is_square(family):
    model = zoo.tiny(family, square=True, dtype=torch.float64)
    down = model.anatomy.down_projection(1)
    assert down.shape == (zoo.D_MODEL, zoo.D_MODEL)
    with capture(down.module, "input") as key, capture(down.module) as output:
        run(model)
    expected = key.value @ down.weight().T + (0 if down.bias() is None else down.bias())
    torch.testing.assert_close(output.value, expected, rtol=1e-9, atol=1e-12)


@every_family
def test_names_of_matrices_are_those_of_the_models_parameters(family):
    model = zoo.tiny(family)
    for matrix in (
        model.anatomy.down_projection(3),
        *model.anatomy.up_projections(0),
        *model.anatomy.queries_and_values(2),
        model.anatomy.attention_output(1),
    ):
        assert model.module.get_parameter(matrix.name) is matrix.parameter
        if matrix.bias_name:
            assert model.module.get_parameter(matrix.bias_name) is matrix.bias()
        assert tuple(matrix.weight().shape) == matrix.shape == (matrix.d_out, matrix.d_in)


def test_every_row_has_a_tiny_model():
    covered = {zoo.tiny(family).anatomy.family for family in zoo.ALL}
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


def test_a_row_that_does_not_name_queries_and_values_says_so_when_they_are_asked_for(monkeypatch):
    monkeypatch.setitem(FAMILIES, "gpt2", replace(FAMILIES["gpt2"], queries_and_values=()))
    with pytest.raises(UnsupportedModel, match=r"'gpt2' .*queries and values"):
        zoo.tiny("gpt2").anatomy.queries_and_values(0)


def test_a_matrix_held_by_another_kind_of_module_is_refused():
    model = zoo.module("llama")
    model.model.layers[2].mlp.down_proj = torch.nn.Embedding(zoo.D_FF, zoo.D_MODEL)
    with pytest.raises(UnsupportedModel, match=r"layers\.2\.mlp\.down_proj.*Embedding"):
        Anatomy(model).down_projection(2)
