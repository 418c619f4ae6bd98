"""The two networks of SERAC and what they are trained on; neither training needs the model under edit.

The loss of the counterfactual model reads the edit that a prompt belongs to, not the one that the classifier would find
for it, so that either loss reaches its own network alone.

Source: Mitchell, Lin, Bosselut, Manning, Finn, "Memory-Based Model Editing at Scale", ICML 2022, section 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from editguard.edited.searching import Encoder
from editguard.methods.counterfactual_model import answer_losses, as_language_model, question
from editguard.methods.editor_examples import Draws, EditorExample, refuse_pairs_too_long
from editguard.methods.editor_training import Validation
from editguard.methods.scope_calibration import report, roc_point
from editguard.methods.scope_classifier import ScopeClassifier, ScopeEncoder, balanced_loss
from editguard.methods.scope_draws import ScopeBatch, ScopeDraws
from editguard.methods.trained_editors import TrainableEditor
from editguard.models.answer_rows import TextPair

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from editguard.models.language_model import LanguageModel


class SeracEditor(TrainableEditor):
    """Classifier and counterfactual model, with the scores of the last validation, from which thresholds are chosen.

    Args:
        of: the model under edit, whose tokenizer the counterfactual model shares.
    """

    in_scope_scores: Tensor
    out_of_scope_scores: Tensor

    def __init__(self, classifier: ScopeClassifier, counterfactual: PreTrainedModel, of: LanguageModel) -> None:
        super().__init__()
        self.classifier = classifier
        self.counterfactual: nn.Module = counterfactual
        self._wrap = (of.tokenizer, of.name, of.batch_size)
        for name in ("in_scope_scores", "out_of_scope_scores"):
            self.register_buffer(name, torch.zeros(0))
        self.train(False)

    @cached_property
    def answering(self) -> LanguageModel:
        """The counterfactual model as what answers; its weights no longer change."""
        return self.language_model()

    @cached_property
    def encoder(self) -> ScopeEncoder:
        """The classifier as that by which a memory is searched; its weights no longer change."""
        return ScopeEncoder.of(self.classifier)

    def language_model(self) -> LanguageModel:
        """Return the counterfactual model as what reads prompts; its weights get no gradients any more."""
        module: Any = self.counterfactual
        return as_language_model(module, *self._wrap)

    def report(self) -> Mapping[str, Any]:
        """Return the sizes of the networks, and what thresholds did on the pairs of the last validation."""
        sizes = {
            name: sum(parameter.numel() for parameter in part.parameters())
            for name, part in (("classifier", self.classifier), ("counterfactual", self.counterfactual))
        }
        return {"parameters": sizes, "scope": report(self.in_scope_scores, self.out_of_scope_scores)}

    # ---- its state: weights that two parts share are in it once

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """See `nn.Module`; of tied weights the first name alone."""
        tied = self._tied()
        found: dict[str, Tensor] = super().state_dict(*args, **options)
        return {name: tensor for name, tensor in found.items() if name not in tied}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """See `nn.Module`; takes what `state_dict` gives."""
        whole = {
            **state_dict,
            **{name: state_dict[first] for name, first in self._tied().items() if first in state_dict},
        }
        return super().load_state_dict(whole, *args, **options)

    def _tied(self) -> dict[str, str]:
        """Names of tied weights, and the first name of each."""
        first: dict[int, str] = {}
        every = self.named_parameters(remove_duplicate=False)
        return {name: known for name, each in every if (known := first.setdefault(id(each), name)) != name}

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        for name in ("in_scope_scores", "out_of_scope_scores"):
            if (kept := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.zeros(kept.shape, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class TrainingWeights(Protocol):
    """What of SERAC's settings its training needs."""

    @property
    def counterfactual_weight(self) -> float: ...
    @property
    def classifier_weight(self) -> float: ...
    @property
    def hard_negatives(self) -> float: ...
    @property
    def validation_edits(self) -> int: ...
    @property
    def edits_per_pass(self) -> int: ...
    @property
    def schedule(self) -> int | None: ...


class SeracTraining:
    """The networks and their data, as the training job wants them.

    Args:
        rates: Adam's learning rates for the two networks, by name.
        nearness: what tells which prompts are hard negatives.
    """

    def __init__(
        self,
        method: str,
        model: LanguageModel,
        editor: SeracEditor,
        settings: TrainingWeights,
        *,
        rates: Mapping[str, float],
        nearness: Encoder,
        train: Draws,
        validation: Draws,
        seed: int,
    ) -> None:
        self.method, self.module, self.base = method, editor, model.module
        self._editor, self._settings, self._rates = editor, settings, rates
        self._reading = editor.language_model()
        editor.requires_grad_(True)
        self._train, self._validation = (
            ScopeDraws(draws, nearness, hard=settings.hard_negatives, seed=seed) for draws in (train, validation)
        )
        for draws in (train, validation):
            refuse_pairs_too_long(self._reading, [pair for each in draws.examples for pair in _read(each)])

    # ---- what the job asks for

    def optimisers(self) -> Mapping[str, Optimizer]:
        """One Adam for each network."""
        parts = {"classifier": self._editor.classifier, "counterfactual": self._editor.counterfactual}
        return {name: Adam(part.parameters(), lr=self._rates[name]) for name, part in parts.items()}

    def begin(self) -> None:
        """Nothing to do."""

    def losses(self, start: int, count: int) -> tuple[Tensor, Mapping[str, float]]:
        """The weighted sum of both losses on some draws."""
        batch = self._train.take(start, count)
        answers, right = self.answer_losses(batch)
        loss_of_scope = balanced_loss(*self.log_scores(batch))
        loss = self._total(answers.mean(), loss_of_scope)
        return loss, {
            "loss": float(loss.detach()),
            "edit_success": float(right.float().mean()),
            "scope_loss": float(loss_of_scope.detach()),
        }

    def step_scale(self, step: int) -> float:
        """Falls to 0 over the schedule; 1 without one."""
        schedule = self._settings.schedule
        return 1.0 if schedule is None else max(0.0, 1 - step / schedule)

    def stepped(self) -> None:
        """Nothing to do."""

    @torch.no_grad()
    def validate(self) -> Validation:
        """Ask about held-out subjects' edits, each alone; the scores are kept with the networks."""
        edits = min(self._settings.validation_edits, len(self._validation))
        size = self._settings.edits_per_pass
        found: tuple[list[Tensor], ...] = ([], [], [], [])
        for start in range(0, edits, size):
            batch = self._validation.take(start, min(size, edits - start))
            for kept, one in zip(found, (*self.answer_losses(batch), *self.log_scores(batch)), strict=True):
                kept.append(one)
        answers, right, inside, outside = (torch.cat(each) for each in found)
        scores = {"in_scope_scores": inside, "out_of_scope_scores": outside}
        loss_of_scope = balanced_loss(*scores.values())
        for name, logarithms in scores.items():
            setattr(self._editor, name, logarithms.float().exp())
        at_half = roc_point(self._editor.in_scope_scores, self._editor.out_of_scope_scores, 0.5)
        loss_of_answers = answers.mean()
        figures = {
            "loss": float(self._total(loss_of_answers, loss_of_scope)),
            "answer_loss": float(loss_of_answers),
            "scope_loss": float(loss_of_scope),
            "edit_success": float(right.float().mean()),
            "hits": at_half.hits,
            "false_hits": at_half.false_hits,
        }
        return Validation(figures["loss"], figures)

    def validated(self, validation: Validation) -> None:
        """Nothing to do."""

    # ---- the losses

    def answer_losses(self, batch: ScopeBatch) -> tuple[Tensor, Tensor]:
        """Return the counterfactual model's loss of each prompt in scope behind its own edit, and what is right."""
        pairs = [
            (question(row, prompt), answer) for row, (prompt, answer) in zip(batch.rows, batch.in_scope, strict=True)
        ]
        return answer_losses(self._reading, pairs)

    def log_scores(self, batch: ScopeBatch) -> tuple[Tensor, Tensor]:
        """Return log g of the pairs in scope, (edits,), and of those out of scope."""
        rows = [*batch.rows, *(batch.rows[of] for of in batch.out_of)]
        prompts = [*(prompt for prompt, _ in batch.in_scope), *batch.out_of_scope]
        found: Tensor = self._editor.classifier(rows, prompts)
        return found[: len(batch.rows)], found[len(batch.rows) :]

    def _total(self, loss_of_answers: Tensor, loss_of_scope: Tensor) -> Tensor:
        settings = self._settings
        return settings.counterfactual_weight * loss_of_answers + settings.classifier_weight * loss_of_scope


def _read(example: EditorExample) -> Sequence[TextPair]:
    """All that the counterfactual model may read of an edit."""
    return [
        (question(example.request.statement, prompt), answer) for prompt, answer in (example.pair, *example.rephrases)
    ]
