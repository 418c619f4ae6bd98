"""Fine-tuning: its two losses, its ball, and what it leaves alone."""

from typing import Any

import pytest
import torch
import zoo

from editguard.edited import AddedNeurons, AppliedEdit, EditedModel
from editguard.edited.added_neurons import Neurons
from editguard.edits import EditRequest
from editguard.errors import ConflictingEdits, MethodRefused
from editguard.methods import Preparation, create, fine_tuning, methods
from editguard.methods.fine_tuning import (
    CONSTRAINED,
    MASKED,
    ConstrainedFineTuning,
    Example,
    FineTuningSettings,
    examples,
    prompt_last_loss,
    target_new_loss,
)
from editguard.methods.fine_tuning import (
    FREE as FREE_ROWS,
)
from editguard.methods.settings import Shape, resolve
from editguard.models import LanguageModel
from editguard.models.answer_passes import whole_answer_passes
from editguard.models.generation import left_padded

LAYER = 1
EVERYWHERE = [*zoo.REPRESENTATIVE, *zoo.PAIRED]
FREE: dict[str, Any] = {"layer": LAYER, "norm_constraint": None, "step_size": 1e-2, "epochs": 8}


def tuned(model: LanguageModel, requests: tuple[EditRequest, ...], **settings: Any) -> EditedModel:
    method = ConstrainedFineTuning(FineTuningSettings(**{"layer": LAYER, **settings}))
    return method.apply(EditedModel.original(model), requests)


def change(edited: EditedModel, suffix: str = "weight") -> torch.Tensor:
    [found] = [d.delta for name, d in edited.edits[0].changes[0].deltas.items() if name.endswith(suffix)]
    return found


# ---- the losses


def test_for_one_token_the_two_losses_agree_and_for_more_they_differ() -> None:
    logits = torch.randn(3, 11, generator=torch.Generator().manual_seed(0))
    targets = [[4], [0], [10]]
    assert float(prompt_last_loss(logits, targets)) == pytest.approx(float(target_new_loss(logits, targets)))
    assert float(prompt_last_loss(logits, [[4], [0, 3], [10]])) != pytest.approx(
        float(target_new_loss(torch.cat([logits, logits[:1]]), [[4], [0, 3], [10]]))
    )


def test_prompt_last_reads_every_token_from_the_one_distribution_and_averages_rows_last() -> None:
    log_probs = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    # row 1: -(ln .5 + ln .25) / 2; row 2: -ln .8
    wanted = ((0.693147 + 1.386294) / 2 + 0.223144) / 2
    assert float(prompt_last_loss(log_probs, [[0, 1], [2]])) == pytest.approx(wanted, rel=1e-5)


def test_target_new_is_the_cross_entropy_with_everything_else_masked() -> None:
    logits = torch.randn(1, 6, 9, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[-100, -100, 3, 5, 1, -100]])
    wanted = torch.nn.functional.cross_entropy(logits[0], labels[0], ignore_index=-100)
    assert float(target_new_loss(logits[0, 2:5], [[3, 5, 1]])) == pytest.approx(float(wanted), rel=1e-6)


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_the_first_loss_is_that_of_left_padded_whole_passes(family: str, facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny(family)
    data = examples(model, facts, "prompt-last")
    ids, mask = left_padded([example.prompt for example in data])
    wanted = prompt_last_loss(model.logits(ids, mask)[:, -1], [example.target for example in data])
    edited = tuned(model, facts, epochs=1)
    assert edited.edits[0].record["loss_by_epoch"] == [pytest.approx(float(wanted), rel=1e-4)]
    scores = model.score([(fact.text, fact.target) for fact in facts])
    language_model = sum(-sum(score.log_probs) / len(score.log_probs) for score in scores) / len(scores)
    edited = tuned(model, facts, epochs=1, loss_position="target-new")
    assert edited.edits[0].record["loss_by_epoch"] == [pytest.approx(language_model, rel=1e-4)]


# ---- the training


@pytest.mark.parametrize("position", ["prompt-last", "target-new"])
@pytest.mark.parametrize("family", EVERYWHERE)
def test_the_first_step_is_adams_on_the_gradient_of_the_real_parameters(
    family: str, position: str, facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny(family, dtype=torch.float64)
    settings = {**FREE, "epochs": 1, "loss_position": position, "trains_bias": True}
    edited = tuned(model, facts, **settings)
    matrix = model.anatomy.down_projection(LAYER)
    trained = [tensor for tensor in (matrix.parameter, matrix.bias()) if tensor is not None]
    for tensor in trained:
        tensor.requires_grad_(True)
    data = examples(model, facts, position)
    run = whole_answer_passes(model, [example.pair(position) for example in data])
    loss = (prompt_last_loss if position == "prompt-last" else target_new_loss)(
        run.logits(), [example.target for example in data]
    )
    gradients = torch.autograd.grad(loss, trained)
    for gradient, suffix in zip(gradients, ("weight", "bias"), strict=False):
        wanted = -FREE["step_size"] * gradient / (gradient.abs() + 1e-8)
        if suffix == "weight" and matrix.transposed:
            wanted = wanted.T
        torch.testing.assert_close(change(edited, suffix), wanted, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("epochs", [1, 2, 3, 25])
@pytest.mark.parametrize("radius", [5e-4, 5e-5])
def test_no_weight_ever_leaves_the_ball(epochs: int, radius: float, facts: tuple[EditRequest, ...]) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = zoo.tiny("llama", dtype=dtype)
        edited = tuned(model, facts, epochs=epochs, norm_constraint=radius, trains_bias=True)
        assert change(edited).abs().max() <= torch.tensor(radius)
        assert change(edited).abs().max() > radius / 2
        with edited:
            now = model.anatomy.down_projection(LAYER).weight().double()
        old = model.anatomy.down_projection(LAYER).weight().double()
        rounding = torch.finfo(dtype).eps * old.abs()
        assert bool(((now - old).abs() <= radius + rounding).all())


def test_no_entry_of_a_trained_bias_ever_leaves_the_ball(facts: tuple[EditRequest, ...]) -> None:
    model, radius = zoo.tiny("gpt2"), 5e-5
    for epochs in (1, 3):
        found = change(tuned(model, facts, epochs=epochs, norm_constraint=radius, trains_bias=True), "bias")
        assert radius / 2 < found.abs().max() <= torch.tensor(radius)


@pytest.mark.parametrize("position", ["prompt-last", "target-new"])
def test_every_step_is_adams_from_that_steps_gradient_alone_and_nothing_pulls_the_weights_back(
    position: str, facts: tuple[EditRequest, ...]
) -> None:
    model, twin = (zoo.tiny("gpt2", dtype=torch.float64) for _ in range(2))
    edited = tuned(model, facts, **{**FREE, "epochs": 5, "stop_below": 0.0, "loss_position": position})
    weight = twin.anatomy.down_projection(LAYER).parameter
    before = weight.detach().clone()
    data = examples(twin, facts, position)
    run = whole_answer_passes(twin, [example.pair(position) for example in data])
    loss = prompt_last_loss if position == "prompt-last" else target_new_loss
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(1, 6):
        weight.requires_grad_(True)
        [gradient] = torch.autograd.grad(loss(run.logits(), [example.target for example in data]), [weight])
        weight.requires_grad_(False)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        weight -= FREE["step_size"] * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    torch.testing.assert_close(change(edited), (weight - before).T, rtol=1e-5, atol=1e-9)


def test_with_a_ball_of_radius_zero_nothing_changes(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("gpt2")
    before = model.weights.digest()
    with tuned(model, facts, norm_constraint=0.0):
        assert model.weights.digest() == before


def test_without_a_ball_weights_go_further() -> None:
    model = zoo.tiny("gpt2")
    request = EditRequest(prompt="The capital of {} is", subject="Velloria", target="Oskar")
    assert change(tuned(model, (request,), **FREE)).abs().max() > 2 * FREE["step_size"]


@pytest.mark.parametrize("trains_bias", [False, True])
@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_only_the_named_tensors_change(family: str, trains_bias: bool, facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny(family)
    before = {name: parameter.clone() for name, parameter in model.module.named_parameters()}
    matrix = model.anatomy.down_projection(LAYER)
    with tuned(model, facts, trains_bias=trains_bias):
        changed = {name for name, tensor in model.module.named_parameters() if not torch.equal(tensor, before[name])}
    wanted = {matrix.name} | ({matrix.bias_name} if trains_bias and matrix.bias_name else set())
    assert changed == wanted


@pytest.mark.parametrize("position", ["prompt-last", "target-new"])
def test_the_loss_falls_and_training_ends_at_the_first_epoch_below_the_bound(
    position: str, facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("gptj")
    free = {**FREE, "epochs": 30, "loss_position": position}
    course = tuned(model, facts[:1], **free, stop_below=0.0).edits[0].record["loss_by_epoch"]
    assert course[-1] < course[0] - 0.5
    bound = (course[0] + course[-1]) / 2
    edited = tuned(model, facts[:1], **free, stop_below=bound)
    losses = edited.edits[0].record["loss_by_epoch"]
    assert losses[-1] < bound <= min(losses[:-1])
    assert edited.edits[0].record["updates"] == len(losses) - 1
    again = ConstrainedFineTuning(FineTuningSettings(**free, stop_below=bound)).apply(edited, facts[:1])
    assert again.edits[1].record["updates"] == 0
    assert again.edits[1].changes == ()


def test_an_edit_on_top_trains_on_the_edited_model(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("gpt2")
    method = ConstrainedFineTuning(FineTuningSettings(**FREE))
    first = method.apply(EditedModel.original(model), facts[:1])
    second = method.apply(first, facts[1:2])
    with first:
        score = model.logits(*left_padded([examples(model, facts[1:2], "prompt-last")[0].prompt]))[:, -1]
        wanted = prompt_last_loss(score, [examples(model, facts[1:2], "prompt-last")[0].target])
    assert second.edits[1].record["loss_by_epoch"][0] == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "opt", "bloom"])
def test_neurons_beside_the_trained_matrix_stay_in_force_while_it_is_trained(
    family: str, facts: tuple[EditRequest, ...]
) -> None:
    """In some families they hang on the very module that computes with the change."""
    model = zoo.tiny(family)
    source = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(3, zoo.D_MODEL, generator=source) for _ in range(2))
    added = AddedNeurons(2, Neurons(keys, torch.ones(3), values.T, "relu"))
    chain = EditedModel.original(model).extended(AppliedEdit("toy", facts[1:2], (added,)))
    edited = create("ft-m", {"layer": 2, "epochs": 1}, model).apply(chain, facts[:1])
    [score] = chain.score([(facts[0].text, facts[0].target)])
    [without] = EditedModel.original(model).score([(facts[0].text, facts[0].target)])
    wanted, other = (-sum(each.log_probs) / len(each.log_probs) for each in (score, without))
    assert edited.edits[-1].record["loss_by_epoch"] == pytest.approx([wanted], rel=1e-4)
    assert other != pytest.approx(wanted, rel=1e-2)


def test_requests_are_trained_in_batches_of_the_given_size(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("gpt2")
    assert tuned(model, facts, epochs=2, batch_size=2).edits[0].record["updates"] == 4
    assert tuned(model, facts, epochs=2, batch_size=3).edits[0].record["updates"] == 2


def test_requests_that_contradict_each_other_and_layers_that_do_not_exist_are_refused(
    facts: tuple[EditRequest, ...],
) -> None:
    model = zoo.tiny("gpt2")
    other = EditRequest(prompt=facts[0].prompt, subject=facts[0].subject, target="Belmora")
    with pytest.raises(ConflictingEdits):
        tuned(model, (facts[0], other))
    for act in (
        lambda method: method.prepare(model, Preparation()),
        lambda method: method.apply(EditedModel.original(model), facts),
    ):
        with pytest.raises(MethodRefused, match="layers 0 to 3"):
            act(ConstrainedFineTuning(FineTuningSettings(layer=4)))


def test_ft_l_is_the_constrained_prompt_last_preset_and_a_written_radius_counts() -> None:
    model = zoo.tiny("gpt2")
    preset = create("ft-l", {}, model).settings
    assert (preset.loss_position, preset.norm_constraint) == ("prompt-last", 5e-4)
    assert create("ft-l", {"norm_constraint": "5e-5"}, model).settings.norm_constraint == 5e-5
    assert create("ft-l", {"norm_constraint": "off"}, model).settings.norm_constraint is None


def test_the_three_methods_differ_in_loss_and_ball_alone() -> None:
    model = zoo.tiny("gpt2")
    presets = {name: create(name, {}, model).settings for name in ("ft", "ft-l", "ft-m")}
    assert {name: (one.loss_position, one.norm_constraint) for name, one in presets.items()} == {
        "ft": ("prompt-last", None),
        "ft-l": ("prompt-last", 5e-4),
        "ft-m": ("target-new", None),
    }
    for one in presets.values():
        assert (one.step_size, one.epochs, one.stop_below, one.trains_bias) == (5e-4, 25, 1e-2, False)


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("ft-l", ("gpt2", 48, 1600), (0, 5e-4, True)),
        ("ft", ("gpt2", 48, 1600), (1, None, True)),
        ("ft-l", ("gptj", 28, 4096), (0, 5e-5, True)),
        ("ft", ("gptj", 28, 4096), (21, None, True)),
        ("ft", ("llama", 32, 4096), (21, None, False)),
        ("ft-m", ("llama", 28, 3072), (21, None, False)),
        ("ft-l", ("mistral", 32, 4096), (21, 5e-5, False)),
        ("ft-m", ("mistral", 32, 4096), (21, None, False)),
        ("ft-m", ("qwen2", 28, 3584), (27, None, False)),
        ("ft-m", ("gpt2", 48, 1600), (32, None, False)),
        ("ft-l", ("gpt2", 12, 768), (4, 5e-4, False)),
    ],
)
def test_published_values_hold_for_their_model_and_others_are_derived(
    name: str, shape: tuple[str, int, int], wanted: tuple[int, float | None, bool]
) -> None:
    recipe = methods()[name].load().recipe
    found = resolve(name, recipe, {}, Shape(*shape))
    assert (found.settings.layer, found.settings.norm_constraint, found.settings.trains_bias) == wanted
    known = {(row.family, row.layers, row.d_model) for row in recipe.published}
    assert found.provenance["layer"].startswith("published" if shape in known else "derived from depth")


def test_rows_without_a_ball_never_set_one() -> None:
    assert all("norm_constraint" in row.values for row in CONSTRAINED)
    assert not any("norm_constraint" in row.values for row in (*FREE_ROWS, *MASKED))


@pytest.mark.parametrize(("name", "position"), [("ft", "prompt-last"), ("ft-m", "target-new")])
def test_a_method_trains_with_the_loss_of_its_preset(name: str, position: str, facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("gpt2")
    method = create(name, {"layer": LAYER, "epochs": 3, "step_size": 1e-2}, model)
    edited = method.apply(EditedModel.original(model), facts)
    wanted = tuned(model, facts, **{**FREE, "epochs": 3}, loss_position=position)
    assert edited.edits[0].method == name
    assert torch.equal(change(edited), change(wanted))
    assert change(edited).abs().max() > 1.5e-2


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_training_that_breaks_down_is_refused_and_changes_nothing(
    what: str, after: int, facts: tuple[EditRequest, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = zoo.tiny("gpt2")
    first = tuned(model, facts[:1])
    first.activate()
    before, calls = model.weights.digest(), [0]

    def broken(logits: torch.Tensor, targets: Any) -> torch.Tensor:
        calls[0] += 1
        loss = prompt_last_loss(logits, targets)
        if calls[0] <= after:
            return loss
        # The root of nothing has an infinite slope and no loss of its own.
        return loss * float("nan") if what == "loss" else loss + (0.0 * loss).sqrt()

    monkeypatch.setattr(fine_tuning, "prompt_last_loss", broken)
    method = ConstrainedFineTuning(FineTuningSettings(**FREE))
    with pytest.raises(
        MethodRefused, match=f"ft-l gave up on .*Marlowe-Vane.* and 1 more: .*{what} .* after {after} updates"
    ):
        method.apply(first, facts[1:])
    assert calls == [after + 1]
    assert tuple(model.installed) == first.changes
    assert model.weights.digest() == before
    model.weights.verify()


def test_a_model_that_overflows_is_refused_too(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("llama", dtype=torch.float16)
    with torch.no_grad():
        model.anatomy.down_projection(LAYER).parameter.mul_(2e5)  # beyond half precision on the way
    with pytest.raises(MethodRefused, match="Nothing was changed"):
        tuned(model, facts)


def test_a_row_holds_the_target_only_where_it_is_read_token_by_token() -> None:
    model, example = zoo.tiny("gpt2"), Example((1, 2, 3), (7, 8))
    for position, stream, read in (("prompt-last", (1, 2, 3), (2,)), ("target-new", (1, 2, 3, 7), (2, 3))):
        prompt, answer = example.pair(position)
        row = model.forced_row(prompt, answer[:-1])
        assert (row.stream, row.read) == (stream, read)


# ---- behind an encoder


@pytest.mark.parametrize("family", zoo.PAIRED)
@pytest.mark.parametrize("layer", [0, zoo.ENCODER_LAYERS - 1, zoo.ENCODER_LAYERS, zoo.ENCODER_LAYERS + 1])
def test_layers_of_both_stacks_are_trained_on_the_models_own_loss(
    family: str, layer: int, facts: tuple[EditRequest, ...]
) -> None:
    """What `transformers` computes from labels, without any code of ours; one request, so that nothing is padded."""
    model = zoo.tiny(family, dtype=torch.float64)
    edited = tuned(model, facts[:1], **{**FREE, "epochs": 3, "layer": layer, "loss_position": "target-new"})
    prompt, answer = model.encode_answer(facts[0].text, facts[0].target)
    ids, stream = torch.tensor([prompt]), torch.tensor([[*model.opening, *answer[:-1]]])

    def loss() -> float:
        with torch.no_grad():
            logits = model.module(input_ids=ids, decoder_input_ids=stream).logits[0, len(model.opening) - 1 :]
        return float(torch.nn.functional.cross_entropy(logits, torch.tensor(answer)))

    history = edited.edits[0].record["loss_by_epoch"]
    assert history[0] == pytest.approx(loss(), rel=1e-9)
    with edited:
        assert loss() < history[-1] < history[0]
    [name] = edited.edits[0].changes[0].deltas
    assert name == model.anatomy.down_projection(layer).name
    assert name.startswith(("encoder", "model.encoder")) == (layer < zoo.ENCODER_LAYERS)


def test_an_answer_is_trained_to_end_and_one_that_is_read_from_one_place_is_not(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("t5")
    for example, fact in zip(examples(model, facts, "target-new"), facts, strict=True):
        assert example.target == (*model.tokenizer(fact.target)["input_ids"],)
        assert example.target[-1] == model.tokenizer.eos_token_id
    for example, fact in zip(examples(model, facts, "prompt-last"), facts, strict=True):
        assert example.target == (*model.tokenizer(fact.target, add_special_tokens=False)["input_ids"],)
        assert example.pair("prompt-last")[1] == example.target[:1]


def test_a_free_run_makes_the_decoder_write_the_target_and_stop(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("t5")
    free = {**FREE, "epochs": 60, "step_size": 3e-2, "loss_position": "target-new", "layer": 4}
    for fact in facts[::2]:
        [answer] = tuned(model, (fact,), **free).generate([fact.text], max_new_tokens=12)
        assert (answer.text, answer.stopped) == (fact.target, True)
    EditedModel.original(model).activate()


def test_the_layer_behind_an_encoder_is_the_ports_or_follows_from_the_decoders_depth() -> None:
    t5_3b = Shape("t5", 48, 1024, d_ff=16384, encoder_layers=24)
    large = Shape("t5", 48, 1024, d_ff=4096, encoder_layers=24)
    for name in ("ft", "ft-m"):
        recipe = create(name).recipe
        found = resolve(name, recipe, {}, t5_3b)
        assert (found.settings.layer, found.settings.epochs) == (45, 50)
        assert found.provenance["layer"].startswith("published")
    for name in ("ft-l", "ft", "ft-m"):
        recipe = create(name).recipe
        found = resolve(name, recipe, {}, large)
        assert found.settings.layer == 45
        assert found.provenance["layer"].startswith("derived")
        assert resolve(name, recipe, {}, Shape("bart", 12, 768, encoder_layers=6)).settings.layer == 11
        assert resolve(name, recipe, {}, Shape("t5", 7, 64, encoder_layers=6)).settings.layer == 6
