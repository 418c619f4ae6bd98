"""The target vector of locate-then-edit methods: what a layer should put out at the subject for the answer to come.

Source: Meng et al. 2022 (ROME), section 3.1, equation 4, with the loss as the released code computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from editguard.edits import EditRequest
from editguard.methods.keys import SubjectRow, subject_row
from editguard.models.continuation import Passes, Row, continued
from editguard.models.hooks import capture

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel

Place = Literal["mlp", "block"]
"""Where the vector is added: to the down projection's output, or to the block's."""

MakePasses = Callable[["LanguageModel", Sequence[Row], int], Passes]


@dataclass(frozen=True, kw_only=True)
class ValueSettings:
    """How a target vector is found.

    Attributes:
        layer: the block whose output is optimised, counted from 0.
        place: see `Place`.
        steps: forward passes; one update fewer.
        step_size: Adam's learning rate, dimensionless.
        drift_weight: weight of the divergence (nats) that holds the subject's own next-token distribution.
        weight_decay: weight of ||delta|| / ||v0||^2.
        clamp_factor: the radius of delta's ball in units of ||v0||.
        stop_below: the loss (nats) at which an edit is done.
    """

    layer: int
    place: Place = "mlp"
    steps: int = 20
    step_size: float = 0.5
    drift_weight: float = 0.0625
    weight_decay: float = 0.5
    clamp_factor: float = 4.0
    stop_below: float = 0.05


@dataclass(frozen=True)
class ValueProblem:
    """One edit in tokens.

    Attributes:
        prompts: the prompt behind each prefix context; the first is the bare one.
        target: ids of the answer, as they follow the bare prompt.
        drift: the subject alone, read at its last token.
    """

    prompts: tuple[SubjectRow, ...]
    target: tuple[int, ...]
    drift: SubjectRow

    def rows(self) -> list[Row]:
        """The rows of the batch: prompts with the target but its last token, then the subject."""
        length = len(self.target)
        rows = []
        for prompt in self.prompts:
            ids = (*prompt.ids, *self.target[:-1])
            rows.append(Row(ids, prompt.end, tuple(range(len(ids) - length, len(ids)))))
        end = self.drift.end
        return [*rows, Row(self.drift.ids[: end + 1], end, (end,))]


@dataclass(frozen=True)
class OptimisedValue:
    """What the optimisation found for one edit.

    Attributes:
        value: v* = v0 + delta, (d_model,), at least float32.
        base: v0, the unedited vector of the bare prompt.
        loss, nll, drift: of the last forward pass, nats; `loss` includes the weighted terms.
        updates: how often delta was moved.
    """

    value: Tensor
    base: Tensor
    loss: float
    nll: float
    drift: float
    updates: int

    @property
    def delta(self) -> Tensor:
        """v* - v0, (d_model,)."""
        return self.value - self.base


def value_problem(model: LanguageModel, request: EditRequest, contexts: Sequence[str]) -> ValueProblem:
    """Return the request in tokens; `contexts` are prefix contexts, the empty one first."""
    _, target = model.encode_answer(request.text, request.target)
    essence = EditRequest(prompt="{} is a", subject=request.subject, target=request.target)
    return ValueProblem(
        prompts=tuple(subject_row(model, request, context) for context in contexts),
        target=tuple(target),
        drift=subject_row(model, essence),
    )


@dataclass(frozen=True)
class Objective:
    """The loss of several edits at once, as a function of their vectors.

    Attributes:
        passes: the model on the rows of all edits.
        module: where the vectors are added.
        edit_of_row: (rows,) which edit a row belongs to.
        target_reads: which of the reads are labelled, with `labels` (token ids), `edit_of_label` and `share`
            (1 / (prompts x target tokens) of the label's edit).
        drift_reads: (edits,) the read of each edit's subject row.
    """

    passes: Passes
    module: nn.Module
    edit_of_row: Tensor
    target_reads: Tensor
    labels: Tensor
    edit_of_label: Tensor
    share: Tensor
    drift_reads: Tensor

    def forward(self, deltas: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the NLL (edits,) in nats and the subjects' log distributions (edits, vocabulary)."""
        with ExitStack() as hooks:
            if deltas is not None:
                vectors = deltas[self.edit_of_row.to(deltas.device)]
                hooks.enter_context(self.passes.added(self.module, vectors))
            log_probs = self.passes.logits().log_softmax(-1)
        labels = self.labels.to(log_probs.device)
        picked = log_probs[self.target_reads.to(log_probs.device), labels]
        nll = torch.zeros(len(self.drift_reads), dtype=log_probs.dtype, device=log_probs.device)
        nll = nll.index_add(0, self.edit_of_label.to(nll.device), -picked * self.share.to(picked))
        return nll, log_probs[self.drift_reads.to(log_probs.device)]

    def base(self, first_rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return v0 (edits, d_model) at the edits' first rows, and the subjects' log distributions."""
        with torch.no_grad(), capture(self.module) as captured:
            _, before = self.forward(None)
        vectors = self.passes.at_start(captured.value)[first_rows.to(captured.value.device)]
        return vectors.to(torch.promote_types(vectors.dtype, torch.float32)), before


def objective(
    model: LanguageModel,
    problems: Sequence[ValueProblem],
    layer: int,
    place: Place,
    make_passes: MakePasses = continued,
) -> tuple[Objective, Tensor]:
    """Return the objective of several edits, and the number (edits,) of each edit's bare row."""
    rows: list[Row] = []
    edit_of_row: list[int] = []
    first_rows: list[int] = []
    target_reads: list[int] = []
    labels: list[int] = []
    edit_of_label: list[int] = []
    share: list[float] = []
    drift_reads: list[int] = []
    reads = 0
    for edit, problem in enumerate(problems):
        first_rows.append(len(rows))
        length, prompts = len(problem.target), len(problem.prompts)
        count = length * prompts
        target_reads += range(reads, reads + count)
        labels += problem.target * prompts
        edit_of_label += [edit] * count
        share += [1 / count] * count
        drift_reads.append(reads + count)
        reads += count + 1
        edit_of_row += [edit] * (prompts + 1)
        rows += problem.rows()
    module = model.anatomy.down_projection(layer).module if place == "mlp" else model.anatomy.block(layer)
    return (
        Objective(
            passes=make_passes(model, rows, layer),
            module=module,
            edit_of_row=torch.tensor(edit_of_row),
            target_reads=torch.tensor(target_reads),
            labels=torch.tensor(labels),
            edit_of_label=torch.tensor(edit_of_label),
            share=torch.tensor(share, dtype=torch.float64),
            drift_reads=torch.tensor(drift_reads),
        ),
        torch.tensor(first_rows),
    )


def drift(now: Tensor, before: Tensor) -> Tensor:
    """D_KL(now || before) in nats from log distributions (edits, vocabulary); returns (edits,)."""
    divergence: Tensor = (now.exp() * (now - before)).sum(-1)
    return divergence


def penalty(deltas: Tensor, base: Tensor) -> Tensor:
    """||delta|| / ||v0||^2 for each edit, both (edits, d_model); its gradient at delta = 0 is zero."""
    length: Tensor = torch.linalg.vector_norm(deltas, dim=-1)
    reference: Tensor = torch.linalg.vector_norm(base, dim=-1)
    return length / reference.square()


def clamped(delta: Tensor, base: Tensor, factor: float) -> Tensor:
    """Return delta (d_model,) projected on the ball of radius factor x ||v0||."""
    radius = factor * base.norm()
    length = delta.norm()
    return delta * (radius / length) if length > radius else delta


def optimise_values(
    model: LanguageModel,
    problems: Sequence[ValueProblem],
    settings: ValueSettings,
    *,
    make_passes: MakePasses = continued,
) -> list[OptimisedValue]:
    """Find the target vector of every edit; the edits share passes and nothing else.

    An edit whose loss has fallen below the bound is finished: its vector and its optimiser's moments rest while the
    others go on. No parameter's gradient flag or gradient is touched.
    """
    target, first_rows = objective(model, problems, settings.layer, settings.place, make_passes)
    base, before = target.base(first_rows)
    deltas = [nn.Parameter(torch.zeros_like(vector)) for vector in base]
    optimiser = torch.optim.Adam(deltas, lr=settings.step_size)
    updates = [0] * len(problems)
    found: dict[int, tuple[float, float, float]] = {}
    for step in range(settings.steps):
        with torch.enable_grad():
            stacked = torch.stack(list(deltas))
            nll, now = target.forward(stacked)
            divergence = drift(now, before)
            loss = (
                nll + settings.drift_weight * divergence + settings.weight_decay * penalty(stacked, base).to(nll.device)
            )
            figures = torch.stack([loss, nll, divergence]).detach().cpu()
            running = [edit for edit in range(len(problems)) if edit not in found]
            for edit in running:
                if figures[0, edit] < settings.stop_below or step == settings.steps - 1:
                    found[edit] = (float(figures[0, edit]), float(figures[1, edit]), float(figures[2, edit]))
            running = [edit for edit in running if edit not in found]
            if not running:
                break
            gradients = torch.autograd.grad(loss.sum(), [deltas[edit] for edit in running])
        for edit, gradient in zip(running, gradients, strict=True):
            deltas[edit].grad = gradient
            updates[edit] += 1
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            for edit in running:
                deltas[edit].copy_(clamped(deltas[edit], base[edit], settings.clamp_factor))
    return [
        OptimisedValue(base[edit] + deltas[edit].detach(), base[edit], *found[edit], updates[edit])
        for edit in range(len(problems))
    ]
