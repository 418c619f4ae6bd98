"""The loop that fine-tuning and LoRA share, on losses that can be worked out by hand."""

import pytest
import torch
from torch import nn

from editguard.methods.batch_training import Course, descend


def bowl(point: nn.Parameter, centre: float):
    """A loss of (point - centre)^2."""
    return lambda: ((point - centre) ** 2).sum()


def test_the_losses_take_turns_and_the_mean_of_a_round_is_kept() -> None:
    point = nn.Parameter(torch.zeros(1))
    course = descend([point], [bowl(point, 1.0), bowl(point, -1.0)], step_size=0.1, epochs=1, stop_below=None)
    # The first step goes 0.1 towards 1, so that the second loss is 1.1^2.
    assert course.loss_by_epoch == (pytest.approx((1 + 1.21) / 2),)
    assert course.updates == 2


def test_without_a_bound_even_a_loss_of_zero_makes_steps_and_with_one_it_ends() -> None:
    point = nn.Parameter(torch.ones(1))
    assert descend([point], [bowl(point, 1.0)], step_size=0.1, epochs=7, stop_below=None).updates == 7
    course = descend([point], [bowl(point, 1.0)], step_size=0.1, epochs=7, stop_below=1e-3)
    assert course == Course((0.0,), 0)


def test_a_batch_below_the_bound_makes_no_step_while_another_is_above() -> None:
    done, open_ = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))
    losses = [lambda: bowl(done, 1.01)() + 0 * open_.sum(), lambda: bowl(open_, 1.0)() + 0 * done.sum()]
    course = descend([done, open_], losses, step_size=0.1, epochs=2, stop_below=0.01)
    assert course.updates == 2
    assert float(open_.detach()) == pytest.approx(0.2, abs=1e-3)
    assert float(done.detach()) == 1.0


def test_no_other_parameter_gets_a_gradient_and_what_follows_a_step_is_done_behind_each() -> None:
    point, frozen = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))
    steps: list[float] = []
    descend(
        [point],
        [lambda: ((point * frozen - 1) ** 2).sum()],
        step_size=0.1,
        epochs=3,
        stop_below=None,
        after_step=lambda: steps.append(float(point.detach()[0])),
    )
    assert frozen.grad is None
    assert torch.equal(frozen, torch.ones(2))
    assert steps == pytest.approx([0.1, 0.2, 0.3], abs=1e-2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_training_before_its_step(bad: float) -> None:
    point, calls = nn.Parameter(torch.zeros(1)), [0]

    def loss() -> torch.Tensor:
        calls[0] += 1
        return (point - 1).square().sum() * (bad if calls[0] == 3 else 1.0)

    with pytest.raises(FloatingPointError, match="after 2 updates"):
        descend([point], [loss], step_size=0.1, epochs=5, stop_below=None)
    assert float(point.detach()) == pytest.approx(0.2, abs=1e-2)


def test_a_gradient_that_is_no_number_ends_it_too() -> None:
    point = nn.Parameter(torch.zeros(1))
    with pytest.raises(FloatingPointError, match="gradient became infinite or undefined after 0 updates"):
        descend([point], [lambda: (0 * point).sqrt().sum()], step_size=0.1, epochs=1, stop_below=None)
    assert float(point.detach()) == 0.0


def test_nothing_to_train_on_is_no_step() -> None:
    assert descend([nn.Parameter(torch.zeros(1))], [], step_size=0.1, epochs=5, stop_below=None) == Course((), 0)
