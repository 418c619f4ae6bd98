"""Editors that turn the gradient of an edit into a change of weights, and what they are trained on.

One step, the same for all of them: the factors of the edit's gradient on the unedited model; a low-rank change from
them; and the model with that change asked for a rephrase of the edit, and for what should stay. The losses flow through
the change into the editor. The model itself never learns, and no second-order term passes through it.

Source: Mitchell, Lin, Bosselut, Finn, Manning, "Fast Model Editing at Scale", ICLR 2022, section 3; De Cao, Aziz,
Titov, "Editing Factual Knowledge in Language Models", EMNLP 2021, section 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from editguard.edits import EditRequest
from editguard.errors import InvalidSettings, MethodRefused
from editguard.methods.editor_examples import Drawn, Draws
from editguard.methods.editor_training import Validation
from editguard.methods.trained_editors import TrainedEditorSettings
from editguard.models.answer_rows import TextPair, answer_rows
from editguard.models.gradient_factors import Factors, gradient_factors
from editguard.models.placement import device_of, in_memory
from editguard.models.shifted import RowShifts, shifted

if TYPE_CHECKING:
    from editguard.models.anatomy import Matrix
    from editguard.models.language_model import LanguageModel

MatrixKind = Literal["up", "gate", "down"]


@dataclass(frozen=True, kw_only=True)
class GradientEditorSettings(TrainedEditorSettings):
    """What editors of this kind have in common; layers are those that MEND edits of GPT-2 XL."""

    layers: tuple[int, ...] = (45, 46, 47)
    """The edited blocks, counted from 0; of a model with an encoder, its blocks come first."""
    matrices: tuple[MatrixKind, ...] = ("up", "down")
    """Which matrices of their MLPs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.layers or min(self.layers) < 0 or list(self.layers) != sorted(set(self.layers)):
            raise InvalidSettings(f"layers are different numbers from 0 in ascending order, not {self.layers}.")
        if not self.matrices or len(set(self.matrices)) < len(self.matrices):
            raise InvalidSettings(f"matrices names some of up, gate and down once each, not {self.matrices}.")


def last_three(layers: int) -> Mapping[str, tuple[Any, str]]:
    """Return the layers for a model that no source speaks of."""
    return {"layers": (tuple(range(max(0, layers - 3), layers)), "the last three blocks, as published")}


def last_two_of_each(encoder: int, decoder: int) -> Mapping[str, tuple[Any, str]]:
    """Return the layers for a model with an encoder that no source speaks of."""
    chosen = (*range(max(0, encoder - 2), encoder), *range(encoder + max(0, decoder - 2), encoder + decoder))
    return {"layers": (chosen, "the last two blocks of encoder and decoder, as published for T5")}


def edited_matrices(model: LanguageModel, method: str, settings: GradientEditorSettings) -> dict[int, list[Matrix]]:
    """Return the matrices of each edited layer.

    Raises: MethodRefused: the model does not have one of them, or has it offloaded.
    """
    anatomy = model.anatomy
    if max(settings.layers) >= anatomy.layers:
        raise MethodRefused(
            f"{method} should edit layers {', '.join(map(str, settings.layers))} of {model.name}, which has layers 0 "
            f"to {anatomy.layers - 1}: set `layers` in its settings."
        )
    found: dict[int, list[Matrix]] = {}
    for layer in settings.layers:
        parts = {
            "up": anatomy.up_projections(layer)[0],
            "gate": anatomy.gate_projection(layer),
            "down": anatomy.down_projection(layer),
        }
        chosen = [parts[kind] for kind in settings.matrices]
        if None in chosen:
            raise MethodRefused(f"{method} should edit the gates of {model.name}, which has none: set `matrices`.")
        found[layer] = in_memory(method, [matrix for matrix in chosen if matrix is not None])
    return found


@dataclass(frozen=True, eq=False)
class Outcome:
    """What edited models answer; all of it is where the editor is.

    Attributes:
        losses: (asked,), of the requests where they are asked, then of the rephrases: mean negative log-likelihood of
            the answer that should now be given, nats, with the editor's label smoothing.
        right: (asked,), bool, in the same order: whether every token of that answer is the likeliest.
        divergences: (locality,), KL(unedited || edited) averaged over the tokens of each text that should stay, nats.
        kept: (locality,), bool, whether every token of its answer is as likely first as before.
        changes: the changes by parameter name.
    """

    losses: Tensor
    right: Tensor
    divergences: Tensor
    kept: Tensor
    changes: Mapping[str, RowShifts]


class GradientEditor(Protocol):
    """An editor that can be trained; a torch module.

    Attributes:
        asks_request: whether the request itself is asked in training, beside a rephrase.
        smoothing: label smoothing of the edit's loss.
    """

    asks_request: ClassVar[bool]
    smoothing: float

    def learn(self, factors: Mapping[str, Factors]) -> None:
        """Take the factors into the statistics, where the editor keeps some; in training only."""

    def changes(
        self, model: LanguageModel, factors: Mapping[str, Factors], requests: Sequence[EditRequest]
    ) -> dict[str, RowShifts]:
        """Return the change of every matrix for every request, whose row the factors have."""

    def objective(self, outcome: Outcome) -> Tensor:
        """Return what is minimised."""

    def value(self, figures: Mapping[str, float]) -> float:
        """Return what decides which state is the best, the lower the better, from the figures of a validation."""

    def optimisers(self) -> Mapping[str, Optimizer]:
        """Return the optimisers."""

    def step_scale(self, step: int) -> float:
        """Return what the step sizes are multiplied with at a step."""

    def stepped(self) -> None:
        """Called after every step."""

    def validated(self, figures: Mapping[str, float]) -> None:
        """Called after every validation in training."""


class GradientEditorTraining:
    """A gradient editor and its data, as the training job wants them.

    Args:
        matrices: the edited matrices by layer.
        statistics_edits: how many edits the statistics see before the first step.
    """

    def __init__(
        self,
        method: str,
        model: LanguageModel,
        matrices: Mapping[int, Sequence[Matrix]],
        editor: GradientEditor,
        settings: GradientEditorSettings,
        *,
        train: Draws,
        validation: Draws,
        statistics_edits: int = 0,
    ) -> None:
        assert isinstance(editor, nn.Module)
        self.method, self.module, self.base = method, editor, model.module
        self._model, self._matrices, self._editor, self._settings = model, matrices, editor, settings
        self._train, self._validation, self._statistics_edits = train, validation, statistics_edits

    # ---- what the job asks for

    def optimisers(self) -> Mapping[str, Optimizer]:
        """The editor's own."""
        return self._editor.optimisers()

    def begin(self) -> None:
        """Collect statistics of gradients before anything is learnt from them."""
        size = self._settings.edits_per_pass
        for start in range(0, self._statistics_edits, size):
            drawn = self._train.take(start, min(size, self._statistics_edits - start))
            factors = self._factors(drawn)
            if _finite(factors):
                self._editor.learn(factors)

    def losses(self, start: int, count: int) -> tuple[Tensor, Mapping[str, float]]:
        """The editor's objective on some draws; undefined gradients of the model leave the statistics as they are."""
        drawn = self._train.take(start, count)
        factors = self._factors(drawn)
        if not _finite(factors):
            return next(self.module.parameters()).sum() * torch.nan, {}
        self._editor.learn(factors)
        outcome = self._outcome(drawn, factors, requests=self._editor.asks_request)
        loss = self._editor.objective(outcome)
        return loss, {
            "loss": float(loss.detach()),
            "edit_success": _mean(outcome.right),
            "divergence": _mean(outcome.divergences),
        }

    def step_scale(self, step: int) -> float:
        """The editor's own."""
        return self._editor.step_scale(step)

    def stepped(self) -> None:
        """The editor's own."""
        self._editor.stepped()

    @torch.no_grad()
    def validate(self) -> Validation:
        """Edit held-out subjects' facts, each alone, and ask for the edit, a rephrase and what should stay."""
        settings, outcomes, losses = self._settings, list[Outcome](), list[Tensor]()
        edits = min(settings.validation_edits, len(self._validation.examples))
        for start in range(0, edits, settings.edits_per_pass):
            drawn = self._validation.take(start, min(settings.edits_per_pass, edits - start))
            outcome = self._outcome(drawn, self._factors(drawn), requests=True)
            outcomes.append(outcome)
            if not self._editor.asks_request:
                outcome = replace(outcome, losses=outcome.losses.chunk(2)[1])
            losses.append(self._editor.objective(outcome) * len(drawn.examples))
        halves = [outcome.right.chunk(2) for outcome in outcomes]
        figures = {
            "loss": float(torch.stack(losses).sum()) / edits,
            "edit_success": _mean(torch.cat([request for request, _ in halves])),
            "rephrase_success": _mean(torch.cat([rephrase for _, rephrase in halves])),
            "locality": _mean(torch.cat([outcome.kept for outcome in outcomes])),
            "divergence": _mean(torch.cat([outcome.divergences for outcome in outcomes])),
        }
        return Validation(self._editor.value(figures), figures)

    def validated(self, validation: Validation) -> None:
        """The editor's own."""
        self._editor.validated(validation.figures)

    # ---- one batch of edits

    def _factors(self, drawn: Drawn) -> dict[str, Factors]:
        pairs = [example.pair for example in drawn.examples]
        return gradient_factors(self._model, pairs, self._matrices, device=device_of(self.module))[0]

    def _outcome(self, drawn: Drawn, factors: Mapping[str, Factors], *, requests: bool) -> Outcome:
        changes = self._editor.changes(self._model, factors, [example.request for example in drawn.examples])
        pairs = [*([example.pair for example in drawn.examples] if requests else []), *drawn.rephrases]
        edits = [*(range(len(drawn.examples)) if requests else []), *range(len(drawn.examples))]
        seen = (*self._asked(pairs, edits, changes), *self._stayed(drawn.locality, drawn.locality_of, changes))
        losses, right, divergences, kept = (each.to(device_of(self.module)) for each in seen)
        return Outcome(losses, right, divergences, kept, changes)

    def _asked(
        self, pairs: Sequence[TextPair], edits: Sequence[int], changes: Mapping[str, RowShifts]
    ) -> tuple[Tensor, Tensor]:
        rows = answer_rows(self._model, pairs, min(self._matrices))
        with shifted(self._by_matrix(changes), torch.tensor(edits)):
            logits = rows.passes.logits()
        return rows.losses(logits, smoothing=self._editor.smoothing), rows.right(logits.detach())

    def _stayed(
        self, pairs: Sequence[TextPair], edits: Sequence[int], changes: Mapping[str, RowShifts]
    ) -> tuple[Tensor, Tensor]:
        if not pairs:
            return torch.zeros(1), torch.ones(1, dtype=torch.bool)
        rows = answer_rows(self._model, pairs, min(self._matrices), whole=True)
        with torch.no_grad():
            before = rows.passes.logits().log_softmax(-1)
        with shifted(self._by_matrix(changes), torch.tensor(edits)):
            after = rows.passes.logits().log_softmax(-1)
        divergence = rows.per_row((before.exp() * (before - after)).sum(-1))
        same = (before.argmax(-1) == after.argmax(-1)).float()
        return divergence, rows.per_row(same, rows.counted) == 1

    def _by_matrix(self, changes: Mapping[str, RowShifts]) -> list[tuple[Matrix, RowShifts]]:
        return [(matrix, changes[matrix.name]) for of_layer in self._matrices.values() for matrix in of_layer]


def _finite(factors: Mapping[str, Factors]) -> bool:
    sums = [each.inputs.sum() + each.gradients.sum() for each in factors.values()]
    return bool(torch.stack(sums).isfinite().all())


def _mean(values: Tensor) -> float:
    return float(values.detach().float().mean())
