"""Values that take the place of an output: trained in the setting in which they act, each for itself."""

from typing import Any

import pytest
import torch
import zoo
from torch import Tensor

from editguard.edited import AppliedEdit, EditedModel
from editguard.edited.codebook import Codebook, Entry, KeyBuffer, Member, Replacement
from editguard.edits import EditRequest
from editguard.methods import replaced_value
from editguard.methods.prompt_ends import at_prompt_ends
from editguard.methods.replaced_value import TrainedValue, ValueTask, margins, train_values
from editguard.models import LanguageModel
from editguard.models.continuation import FullForward
from editguard.models.generation import right_padded
from editguard.models.reading import Reading

FACT = EditRequest(prompt="The capital of {} is", subject="Velloria", target="Oskar")
PROMPTS = ("The capital of Velloria is", "Question: who is the mayor of Tamrin? Answer:", "Ines Holt")
TARGETS = ("Tamrin", "Ines Belmora", "Oskar")
RULES: tuple[Replacement, ...] = ("replace_last", "replace_prompt", "replace_all")


def task(model: LanguageModel, prompt: str, target: str, layer: int, seed: int = 0) -> ValueTask:
    ids, label = model.encode_answer(prompt, target)
    width = model.anatomy.down_projection(layer).d_out
    start = torch.rand(width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ValueTask(start.to(torch.promote_types(model.dtype, torch.float32)), tuple(label), (tuple(ids),))


def trained(model: LanguageModel, tasks: list[ValueTask], layer: int, **changes: Any) -> list[TrainedValue]:
    options: dict[str, Any] = {"replacement": "replace_last", "steps": 5, "step_size": 0.5, "stop_margin": None}
    matrix = model.anatomy.down_projection(layer)
    return train_values(model, matrix, tasks, layer=layer, **{**options, **changes})


def nll_in_force(model: LanguageModel, layer: int, pair: ValueTask, value: Tensor, rule: Replacement) -> float:
    """Of all tokens of the answer, through a codebook and whole passes of the model."""
    matrix = model.anatomy.down_projection(layer)
    [prompt] = pair.prompts
    [query] = at_prompt_ends(model, [prompt], [(matrix.module, "input")])
    book = Codebook(matrix, rule, KeyBuffer(query), {0: Entry(value, 1e-3, pair.label, (Member(prompt),))})
    edited = EditedModel(model, [AppliedEdit("toy", (FACT,), (book,))])
    row = model.forced_row(prompt, pair.label[:-1])
    ids, mask = right_padded([row.stream])
    if model.anatomy.encoder_layers:
        reading = Reading(None, in_encoder=True)
        with edited:
            source = model.encoded([row.source], reading)
            states = model.forward(ids, mask, reading=reading, source=source).last_hidden_state
    else:
        reading = Reading(torch.arange(ids.shape[1])[None] <= row.first)
        with edited:
            states = model.forward(ids, mask, reading=reading).last_hidden_state
    log_probs = model.anatomy.unembed(states[0, list(row.read)]).double().log_softmax(-1)
    return -float(log_probs[range(len(pair.label)), list(pair.label)].mean())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", [*zoo.REPRESENTATIVE, *zoo.ENCODER_DECODER])
def test_the_loss_of_training_is_the_loss_of_the_value_in_force(family: str, rule: Replacement) -> None:
    """In padded batches of prompts of several lengths, for every rule and for the encoder of a pair of stacks."""
    model = zoo.tiny(family, dtype=torch.float64)
    layer = 1
    tasks = [task(model, prompt, target, layer) for prompt, target in zip(PROMPTS, TARGETS, strict=True)]
    for pair, result in zip(tasks, trained(model, tasks, layer, replacement=rule), strict=True):
        assert result.updates == 5
        tolerance = 1e-5 if family == "gptj" else 1e-9
        assert result.loss == pytest.approx(nll_in_force(model, layer, pair, result.value, rule), rel=tolerance)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_training_lowers_the_loss_and_stops_where_the_answer_is_safe(family: str) -> None:
    model = zoo.tiny(family)
    tasks = [task(model, prompt, target, 1) for prompt, target in zip(PROMPTS, TARGETS, strict=True)]
    first = trained(model, tasks, 1, steps=0)
    assert all(torch.equal(result.value, pair.value) for result, pair in zip(first, tasks, strict=True))
    last = trained(model, tasks, 1, steps=40, step_size=1.0)
    for before, after in zip(first, last, strict=True):
        assert (before.updates, after.updates) == (0, 40)
        assert after.loss < before.loss
    if family == "gpt2":
        safe = trained(model, tasks, 1, steps=40, step_size=1.0, stop_margin=0.05)
        assert safe[0].updates < 40
        assert safe[0].margins[0] >= 0.05
        again = trained(model, tasks[:1], 1, steps=safe[0].updates - 1, step_size=1.0)
        assert again[0].margins[0] < 0.05  # one update fewer was not enough
        assert safe[1].updates == 40 or safe[1].margins[0] >= 0.05


def test_a_value_does_not_depend_on_those_trained_beside_it() -> None:
    """Though they end at other times, and leave the batch when half of it is done."""
    model = zoo.tiny("gpt2", dtype=torch.float64, batch_size=8)
    tasks = [
        task(model, prompt, target, 1, seed)
        for seed, (prompt, target) in enumerate((prompt, target) for prompt in PROMPTS for target in TARGETS[:2])
    ]
    options = {"steps": 25, "step_size": 1.0, "stop_margin": 0.02}
    together = trained(model, tasks, 1, **options)
    assert len({result.updates for result in together}) > 2
    for pair, result in zip(tasks, together, strict=True):
        [alone] = trained(model, [pair], 1, **options)
        assert alone.updates == result.updates
        torch.testing.assert_close(alone.value, result.value, rtol=1e-6, atol=1e-6)


def test_one_update_is_one_step_of_adam_down_the_gradient_of_the_mean_over_all_prompts() -> None:
    model = zoo.tiny("gpt2", dtype=torch.float64)
    ids, label = model.encode_answer(PROMPTS[0], TARGETS[1])
    other, _ = model.encode_answer(PROMPTS[1], TARGETS[1])
    start = task(model, PROMPTS[0], TARGETS[1], 1).value
    pair = ValueTask(start, tuple(label), (tuple(ids), tuple(other)))
    [result] = trained(model, [pair], 1, steps=1, step_size=0.25)
    [before] = trained(model, [pair], 1, steps=0)
    singles = [ValueTask(start, tuple(label), (prompt,)) for prompt in pair.prompts]
    assert before.loss == pytest.approx(sum(one.loss for one in trained(model, singles, 1, steps=0)) / 2, rel=1e-9)
    slope = []
    for place in range(len(start)):
        step = torch.zeros_like(start)
        step[place] = 1e-6
        ends = [
            trained(model, [ValueTask(start + way * step, pair.label, pair.prompts)], 1, steps=0)[0].loss
            for way in (1, -1)
        ]
        slope.append((ends[0] - ends[1]) / 2e-6)
    # Adam's first step has the learning rate's length in each coordinate, against the sign of the slope.
    torch.testing.assert_close(result.value, start - 0.25 * torch.tensor(slope).sign(), rtol=1e-4, atol=1e-4)


def test_margins_are_those_of_the_likeliest_other_token() -> None:
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
    found = margins(probabilities.log(), torch.tensor([0, 2]))
    torch.testing.assert_close(found, torch.tensor([0.2, -0.3]))


def test_whole_passes_give_the_same_values_where_blocks_cannot_be_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny("llama", dtype=torch.float64)
    tasks = [task(model, prompt, target, 1) for prompt, target in zip(PROMPTS, TARGETS, strict=True)]
    short = trained(model, tasks, 1)
    monkeypatch.setattr(replaced_value, "continued", FullForward)
    for one, other in zip(short, trained(model, tasks, 1), strict=True):
        torch.testing.assert_close(one.value, other.value, rtol=1e-7, atol=1e-7)


def test_only_blocks_from_the_layer_and_positions_from_the_prompts_end_run_again() -> None:
    model = zoo.tiny("gpt2")
    tasks = [task(model, prompt, target, 2) for prompt, target in zip(PROMPTS, TARGETS, strict=True)]
    trained(model, tasks, 2, steps=1)  # whether blocks can be replayed is found out once
    seen: dict[int, list[int]] = {layer: [] for layer in range(4)}
    handles = [
        model.anatomy.block(layer).register_forward_hook(
            lambda _, args, __, layer=layer: seen[layer].append(args[0].shape[1])
        )
        for layer in range(4)
    ]
    trained(model, tasks, 2, steps=9)
    for handle in handles:
        handle.remove()
    longest = max(len(pair.label) for pair in tasks)
    assert len(seen[1]) <= 2
    assert len(seen[2]) >= 10
    assert seen[2][-10:] == [longest] * 10


def test_an_infinite_loss_is_refused() -> None:
    model = zoo.tiny("gpt2")
    pair = task(model, PROMPTS[0], TARGETS[0], 1)
    broken = ValueTask(torch.full_like(pair.value, torch.inf), pair.label, pair.prompts)
    with pytest.raises(FloatingPointError, match="became"):
        trained(model, [broken], 1)
