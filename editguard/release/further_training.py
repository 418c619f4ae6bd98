"""Further training on text that says nothing of the edits: of all weights, or of low-rank adapters that are merged.

Only weights are trained. What edits have put beside or before them (memories, codebooks, added neurons, prompts, models
of their own) stays as it is, and takes no part in the training: it runs on the weights as the edits have changed them.

Source: that edits decay under both kinds of fine-tuning was measured by Cheng, Youssef, Seifert, Schlötterer and Zhao,
"Quantifying Edits Decay in Fine-tuned LLMs", 2025. Theirs goes over whole data sets; this one is short.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from editguard.edited import AppliedEdit, EditedModel, ReplacedWeights, WeightDelta, stack_kept
from editguard.errors import ConfigurationError, MethodRefused
from editguard.methods.batch_training import descend
from editguard.methods.fine_tuning import target_new_loss
from editguard.methods.lora import LoraSettings, adapted_matrices
from editguard.models.adapters import low_rank_adapters
from editguard.models.answer_passes import whole_answer_passes
from editguard.models.placement import OFFLOADED
from editguard.models.running_text import text_pairs
from editguard.models.weights import Replacement
from editguard.release.rounding import Rounded

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel

Values = dict[str, Replacement]
"""What parameters are after a training, by their names; those that it has not reached are left out."""
Loss = Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True)
class FurtherTraining(ABC):
    """A short training by AdamW; the same settings, text and threads give the same weights.

    Dropout of the model is off, and the learning rate stays the same throughout.
    """

    label: str
    """Its name."""
    texts: tuple[str, ...] = field(default=(), repr=False)
    """What is trained on, in turns; each is cut to 2,048 tokens or the model's context."""
    steps: int = 30
    """Updates of the weights."""
    batch_size: int = 8
    """Texts per step."""
    learning_rate: float
    """AdamW's."""
    weight_decay: float
    """AdamW's."""
    seed: int = 0
    """Of the order of the texts, and whatever else is drawn."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch_size", 1), ("weight_decay", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"{self.label}: {name} is at least {least}, not {getattr(self, name)}.")
        if not self.learning_rate > 0:
            raise ConfigurationError(f"{self.label}: learning_rate is positive, not {self.learning_rate}.")

    def change(self, edited: EditedModel) -> ReplacedWeights:
        """Train, and return what the weights become; the physical model is left as it was.

        Raises: MethodRefused: the weights are offloaded or quantised, the text is empty, or the training broke down.
        """
        with weights_alone(edited) as model:
            self._check(model)
            try:
                return ReplacedWeights(self.trained(model) if self.steps else {})
            except FloatingPointError as failure:
                raise MethodRefused(
                    f"{self.label} gave up: {failure}. Nothing was changed; use a smaller learning_rate, or load the "
                    "model in a wider type."
                ) from failure

    @abstractmethod
    def trained(self, model: LanguageModel) -> Values:
        """What the weights in force become.

        Raises: FloatingPointError: a loss or a gradient is infinite or undefined.
        """

    def losses(self, model: LanguageModel) -> list[Loss]:
        """What evaluates the loss of each step (nats per token), with the weights and modules in force then.

        A decoder alone predicts each token of a text but the first two; of a model with an encoder, that one reads the
        first half of a text's words and the decoder predicts the second: the prefix language model of Raffel et al.
        (2020).

        Raises: MethodRefused: there is no text.
        """
        pairs = text_pairs(model, self.texts, sys.maxsize, self.seed, purpose=self.label)
        size = min(self.batch_size, len(pairs))
        batches = [[pairs[(step * size + place) % len(pairs)] for place in range(size)] for step in range(self.steps)]
        return [partial(_loss, model, batch) for batch in batches]

    def _check(self, model: LanguageModel) -> None:
        for name, parameter in model.module.named_parameters():
            if parameter.is_meta:
                raise MethodRefused(f"{self.label} would change {name}, {OFFLOADED}")
            if not parameter.is_floating_point() or parameter.dtype.itemsize < 2:
                raise MethodRefused(
                    f"{self.label} would train {name}, which is quantised: load the model in float32, bfloat16 or "
                    "float16."
                )

    def _descend(self, parameters: Sequence[nn.Parameter], losses: Sequence[Loss]) -> None:
        descend(
            parameters,
            losses,
            step_size=self.learning_rate,
            weight_decay=self.weight_decay,
            epochs=1,
            stop_below=None,
        )


@dataclass(frozen=True, kw_only=True)
class FineTuning(FurtherTraining):
    """Every weight that the text reaches, in float32 at least; rounded to the model's type at the end.

    Source of the defaults: those of `TrainingArguments` in transformers, but for the number of steps and the learning
    rate's schedule: AdamW at 5e-5 without weight decay, 8 texts a step.
    """

    label: str = "fine-tuning"
    learning_rate: float = 5e-5
    weight_decay: float = 0.0

    def trained(self, model: LanguageModel) -> Values:
        """See `FurtherTraining`; the model's own parameters are not touched."""
        own = dict(model.module.named_parameters())
        masters = {name: nn.Parameter(_widened(parameter)) for name, parameter in own.items()}

        def evaluate(loss: Loss) -> Tensor:
            cast = {f"module.{name}": master.to(own[name].dtype) for name, master in masters.items()}
            found: Tensor = functional_call(_With(model.module, loss), cast, ())
            return found

        losses = [partial(evaluate, loss) for loss in self.losses(model)]
        with torch.enable_grad():
            gradients = torch.autograd.grad(losses[0](), list(masters.values()), allow_unused=True)
        reached = [name for name, gradient in zip(masters, gradients, strict=True) if gradient is not None]
        del gradients
        self._descend([masters[name] for name in reached], losses)
        return {
            name: Replacement(model.weights.turned(name, masters[name].detach().to(own[name].dtype)))
            for name in reached
        }


@dataclass(frozen=True, kw_only=True)
class LoraMerge(FurtherTraining):
    """Low-rank adapters of the attention's queries and values, merged: W + (alpha / rank) B A.

    Source of the defaults: Hu et al., "LoRA", ICLR 2022, appendix D, for GPT-2 on E2E, but for the number of steps and
    the learning rate's schedule.
    """

    label: str = "lora-merge"
    learning_rate: float = 2e-4
    weight_decay: float = 0.01
    rank: int = 4
    """r: rank of what is added to a matrix, at most."""
    alpha: int = 32
    """What is added is alpha / r times B A."""
    dropout: float = 0.1
    """Share of the entries of A's input that are left out, at each step anew."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1 or self.alpha < 1 or not 0 <= self.dropout < 1:
            raise ConfigurationError(
                f"{self.label}: rank and alpha are at least 1, and dropout is at least 0 and below 1; got {self.rank}, "
                f"{self.alpha} and {self.dropout}."
            )

    def trained(self, model: LanguageModel) -> Values:
        """See `FurtherTraining`.

        Raises: MethodRefused: the package `peft` is missing.
        """
        matrices = adapted_matrices(model, LoraSettings())
        generator = torch.Generator().manual_seed(self.seed)
        sizes = {"rank": self.rank, "alpha": self.alpha, "dropout": self.dropout}
        with low_rank_adapters(model.module, matrices, generator=generator, **sizes) as adapters:  # type: ignore[arg-type]
            self._descend([each for adapter in adapters for each in adapter.parameters], self.losses(model))
        merged = {}
        for adapter in adapters:
            whole = _widened(adapter.matrix.weight())
            merged[adapter.matrix.name] = Replacement(whole + adapter.update().dense().to(whole))
        return merged


@contextmanager
def weights_alone(edited: EditedModel) -> Iterator[LanguageModel]:
    """Within the block, the model has what the edits made of its weights, and nothing that stands beside or before."""
    own = [change for change in edited.changes if isinstance(change, WeightDelta | ReplacedWeights | Rounded)]
    with stack_kept(edited.model):
        EditedModel(edited.model, [AppliedEdit("weights", (), tuple(own))]).activate()
        yield edited.model


class _With(nn.Module):
    """A call that uses a module, so that the module's parameters can be exchanged for the length of it."""

    def __init__(self, module: nn.Module, call: Callable[[], Any]) -> None:
        super().__init__()
        self.module = module
        self._call = call

    def forward(self) -> Any:
        return self._call()


def _loss(model: LanguageModel, batch: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Tensor:
    return target_new_loss(whole_answer_passes(model, batch).logits(), [after for _, after in batch])


def _widened(weight: Tensor) -> Tensor:
    """A copy of a weight's values, at least in float32."""
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32), copy=True)
