"""Training on the requests of a batch: the frame and the loop of the methods that descend the gradient of a loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from editguard.edited import AppliedEdit, EditedModel, stack_kept
from editguard.edits import EditRequest, first_mentions, refuse_conflicts
from editguard.errors import MethodRefused
from editguard.methods.already_true import already_true, warn_already_true

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from editguard.models.language_model import Change


@dataclass(frozen=True)
class Course:
    """What a training did.

    Attributes:
        loss_by_epoch: mean of the batches' losses (nats) before their steps.
        updates: steps of the optimiser.
    """

    loss_by_epoch: tuple[float, ...]
    updates: int


Trained = tuple[Sequence["Change"], Course, dict[str, Any]]
"""What a training leaves behind, what it did, and figures for the record."""


@dataclass(frozen=True)
class BatchOutcome:
    """What a method made of a batch.

    Attributes:
        changes: what it leaves behind; nothing where nothing was to do.
        figures: for the record.
        by_request: further figures for the record's lines, by the request they belong to.
    """

    changes: tuple[Change, ...]
    figures: Mapping[str, Any]
    by_request: Mapping[EditRequest, Mapping[str, Any]] = field(default_factory=dict)


def edited_as_batch(
    name: str,
    edited: EditedModel,
    requests: Sequence[EditRequest],
    settings: DataclassInstance,
    provenance: Mapping[str, str],
    edit: Callable[[Mapping[EditRequest, bool]], BatchOutcome],
) -> EditedModel:
    """Return `edited` with what a method makes of the requests, all of them together, as one applied edit on top.

    Identical requests count once, and those that are the model's answer already are reported.

    Args:
        name: the method's registered name.
        settings, provenance: for the record.
        edit: gets the requests, none of which repeats another, in their order, each with whether it is true already;
            the model is as edited so far. It raises FloatingPointError when it breaks down.

    Raises: ConflictingEdits: two requests want different targets for one fact. MethodRefused: the edit broke down; then
        nothing has changed.
    """
    if not requests:
        return edited
    refuse_conflicts(requests)
    started = time.perf_counter()
    model = edited.model
    first_mention = first_mentions(requests)
    unique = [requests[position] for position in sorted(set(first_mention))]
    with stack_kept(model):
        edited.activate()
        true = dict(zip(unique, already_true(model, unique), strict=True))
        try:
            outcome = edit(true)
        except FloatingPointError as failure:
            raise MethodRefused(
                f"{name} gave up on {_named(requests)}: {failure}. Nothing was changed; use a smaller step_size, or "
                "load the model in a wider type."
            ) from failure
    warn_already_true(name, [request.statement for request in unique if true[request]])
    record = {
        **outcome.figures,
        "settings": asdict(settings),
        "provenance": dict(provenance),
        "requests": [
            {
                "request": request.statement,
                "duplicate_of": first if first != position else None,
                "already_true": true[requests[first]],
                **outcome.by_request.get(requests[first], {}),
            }
            for position, (request, first) in enumerate(zip(requests, first_mention, strict=True))
        ],
    }
    seconds = time.perf_counter() - started
    return edited.extended(AppliedEdit(name, tuple(requests), outcome.changes, record, seconds))


def trained_on_batch(
    name: str,
    edited: EditedModel,
    requests: Sequence[EditRequest],
    settings: DataclassInstance,
    provenance: Mapping[str, str],
    train: Callable[[Sequence[EditRequest]], Trained],
) -> EditedModel:
    """Return `edited` with the requests trained in on top, as one edit; it changes nothing where no step was needed.

    Identical requests count once. What is the model's answer already is trained on beside the others, which might
    undo it; where all of them are, nothing changes.

    Args:
        name: the method's registered name.
        settings, provenance: for the record.
        train: what the method makes of requests, none of which repeats another and which may be none, on the model as
            edited so far. It raises FloatingPointError when it breaks down.

    Raises: ConflictingEdits: two requests want different targets for one fact. MethodRefused: the training broke
        down; then nothing has changed.
    """

    def edit(true: Mapping[EditRequest, bool]) -> BatchOutcome:
        found, course, figures = train([] if all(true.values()) else list(true))
        changes = tuple(found) if course.updates else ()
        return BatchOutcome(
            changes, {"loss_by_epoch": list(course.loss_by_epoch), "updates": course.updates, **figures}
        )

    return edited_as_batch(name, edited, requests, settings, provenance, edit)


def descend(
    parameters: Sequence[nn.Parameter],
    losses: Sequence[Callable[[], Tensor]],
    *,
    step_size: float,
    epochs: int,
    stop_below: float | None,
    after_step: Callable[[], None] = lambda: None,
    weight_decay: float = 0.0,
) -> Course:
    """Move the parameters by Adam, or with weight decay by AdamW, down the losses in turns.

    No gradient is computed for, nor kept at, any other parameter.

    Args:
        losses: each evaluates the loss (nats) of one batch.
        step_size: Adam's learning rate.
        epochs: rounds over the losses, at most.
        stop_below: a loss below it makes no step, a round whose mean is below it is the last; None = never.
        after_step: called behind each step.
        weight_decay: AdamW's, apart from the gradient.

    Raises: FloatingPointError: a loss or a gradient is infinite or undefined.
    """
    optimiser = torch.optim.Adam(parameters, lr=step_size, weight_decay=weight_decay, decoupled_weight_decay=True)
    enough = -math.inf if stop_below is None else stop_below
    updates, history = 0, []
    for _ in range(epochs if losses else 0):
        round_losses = []
        for evaluate in losses:
            with torch.enable_grad():
                loss = evaluate()
                round_losses.append(float(loss.detach()))
                if not math.isfinite(round_losses[-1]):
                    raise FloatingPointError(f"the loss became {round_losses[-1]} after {updates} updates")
                if round_losses[-1] < enough:
                    continue
                gradients = torch.autograd.grad(loss, parameters)
            if not all(gradient.isfinite().all() for gradient in gradients):
                raise FloatingPointError(f"a gradient became infinite or undefined after {updates} updates")
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimiser.step()
            after_step()
            updates += 1
        history.append(sum(round_losses) / len(round_losses))
        if history[-1] < enough:
            break
    return Course(tuple(history), updates)


def _named(requests: Sequence[EditRequest]) -> str:
    more = f" and {len(requests) - 1} more" if len(requests) > 1 else ""
    return f"{requests[0].statement!r}{more}"
