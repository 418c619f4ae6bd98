"""LoRA as an editor: its loss, its training, its rank, and that the model is the same afterwards but for the update."""

import sys
from typing import Any

import pytest
import torch
import zoo

from editguard.edited import EditedModel
from editguard.edits import EditRequest
from editguard.errors import InvalidSettings, MethodRefused
from editguard.methods import Preparation, create, fine_tuning, methods
from editguard.methods.lora import PUBLISHED, Lora, LoraSettings, adapted_matrices
from editguard.methods.settings import Shape, resolve
from editguard.models import LanguageModel, LowRank, Matrix
from editguard.models.adapters import first_down
from editguard.models.answer_passes import whole_answer_passes

BOTH = ("attention", "mlp")
CALM: dict[str, Any] = {"layers": (1, 2), "targets": BOTH, "rank": 3, "alpha": 6, "dropout": 0.0, "epochs": 4}
every_representative = pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
everywhere = pytest.mark.parametrize(
    "family",
    [
        *zoo.QUICK,
        *(pytest.param(family, marks=pytest.mark.slow) for family in zoo.ENCODER_DECODER if family not in zoo.QUICK),
    ],
)


def tuned(model: LanguageModel | EditedModel, requests: tuple[EditRequest, ...], **settings: Any) -> EditedModel:
    edited = model if isinstance(model, EditedModel) else EditedModel.original(model)
    return Lora(LoraSettings(**{**CALM, **settings})).apply(edited, requests)


def updates(edited: EditedModel) -> dict[str, LowRank]:
    [change] = edited.edits[-1].changes
    return dict(change.deltas)


def likelihood(model: LanguageModel, requests: tuple[EditRequest, ...]) -> torch.Tensor:
    """Mean negative log-likelihood of the targets, row by row, from whole unpadded passes; with gradients."""
    losses = []
    for request in requests:
        prompt, target = model.encode_answer(request.text, request.target)
        if model.anatomy.encoder_layers:
            stream = torch.tensor([[*model.opening, *target[:-1]]])
            logits = model.module(input_ids=torch.tensor([prompt]), decoder_input_ids=stream).logits[0]
        else:
            logits = model.module(input_ids=torch.tensor([[*prompt, *target[:-1]]])).logits[0]
        log_probs = logits[-len(target) :].log_softmax(-1)
        wanted = [-log_probs[place, token] for place, token in enumerate(target)]
        losses.append(sum(wanted) / len(wanted))
    return sum(losses) / len(losses)


def trained_by_hand(
    model: LanguageModel, requests: tuple[EditRequest, ...], settings: LoraSettings, steps: int
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A and B of every matrix after so many steps, without `peft`: hooks that add, and Adam written out."""
    generator = torch.Generator().manual_seed(settings.seed)
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    handles = []
    for matrix in adapted_matrices(model, settings):
        down = first_down(settings.rank, matrix.d_in, generator).double().requires_grad_()
        up = torch.zeros(matrix.d_out, settings.rank, dtype=torch.float64, requires_grad=True)
        pairs[matrix.name] = (down, up)

        def add(_: Any, args: Any, output: Any, down: Any = down, up: Any = up) -> Any:
            return output + settings.alpha / settings.rank * (args[0] @ down.T) @ up.T

        handles.append(matrix.module.register_forward_hook(add))
    flat = [tensor for pair in pairs.values() for tensor in pair]
    first, second = [torch.zeros_like(each) for each in flat], [torch.zeros_like(each) for each in flat]
    for step in range(1, steps + 1):
        gradients = torch.autograd.grad(likelihood(model, requests), flat)
        with torch.no_grad():
            for number, gradient in enumerate(gradients):
                first[number] = 0.9 * first[number] + 0.1 * gradient
                second[number] = 0.999 * second[number] + 0.001 * gradient**2
                root = (second[number] / (1 - 0.999**step)).sqrt() + 1e-8
                flat[number] -= settings.step_size * (first[number] / (1 - 0.9**step)) / root
    for handle in handles:
        handle.remove()
    return pairs


# ---- the loss


@everywhere
def test_the_first_loss_is_the_models_own_for_the_targets_whatever_the_dropout(
    family: str, facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny(family)
    wanted = float(likelihood(model, facts).detach())
    for dropout in (0.0, 0.5):  # of something that is multiplied by zero at first
        edited = tuned(model, facts, dropout=dropout, epochs=1)
        assert edited.edits[0].record["loss_by_epoch"] == [pytest.approx(wanted, rel=1e-4)]


def test_a_requests_part_in_the_loss_does_not_depend_on_longer_ones_beside_it(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("gptj")
    long = EditRequest(prompt=f"{zoo.SENTENCES[2]} {{}} is", subject="Velloria", target="Aldo Holt of Belmora")
    alone = [tuned(model, (one,), epochs=1).edits[0].record["loss_by_epoch"][0] for one in (*facts, long)]
    together = tuned(model, (*facts, long), epochs=1).edits[0].record["loss_by_epoch"][0]
    assert together == pytest.approx(sum(alone) / len(alone), rel=1e-5)


def test_the_token_that_fills_up_short_rows_is_a_token_like_any_other_in_a_prompt(
    facts: tuple[EditRequest, ...],
) -> None:
    """Rows are filled up with token 0, here `<s>`, and nothing may be masked for being that token."""
    model = zoo.tiny("llama", dtype=torch.float64)
    odd = EditRequest(prompt="<s><s> The {} </s> is", subject="capital", target="Belmora")
    assert model.encode(odd.text).count(0) > 1
    edited = tuned(model, (odd, *facts), epochs=1)
    wanted = float(likelihood(model, (odd, *facts)).detach())
    assert edited.edits[0].record["loss_by_epoch"] == [pytest.approx(wanted, rel=1e-6)]


# ---- the training


@everywhere
def test_the_factors_are_those_of_adam_written_out_on_whole_passes(family: str, facts: tuple[EditRequest, ...]) -> None:
    model, twin = (zoo.tiny(family, dtype=torch.float64) for _ in range(2))
    edited = tuned(model, facts, epochs=3)
    settings = LoraSettings(**CALM)
    wanted = trained_by_hand(twin, facts, settings, steps=3)
    found = updates(edited)
    assert list(found) == list(wanted)
    for name, (down, up) in wanted.items():
        torch.testing.assert_close(found[name].right.T, down.detach(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found[name].left, 2 * up.detach(), rtol=1e-4, atol=1e-6)
        assert up.abs().max() > settings.step_size


@every_representative
def test_the_first_step_moves_b_alone(family: str, facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny(family)
    generator = torch.Generator().manual_seed(LoraSettings().seed)
    for update in updates(tuned(model, facts, epochs=1)).values():
        assert torch.equal(update.right.T, first_down(3, update.right.shape[0], generator))
        assert update.left.any()


@pytest.mark.parametrize("rank", [1, 2])
def test_no_update_has_a_higher_rank_than_asked_for(rank: int, facts: tuple[EditRequest, ...]) -> None:
    edited = tuned(zoo.tiny("llama", dtype=torch.float64), facts, rank=rank, alpha=32, dropout=0.1, epochs=10)
    ranks = {int(torch.linalg.matrix_rank(update.dense(), rtol=1e-10)) for update in updates(edited).values()}
    assert ranks == {rank}


def test_a_larger_alpha_moves_further_in_proportion_at_the_first_step(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("gptj", dtype=torch.float64)
    small, large = (updates(tuned(model, facts, epochs=1, alpha=alpha)) for alpha in (3, 12))
    for name, update in small.items():  # Adam's first step has nearly the same length whatever the gradient
        torch.testing.assert_close(large[name].dense(), 4 * update.dense(), rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("lowest", [0, 2])
def test_the_blocks_below_the_lowest_adapter_run_once(lowest: int, facts: tuple[EditRequest, ...]) -> None:
    def runs(epochs: int) -> list[int]:
        model = zoo.tiny("gpt2")
        counts = [0] * zoo.LAYERS

        def counted(layer: int) -> Any:
            def count(*_: Any) -> None:
                counts[layer] += 1

            return count

        for layer in range(zoo.LAYERS):
            model.anatomy.block(layer).register_forward_hook(counted(layer))
        tuned(model, facts, layers=(lowest, 3), epochs=epochs)
        return counts

    extra = [many - few for many, few in zip(runs(epochs=9), runs(epochs=4), strict=True)]
    assert extra == [5 if layer >= lowest else 0 for layer in range(zoo.LAYERS)]


@everywhere
def test_replayed_blocks_train_what_whole_passes_train(
    family: str, facts: tuple[EditRequest, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for whole in (False, True):
        if whole:
            monkeypatch.setattr(fine_tuning, "answer_passes", lambda model, pairs, _: whole_answer_passes(model, pairs))
        found.append(updates(tuned(zoo.tiny(family, dtype=torch.float64), facts, layers=(2,), dropout=0.0)))
    for name, update in found[0].items():
        torch.testing.assert_close(update.dense(), found[1][name].dense(), rtol=1e-5, atol=1e-8)


def test_dropout_is_of_the_seed_alone_and_does_not_ask_for_the_models_mode(facts: tuple[EditRequest, ...]) -> None:
    def right(seed: int = 0, dropout: float = 0.5, training: bool = False) -> list[torch.Tensor]:
        model = zoo.tiny("llama")
        model.module.train(training)
        edited = tuned(model, facts, seed=seed, dropout=dropout)
        assert model.module.training == training
        return [update.dense() for update in updates(edited).values()]

    def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
        return all(map(torch.equal, one, other))

    assert same(right(), right(training=True))
    assert not same(right(), right(dropout=0.0))
    assert not same(right(), right(seed=1))


def test_training_goes_on_to_the_end_unless_a_bound_is_set(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("gptj")
    free = {"epochs": 25, "step_size": 2e-2, "alpha": 24}
    record = tuned(model, facts[:1], **free).edits[0].record
    course = record["loss_by_epoch"]
    assert record["updates"] == len(course) == 25
    assert course[-1] < course[0] - 0.5
    bound = (course[0] + course[-1]) / 2
    bounded = tuned(model, facts[:1], **free, stop_below=bound)
    losses = bounded.edits[0].record["loss_by_epoch"]
    assert losses[-1] < bound <= min(losses[:-1])
    assert bounded.edits[0].record["updates"] == len(losses) - 1
    again = tuned(bounded, facts[:1], **free, stop_below=bound)
    assert again.edits[1].record["updates"] == 0
    assert again.edits[1].changes == ()


def test_an_edit_on_top_trains_adapters_of_its_own_on_the_edited_model(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("gpt2")
    first = tuned(model, facts[:1])
    second = tuned(first, facts[1:2])
    with first:
        wanted = float(likelihood(model, facts[1:2]).detach())
    assert second.edits[1].record["loss_by_epoch"][0] == pytest.approx(wanted, rel=1e-4)
    assert {update.left.shape[1] for update in updates(second).values()} == {3}
    assert second.edits[0] is first.edits[0]


def test_requests_share_steps_in_batches_of_the_given_size(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("gpt2")
    assert tuned(model, facts, epochs=2).edits[0].record["updates"] == 2
    assert tuned(model, facts, epochs=2, batch_size=2).edits[0].record["updates"] == 4


# ---- what changes, and what does not


@pytest.mark.parametrize("targets", [("attention",), ("mlp",), BOTH])
@everywhere
def test_only_the_named_matrices_change(family: str, targets: tuple[str, ...], facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny(family)
    before = {name: parameter.clone() for name, parameter in model.module.named_parameters()}
    with tuned(model, facts, targets=targets, layers=(0, 3)):
        changed = {name for name, tensor in model.module.named_parameters() if not torch.equal(tensor, before[name])}
    anatomy = model.anatomy
    wanted: list[Matrix] = []
    for layer in (0, 3):
        if "attention" in targets:
            wanted += anatomy.queries_and_values(layer)
        if "mlp" in targets:
            wanted += [*anatomy.up_projections(layer), anatomy.down_projection(layer)]
    assert changed == {matrix.name for matrix in wanted}


@pytest.mark.parametrize("layers", [(0,), (zoo.ENCODER_LAYERS,), (zoo.ENCODER_LAYERS - 1, zoo.ENCODER_LAYERS)])
def test_layers_of_an_encoder_come_first_and_those_of_the_decoder_behind(
    layers: tuple[int, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("t5", dtype=torch.float64)
    edited = tuned(model, facts, layers=layers, step_size=2e-2, epochs=10)
    stacks = ["encoder" if layer < zoo.ENCODER_LAYERS else "decoder" for layer in layers]
    assert list(dict.fromkeys(name.split(".")[0] for name in updates(edited))) == stacks
    course = edited.edits[0].record["loss_by_epoch"]
    with edited:
        assert float(likelihood(model, facts).detach()) < course[-1] < course[0]


def test_without_layers_all_blocks_are_adapted() -> None:
    model = zoo.tiny("gptj")
    found = [matrix.name for matrix in adapted_matrices(model, LoraSettings(targets=("mlp",)))]
    assert found == [f"transformer.h.{layer}.mlp.{part}.weight" for layer in range(4) for part in ("fc_in", "fc_out")]


@pytest.mark.parametrize(
    ("family", "row", "names"),
    [
        ("gpt2", PUBLISHED[0], ["c_attn"]),
        ("gptj", PUBLISHED[1], ["fc_in", "fc_out"]),
        ("llama", PUBLISHED[2], ["q_proj", "v_proj"]),
        ("qwen2", PUBLISHED[-1], ["q_proj", "v_proj"]),
    ],
)
def test_published_targets_are_the_matrices_that_the_source_names(family: str, row: Any, names: list[str]) -> None:
    assert row.family == family
    found = adapted_matrices(zoo.tiny(family), LoraSettings(layers=(2,), targets=row.values["targets"]))
    assert [matrix.name.split(".")[-2] for matrix in found] == names


def test_caching_checkpointing_and_modules_are_those_of_before(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("llama")
    module = model.module

    def flags() -> list[object]:
        return [
            module.config.to_dict(),
            module.generation_config.to_dict(),
            module.is_gradient_checkpointing,
            getattr(module, "supports_gradient_checkpointing", None),
            [(name, id(each)) for name, each in module.named_modules()],
            [name for name in module.__dict__ if not name.startswith("_")],
            [len(each._forward_hooks) for each in module.modules()],
        ]

    before = flags()
    edited = tuned(model, facts)
    assert flags() == before
    with edited:
        assert flags() == before
    assert module.config.use_cache


@pytest.mark.parametrize("after", [0, 2])
def test_a_training_that_breaks_down_is_refused_and_leaves_the_identical_model(
    after: int, facts: tuple[EditRequest, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = zoo.tiny("gpt2")
    first = tuned(model, facts[:1])
    first.activate()
    before, calls = model.weights.digest(), [0]
    modules = [id(each) for each in model.module.modules()]
    whole = fine_tuning.target_new_loss

    def broken(logits: torch.Tensor, targets: Any) -> torch.Tensor:
        calls[0] += 1
        return whole(logits, targets) * (1.0 if calls[0] <= after else float("nan"))

    monkeypatch.setattr(fine_tuning, "target_new_loss", broken)
    with pytest.raises(MethodRefused, match=f"lora gave up on .*: the loss became nan after {after} updates"):
        tuned(first, facts[1:])
    assert tuple(model.installed) == first.changes
    assert model.weights.digest() == before
    assert [id(each) for each in model.module.modules()] == modules
    model.weights.verify()


def test_an_interruption_in_the_middle_of_training_leaves_the_identical_model(
    facts: tuple[EditRequest, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = zoo.tiny("gpt2")
    modules = [id(each) for each in model.module.modules()]

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.Adam, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tuned(model, facts)
    assert [id(each) for each in model.module.modules()] == modules
    assert not any(each.requires_grad or each.grad is not None for each in model.module.parameters())
    model.weights.verify()


def test_no_epoch_is_no_change(facts: tuple[EditRequest, ...]) -> None:
    edited = tuned(zoo.tiny("gpt2"), facts, epochs=0)
    assert edited.edits[0].changes == ()
    assert edited.edits[0].record["loss_by_epoch"] == []


def test_the_record_tells_how_far_the_matrices_have_moved(facts: tuple[EditRequest, ...]) -> None:
    model = zoo.tiny("gpt2", dtype=torch.float64)
    edited = tuned(model, facts)
    moved = torch.cat([update.dense().flatten() for update in updates(edited).values()]).norm()
    whole = torch.cat([model.weights.pristine(name).flatten() for name in updates(edited)]).norm()
    assert edited.edits[0].record["relative_norm"] == pytest.approx(float(moved / whole))
    assert edited.edits[0].record["matrices"] == 6


# ---- settings and refusals


def test_without_the_package_the_method_is_listed_and_refuses_with_the_way_to_get_it(
    facts: tuple[EditRequest, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = zoo.tiny("gpt2")
    monkeypatch.setitem(sys.modules, "peft", None)
    method = create("lora", {}, model)
    with pytest.raises(MethodRefused, match=r"pip install 'editguard\[lora\]'"):
        method.prepare(model, Preparation())
    with pytest.raises(MethodRefused, match=r"pip install 'editguard\[lora\]'"):
        method.apply(EditedModel.original(model), facts)
    assert methods()["lora"].family == "added-parameters"


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        (("gpt2", 48, 1600, None, 6400), (("attention",), 30)),
        (("gptj", 28, 4096, None, 16384), (("mlp",), 50)),
        (("llama", 32, 4096, None, 11008), (("attention",), 70)),
        (("llama", 32, 4096, None, 14336), (("attention",), 70)),
        (("llama", 28, 3072, None, 8192), (("attention",), 70)),
        (("qwen2", 28, 3584, None, 18944), (("attention",), 60)),
        (("gpt2", 12, 768, None, 3072), (("attention",), 70)),
    ],
)
def test_published_values_hold_for_their_model(shape: Any, wanted: tuple[tuple[str, ...], int]) -> None:
    found = resolve("lora", Lora.recipe, {}, Shape(*shape))
    assert (found.settings.targets, found.settings.epochs) == wanted
    known = {(row.family, row.layers, row.d_model) for row in PUBLISHED}
    assert found.provenance["epochs"].startswith("published" if shape[:3] in known else "default")
    common = found.settings
    assert (common.layers, common.rank, common.alpha, common.dropout, common.step_size, common.stop_below) == (
        None,
        8,
        32,
        0.1,
        5e-3,
        None,
    )


def test_settings_may_be_written_as_text() -> None:
    model = zoo.tiny("gpt2")
    settings = create("lora", {"layers": "0,2", "targets": "mlp,attention", "stop_below": "1e-2"}, model).settings
    assert (settings.layers, settings.targets, settings.stop_below) == ((0, 2), ("mlp", "attention"), 0.01)
    assert create("lora", {"layers": "none"}, model).settings.layers is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": ()},
        {"layers": (1, 1)},
        {"layers": (-1,)},
        {"targets": ()},
        {"targets": ("mlp", "mlp")},
        {"rank": 0},
        {"alpha": 0},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"step_size": 0.0},
        {"epochs": -1},
        {"batch_size": 0},
        {"stop_below": -1.0},
    ],
)
def test_impossible_settings_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidSettings, match=next(iter(wrong))):
        LoraSettings(**wrong)


def test_unknown_targets_are_refused() -> None:
    with pytest.raises(InvalidSettings, match="targets"):
        create("lora", {"targets": "keys"}, zoo.tiny("gpt2"))
