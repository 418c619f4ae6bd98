"""The search for a vector that, put in the place of a matrix's output, makes the answer come.

Many values are trained together. They share forward passes and nothing else: each has moments of Adam, a count of
updates and an end of its own. Only what the vector can reach runs: blocks from its layer on, and, where it stands at
the prompt's last token, positions from there on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editguard.edited.codebook import Replacement, replaced_places
from editguard.methods.value_optimisation import Moments
from editguard.models.answer_passes import AnswerPasses, answer_passes
from editguard.models.continuation import Continuation, FullForward, Row, continued
from editguard.models.hooks import replaced
from editguard.models.reading import Reading

if TYPE_CHECKING:
    from editguard.models.anatomy import Matrix
    from editguard.models.language_model import LanguageModel


@dataclass(frozen=True, eq=False)
class ValueTask:
    """One value to train.

    Attributes:
        value: where training starts, (d_out,), at least float32.
        label: token ids of the answer.
        prompts: token ids of the prompts that it has to answer, at least one.
    """

    value: Tensor
    label: tuple[int, ...]
    prompts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class TrainedValue:
    """What came of it.

    Attributes:
        value: (d_out,), as `ValueTask.value`.
        updates: how often it was moved.
        loss: negative log-likelihood of the answer (nats per token), averaged over the prompts.
        margins: for each prompt, by how much the answer's tokens are likelier than any other, at the worst of them;
            where it is positive, the prompt is answered.
    """

    value: Tensor
    updates: int
    loss: float
    margins: tuple[float, ...]


def margins(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Return by how much each label (reads,) is likelier than any other token; log_probs: (reads, vocabulary)."""
    wanted = labels[:, None]
    others = log_probs.scatter(1, wanted, -torch.inf).amax(dim=1)
    return log_probs.gather(1, wanted)[:, 0].exp() - others.exp()


def train_values(
    model: LanguageModel,
    matrix: Matrix,
    tasks: Sequence[ValueTask],
    *,
    layer: int,
    replacement: Replacement,
    steps: int,
    step_size: float,
    stop_margin: float | None,
) -> list[TrainedValue]:
    """Train each task's value by Adam, until its answers are safe or the steps are spent.

    Args:
        matrix: whose output the values replace, in block `layer`.
        replacement: at which tokens.
        stop_margin: a value is done once all its margins reach this; None makes all the steps.

    Raises: FloatingPointError: a loss or gradient became infinite or undefined.
    """

    def run(batch: list[int]) -> list[TrainedValue]:
        courses = [_Course.begun(tasks[index]) for index in batch]
        going = courses
        while going:
            _advance(model, matrix, going, layer, replacement, steps, step_size, stop_margin)
            going = [course for course in going if course.result is None]
        return [course.result for course in courses if course.result is not None]

    return model.in_batches([max(map(len, task.prompts)) + len(task.label) for task in tasks], run)


@dataclass(eq=False)
class _Course:
    """The training of one value on its way."""

    task: ValueTask
    value: Tensor
    first: Tensor
    second: Tensor
    updates: int = 0
    result: TrainedValue | None = None

    @classmethod
    def begun(cls, task: ValueTask) -> _Course:
        zeros = torch.zeros_like(task.value)
        return cls(task, task.value, zeros, zeros)

    def met(self, loss: float, found: tuple[float, ...], steps: int, stop_margin: float | None) -> None:
        """Take in what a forward pass has shown."""
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss of a value became {loss} after {self.updates} updates")
        safe = stop_margin is not None and min(found) >= stop_margin
        if safe or self.updates == steps:
            self.result = TrainedValue(self.value.clone(), self.updates, loss, found)  # not a view of the batch's


def _advance(
    model: LanguageModel,
    matrix: Matrix,
    courses: Sequence[_Course],
    layer: int,
    replacement: Replacement,
    steps: int,
    step_size: float,
    stop_margin: float | None,
) -> None:
    """Run a group until half of it, or all, has a result."""
    batch = _Batch(model, matrix, [course.task for course in courses], layer, replacement)
    running = list(courses)
    while 2 * len(running) > len(courses):
        with torch.enable_grad():
            values = torch.stack([course.value for course in courses]).requires_grad_()
            losses, found = batch.evaluate(values)
            for course, loss, shown in zip(courses, losses.tolist(), found, strict=True):
                if course.result is None:
                    course.met(loss, shown, steps, stop_margin)
            places = [place for place, course in enumerate(courses) if course.result is None]
            running = [courses[place] for place in places]
            if not running:
                return
            [gradients] = torch.autograd.grad(losses[places].sum(), [values])
        if not gradients[places].isfinite().all():
            raise FloatingPointError("the gradient of a value became infinite or undefined")
        moments = Moments(
            torch.stack([course.first for course in running]),
            torch.stack([course.second for course in running]),
            torch.tensor([course.updates for course in running], dtype=values.dtype, device=values.device),
        ).updated(gradients[places])
        moved = values.detach()[places] - step_size * moments.direction()
        for number, course in enumerate(running):
            course.value, course.first, course.second = moved[number], moments.first[number], moments.second[number]
            course.updates += 1


class _Batch:
    """The prompts of several tasks as rows of one pass."""

    def __init__(
        self,
        model: LanguageModel,
        matrix: Matrix,
        tasks: Sequence[ValueTask],
        layer: int,
        replacement: Replacement,
    ) -> None:
        self._module = matrix.module
        pairs = [(task, prompt) for task in tasks for prompt in task.prompts]
        prompts = [prompt for _, prompt in pairs]
        self._counts = [len(task.prompts) for task in tasks]
        self._lengths = [len(task.label) for task, _ in pairs]
        self._labels = torch.tensor([token for task, _ in pairs for token in task.label])
        self._task_of_row = torch.tensor([place for place, task in enumerate(tasks) for _ in task.prompts])
        self._replacement = replacement
        self._ends = torch.tensor([len(prompt) - 1 for prompt in prompts])
        self._passes: Continuation | FullForward | AnswerPasses
        if replacement == "replace_last" and not model.anatomy.encoder_layers:
            self._passes = continued(model, [_row(prompt, task.label) for task, prompt in pairs], layer)
        else:
            self._passes = answer_passes(model, [(prompt, task.label) for task, prompt in pairs], layer)

    def evaluate(self, values: Tensor) -> tuple[Tensor, list[tuple[float, ...]]]:
        """Return the loss of each task (tasks,), and its prompts' margins, with the values (tasks, d_out) in place."""
        by_row = values[self._task_of_row.to(values.device)]

        def change(output: Tensor) -> Tensor:
            grid = output.reshape(len(by_row), -1, output.shape[-1])
            places = self._places(grid.shape[1]).to(grid.device)
            return torch.where(places[..., None], by_row.to(grid)[:, None], grid).reshape(output.shape)

        with replaced(self._module, change):
            log_probs = self._passes.logits().log_softmax(-1)
        labels = self._labels.to(log_probs.device)
        likelihoods = log_probs.gather(1, labels[:, None])[:, 0]
        by_prompt = torch.stack([-part.mean() for part in torch.split(likelihoods, self._lengths)])
        losses = torch.stack([part.mean() for part in torch.split(by_prompt, self._counts)])
        worst = [part.min() for part in torch.split(margins(log_probs.detach(), labels), self._lengths)]
        found = torch.stack(worst).tolist()
        return losses, [tuple(found.pop(0) for _ in range(count)) for count in self._counts]

    def _places(self, columns: int) -> Tensor:
        """Which outputs (rows, columns) of the pass are replaced."""
        place = torch.arange(columns).expand(len(self._ends), -1)
        if self._replacement == "replace_last" and isinstance(self._passes, Continuation | FullForward):
            return place == self._passes.at_start(place[..., None])  # its columns may be counted from the starts
        places = replaced_places(Reading(place <= self._ends[:, None]), columns, self._replacement)
        assert places is not None  # the pass holds the prompts
        return places


def _row(prompt: Sequence[int], label: Sequence[int]) -> Row:
    """Prompt and answer for a decoder alone, where nothing changes before the prompt's last token."""
    end = len(prompt) - 1
    return Row((*prompt, *label[:-1]), end, tuple(range(end, end + len(label))))
