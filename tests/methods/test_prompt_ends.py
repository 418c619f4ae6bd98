"""Vectors at the last token of prompts, in either kind of model."""

import pytest
import torch
import zoo

from editguard.methods.prompt_ends import at_prompt_ends
from editguard.models import capture

PROMPTS = ("Ines Holt", "Question: who is the mayor of Tamrin? Answer:", "The capital of Velloria is")


@pytest.mark.parametrize("family", ["gpt2", "opt", *zoo.ENCODER_DECODER])
def test_vectors_are_those_of_each_prompt_alone_in_the_order_of_the_prompts(family: str) -> None:
    model = zoo.tiny(family, dtype=torch.float64, batch_size=2)
    module = model.anatomy.down_projection(1).module
    prompts = [model.encode(prompt) for prompt in PROMPTS]
    entering, leaving = at_prompt_ends(model, prompts, [(module, "input"), (module, "output")])
    assert (entering.shape, leaving.shape) == ((3, zoo.D_FF), (3, zoo.D_MODEL))
    for number, prompt in enumerate(prompts):
        with capture(module, "input") as inputs, capture(module) as outputs:
            if model.anatomy.encoder_layers:
                model.encoded([prompt])
            else:
                model.forward(torch.tensor([prompt]), torch.ones(1, len(prompt), dtype=torch.long))
        for found, whole in ((entering, inputs), (leaving, outputs)):
            wanted = whole.value.reshape(len(prompt), -1)[-1]
            torch.testing.assert_close(found[number], wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_half_precision_is_widened(family: str) -> None:
    model = zoo.tiny(family, dtype=torch.bfloat16)
    module = model.anatomy.down_projection(1).module
    [entering] = at_prompt_ends(model, [model.encode(PROMPTS[0])], [(module, "input")])
    assert entering.dtype == torch.float32
