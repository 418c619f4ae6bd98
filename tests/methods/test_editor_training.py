"""The training job: the same bytes however often it is killed, and nothing undefined ever gets into the editor."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer, RMSprop

from editguard.errors import CacheError, InvalidSettings, MethodRefused
from editguard.methods.editor_store import EditorFiles, Identity
from editguard.methods.editor_training import (
    SAVE_SECONDS,
    SKIPPED_IN_A_ROW,
    JobSettings,
    TrainingDiverged,
    Validation,
    activations_measured,
    train,
)

SETTINGS = JobSettings(
    steps=12, edits_per_step=6, edits_per_pass=2, validate_every=3, validation_edits=1, patience=None
)
IDENTITY = Identity(method="toy", code=1, model="m", matrices={}, settings={}, data="d", seed=0)


def silent(line: str) -> None:
    del line


class Toy:
    """Learns to answer a constant; each draw's loss has a target of its own, so that the order of draws matters."""

    method = "toy"

    def __init__(self, optimiser: Callable[..., Optimizer] = Adam, **changes: Any) -> None:
        self.module = nn.Linear(2, 2)
        self.base = nn.Linear(4, 4)
        with torch.no_grad():
            self.module.weight.copy_(torch.tensor([[1.0, -2.0], [0.5, 3.0]]))
            self.module.bias.zero_()
        self.module.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.optimiser, self.changes = optimiser, changes
        self.calls: list[tuple[int, int]] = []
        self.rates: list[float] = []
        self.begun = self.stops = 0
        self.values: list[float] = []

    def optimisers(self) -> dict[str, Optimizer]:
        return {
            "weight": self.optimiser([self.module.weight], lr=0.1),
            "bias": SGD([self.module.bias], lr=0.01, momentum=0.9),
        }

    def begin(self) -> None:
        self.begun += 1
        self.module.seen += 100

    def losses(self, start: int, count: int) -> tuple[Tensor, Mapping[str, float]]:
        self.calls.append((start, count))
        if len(self.calls) == self.changes.get("dies_at"):
            raise KeyboardInterrupt
        self.module.seen += count
        losses = []
        for number in range(start, start + count):
            target = torch.tensor([float(number % 5), 1.0])
            loss = ((self.module(torch.tensor([1.0, float(number % 3)])) - target) ** 2).sum()
            if number in self.changes.get("steep", ()):
                loss = loss + (0.0 * loss).sqrt()  # the root of nothing has an infinite slope and no loss of its own
            losses.append(loss * self.changes.get("broken", {}).get(number, 1.0))
        loss = torch.stack(losses).mean()
        return loss, {"loss": float(loss.detach())}

    def step_scale(self, step: int) -> float:
        return self.changes["scale"](step) if "scale" in self.changes else 1.0

    def stepped(self) -> None:
        self.rates.append(float(self.module.weight.detach()[0, 0]))

    def validate(self) -> Validation:
        values = self.changes.get("values")
        value = values[len(self.values)] if values else float(self.module.weight.detach().abs().sum())
        self.values.append(value)
        return Validation(value, {"loss": value})

    def validated(self, validation: Validation) -> None:
        self.stops += 1


def state_of(toy: Toy) -> dict[str, list[float]]:
    return {name: tensor.tolist() for name, tensor in toy.module.state_dict().items()}


@pytest.mark.parametrize("optimiser", [Adam, RMSprop])
@pytest.mark.parametrize("dies_at", [1, 2, 8, 9, 17, 35])
def test_a_killed_training_ends_with_the_bytes_of_one_that_was_not(
    optimiser: Callable[..., Optimizer], dies_at: int, tmp_path: Path
) -> None:
    files = {name: EditorFiles(tmp_path, name, IDENTITY) for name in ("whole", "killed")}
    whole = Toy(optimiser)
    outcome = train(whole, SETTINGS, files=files["whole"], told=silent)
    for calls in (dies_at, 2):
        with pytest.raises(KeyboardInterrupt):
            train(Toy(optimiser, dies_at=calls), SETTINGS, files=files["killed"], told=silent)
    last = Toy(optimiser)
    again = train(last, SETTINGS, files=files["killed"], told=silent)
    assert last.begun == (dies_at <= 9)  # three passes a step, a checkpoint every three steps
    assert state_of(last) == state_of(whole)
    for name, tensor in outcome.state.items():
        assert torch.equal(again.state[name], tensor)
    assert again.record["history"] == outcome.record["history"]
    for name, each in (("whole", outcome), ("killed", again)):
        files[name].store(each.state, {})
    assert files["whole"].editor.read_bytes() == files["killed"].editor.read_bytes()
    assert not list(tmp_path.glob("*.unfinished"))


def test_checkpoints_are_also_kept_by_the_clock(tmp_path: Path) -> None:
    files = EditorFiles(tmp_path, "toy", IDENTITY)
    times = iter(range(0, 100_000, int(SAVE_SECONDS) + 1))
    with pytest.raises(KeyboardInterrupt):
        train(Toy(dies_at=7), SETTINGS, files=files, told=silent, clock=lambda: float(next(times)))
    kept = files.load_checkpoint()
    assert kept is not None
    assert kept[1]["step"] == 2


def test_a_training_that_was_killed_after_its_last_step_needs_no_other(tmp_path: Path) -> None:
    files = EditorFiles(tmp_path, "toy", IDENTITY)
    first = train(Toy(), SETTINGS, files=files, told=silent)
    late = Toy()
    again = train(late, SETTINGS, files=files, told=silent)
    assert late.calls == []
    assert all(torch.equal(again.state[name], tensor) for name, tensor in first.state.items())


def test_a_step_is_the_mean_over_its_edits_however_they_are_split_into_passes() -> None:
    states = []
    for size in (1, 2, 4, 6):
        toy = Toy()
        train(toy, replace(SETTINGS, edits_per_pass=size), told=silent)
        states.append(toy.module.weight.detach())
        assert sum(count for _, count in toy.calls) == 12 * 6
    for state in states[1:]:
        torch.testing.assert_close(state, states[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [*({"broken": {2: factor}} for factor in (float("nan"), float("inf"), -float("inf"))), {"steep": (2,)}],
    ids=str,
)
def test_a_pass_with_an_undefined_loss_or_gradient_is_left_out_of_its_step(change: dict[str, Any]) -> None:
    """The first step's gradient is the mean over the other passes, as plain gradient descent shows."""
    settings = replace(SETTINGS, steps=1, validate_every=1)
    broken = Toy(SGD, **change)
    record = train(broken, settings, told=silent).record
    sound = Toy(SGD)
    before = sound.module.weight.detach().clone()
    parts = [torch.autograd.grad(sound.losses(start, 2)[0], [sound.module.weight])[0] for start in (0, 4)]
    torch.testing.assert_close(broken.module.weight.detach(), before - 0.1 * (parts[0] + parts[1]) / 2)
    assert record["skipped_passes"] == 1


def test_a_step_without_a_sound_pass_changes_nothing() -> None:
    broken = Toy(broken={number: float("nan") for number in range(6)})
    before = state_of(broken)["weight"]
    train(broken, replace(SETTINGS, steps=1, validate_every=1), told=silent)
    assert state_of(broken)["weight"] == before
    assert broken.rates == []


def test_undefined_gradients_again_and_again_end_the_training_and_the_last_checkpoint_is_kept(tmp_path: Path) -> None:
    files = EditorFiles(tmp_path, "toy", IDENTITY)
    toy = Toy(broken={number: float("nan") for number in range(5 * 6, 1000)})
    with pytest.raises(TrainingDiverged, match=rf"at step 8; the last checkpoint is kept in {files}") as diverged:
        train(toy, replace(SETTINGS, steps=50, validate_every=5), files=files, told=silent)
    assert "smaller step_size" in str(diverged.value)
    kept = files.load_checkpoint()
    assert kept is not None
    assert kept[1]["step"] == 5
    assert all(tensor.isfinite().all() for tensor in kept[0].values())
    assert len(toy.calls) == 5 * 3 + SKIPPED_IN_A_ROW


def test_single_undefined_gradients_never_add_up_to_an_end() -> None:
    toy = Toy(broken=dict.fromkeys(range(0, 1000, 4), float("nan")))
    record = train(toy, replace(SETTINGS, steps=40), told=silent).record
    assert record["skipped_passes"] > 2 * SKIPPED_IN_A_ROW
    assert record["steps"] == 40


def test_the_state_that_validates_best_is_returned_and_patience_ends_the_training() -> None:
    values = [5.0, 4.0, 1.0, 2.0, float("nan"), 0.5]
    toy = Toy(values=values)
    states = {}
    trained = train(toy, replace(SETTINGS, steps=60, patience=6), told=silent)
    reference = Toy(values=values)
    for steps in (3, 6):
        states[steps] = train(reference, replace(SETTINGS, steps=6), told=silent).state
        reference = Toy(values=values)
    assert trained.record["best_step"] == 6
    assert trained.record["steps"] == 12
    assert trained.record["ended_by"] == "patience"
    assert torch.equal(trained.state["weight"], states[6]["weight"])
    assert [line["step"] for line in trained.record["history"]] == [0, 3, 6, 9, 12]
    assert toy.stops == 4  # the untrained state's validation is not one of the training


def test_the_untrained_state_is_returned_where_training_makes_it_worse() -> None:
    toy = Toy(values=[0.0, 1.0, 1.0, 1.0, 1.0])
    before = state_of(toy)["weight"]
    trained = train(toy, SETTINGS, told=silent)
    assert trained.state["weight"].tolist() == before
    assert trained.record["best_step"] == 0


def test_long_gradients_are_scaled_down_to_the_clip_all_parameters_together() -> None:
    settings = replace(SETTINGS, steps=1, validate_every=1, edits_per_pass=6)
    free, clipped = Toy(SGD), Toy(SGD)
    start = {name: tensor.clone() for name, tensor in free.module.state_dict().items()}
    train(free, settings, told=silent)
    train(clipped, replace(settings, gradient_clip=0.5), told=silent)
    rates = {"weight": 0.1, "bias": 0.01}
    gradients = {
        toy: {name: (start[name] - toy.module.state_dict()[name]) / rate for name, rate in rates.items()}
        for toy in (free, clipped)
    }
    norm = torch.cat([each.flatten() for each in gradients[free].values()]).norm()
    assert norm > 1
    for name in rates:
        torch.testing.assert_close(gradients[clipped][name], gradients[free][name] * 0.5 / norm, rtol=1e-3, atol=1e-4)


def test_step_sizes_follow_the_scale_of_their_step_also_after_going_on(tmp_path: Path) -> None:
    def scale(step: int) -> float:
        return float(step % 2)

    toy = Toy(SGD, scale=scale)
    train(toy, replace(SETTINGS, steps=4), told=silent)
    assert toy.rates[0] == 1.0  # a scale of zero, from the weight 1
    assert toy.rates[1] != toy.rates[0]
    assert toy.rates[2] == toy.rates[1]
    files = EditorFiles(tmp_path, "toy", IDENTITY)
    with pytest.raises(KeyboardInterrupt):
        train(Toy(SGD, scale=scale, dies_at=11), replace(SETTINGS, steps=4), files=files, told=silent)
    later = Toy(SGD, scale=scale)
    train(later, replace(SETTINGS, steps=4), files=files, told=silent)
    assert state_of(later) == state_of(toy)


def test_nothing_is_left_on_the_parameters_and_the_draws_are_counted_through() -> None:
    toy = Toy()
    train(toy, SETTINGS, told=silent)
    assert all(parameter.grad is None for parameter in toy.module.parameters())
    assert toy.calls == [(start, 2) for start in range(0, 72, 2)]
    assert int(toy.module.seen) == 100 + 72


def test_progress_says_how_far_it_is_how_well_it_goes_and_how_long_it_takes() -> None:
    lines: list[str] = []
    times = iter(range(0, 10_000, 2))
    train(Toy(), SETTINGS, told=lines.append, clock=lambda: float(next(times)))
    assert any("validation at step 3: loss" in line for line in lines)
    between = [line for line in lines if "edits/s" in line]
    assert between
    assert all(line.startswith("toy: training, step ") and "of 12, loss" in line for line in between)


def test_the_record_says_what_memory_the_parts_take() -> None:
    memory = train(Toy(), SETTINGS, told=silent).record["memory_bytes"]
    assert memory["base"] == 4 * (16 + 4)
    assert memory["editor"] == 4 * (4 + 2) + 8
    assert memory["optimiser"] == 4 * (4 * 2 + 2 + 1) + 4 * (4 + 2)  # Adam's moments and step, a momentum, gradients
    assert 0 < memory["activations"] < 1000


def test_activations_are_what_is_kept_at_once_each_storage_counted_once() -> None:
    weight = torch.ones(10, requires_grad=True)
    with activations_measured({weight.untyped_storage().data_ptr()}) as held:
        first = (weight * torch.ones(10)).exp()  # the exponential is kept, and the ones
        second = first * first  # first again
        assert held.most == 40 + 40
        torch.autograd.grad(second.sum(), [weight])
        del first, second
        torch.autograd.grad((weight * torch.ones(10)).sum(), [weight])
    assert held.most == 80


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("edits_per_step", 0),
        ("edits_per_pass", -1),
        ("validate_every", 0),
        ("validation_edits", 0),
        ("gradient_clip", 0.0),
        ("patience", 0),
    ],
)
def test_impossible_settings_are_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidSettings, match=name):
        replace(SETTINGS, **{name: value})


def test_too_little_memory_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Toy()

    def short(*_: int) -> tuple[Tensor, Mapping[str, float]]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(toy, "losses", short)
    with pytest.raises(MethodRefused, match="edits_per_pass = 2: set it lower"):
        train(toy, SETTINGS, told=silent)


def test_a_damaged_checkpoint_is_one_clear_error(tmp_path: Path) -> None:
    files = EditorFiles(tmp_path, "toy", IDENTITY)
    with pytest.raises(KeyboardInterrupt):
        train(Toy(dies_at=20), SETTINGS, files=files, told=silent)
    path = Path(str(files))
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CacheError, match=r"unfinished training .*toy\.unfinished is damaged .*remove it"):
        train(Toy(), SETTINGS, files=files, told=silent)
