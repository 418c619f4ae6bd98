"""Fine-tuning of one down projection, with or without a ball around its old values: FT, FT-L and FT-M.

FT-L: Zhu et al., "Modifying Memories in Transformer Models", 2020, in the form of the ROME repository's FT baseline
(Meng et al. 2022): Adam on one matrix, the answer's tokens read from the prompt's last position, and after every
step each weight held within epsilon of its old value. FT is the same without the ball. FT-M (Zhang et al., "A
Comprehensive Study of Knowledge Editing for Large Language Models", 2024) has no ball either and reads each token of
the answer after the ones before it. The choices are settings of their own; the three methods differ in defaults.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import torch
from torch import Tensor, nn

from editguard.edited import EditedModel, WeightDelta
from editguard.edits import EditRequest
from editguard.errors import InvalidSettings, MethodRefused
from editguard.methods.batch_training import Course, Trained, descend, trained_on_batch
from editguard.methods.protocol import Preparation
from editguard.methods.settings import Published, Recipe
from editguard.models.answer_passes import AnswerPasses, Pair, answer_passes
from editguard.models.placement import in_memory
from editguard.models.weights import Delta, Dense

if TYPE_CHECKING:
    from editguard.models.anatomy import Matrix
    from editguard.models.language_model import LanguageModel

LossPosition = Literal["prompt-last", "target-new"]
"""Where the answer's tokens are read: all of them after the prompt's last token, or each after the ones before it.

With an encoder, the decoder's opening stands for the prompt's last token, and "target-new" reads the closing token too:
an answer has to end.
"""


@dataclass(frozen=True, kw_only=True)
class FineTuningSettings:
    """Defaults are FT-L's for GPT-2 XL in the ROME repository."""

    layer: int = 0
    """The edited block, counted from 0."""
    loss_position: LossPosition = "prompt-last"
    """See `LossPosition`."""
    norm_constraint: float | None = 5e-4
    """epsilon: the L-infinity radius around the old weights; None lets them go anywhere."""
    step_size: float = 5e-4
    """Adam's learning rate, in units of the weights."""
    epochs: int = 25
    """Passes over the requests, at most."""
    batch_size: int = 128
    """Requests per step."""
    stop_below: float = 1e-2
    """Loss (nats): a batch below it makes no step, an epoch below it is the last."""
    trains_bias: bool = False
    """Whether the matrix's bias, where there is one, is trained too."""

    def __post_init__(self) -> None:
        for name in ("layer", "epochs", "stop_below"):
            if getattr(self, name) < 0:
                raise InvalidSettings(f"{name} is not negative; got {getattr(self, name)}.")
        if self.batch_size < 1:
            raise InvalidSettings(f"batch_size is at least 1, not {self.batch_size}.")
        if self.step_size <= 0:
            raise InvalidSettings(f"step_size is positive, not {self.step_size}.")
        if self.norm_constraint is not None and self.norm_constraint < 0:
            raise InvalidSettings(f"norm_constraint is not negative; got {self.norm_constraint}.")


@dataclass(frozen=True, kw_only=True)
class FreeFineTuningSettings(FineTuningSettings):
    """Defaults are plain FT's for GPT-2 XL in the ROME repository: no ball."""

    layer: int = 1
    norm_constraint: float | None = None


@dataclass(frozen=True, kw_only=True)
class MaskedFineTuningSettings(FineTuningSettings):
    """Defaults are FT-M's: the loss of a language model with the prompt masked out, and no ball."""

    layer: int = 21
    loss_position: LossPosition = "target-new"
    norm_constraint: float | None = None


_EASY_PAIRED: Final = (
    "EasyEdit, hparams/FT, the upper of its two layers; its loss, which reads each token where that very token is fed, "
    "left off"
)
_ROME: Final = "ROME repository, hparams/FT"
_CONSTRAINED: Final = f"{_ROME} (constrained)"
_EASY: Final = "EasyEdit, hparams/FT"

CONSTRAINED: Final = (
    Published("gpt2", 24, 1024, _CONSTRAINED, {"layer": 0, "norm_constraint": 2e-3, "trains_bias": True}),
    Published("gpt2", 36, 1280, _CONSTRAINED, {"layer": 0, "norm_constraint": 1e-3, "trains_bias": True}),
    Published("gpt2", 48, 1600, _CONSTRAINED, {"layer": 0, "norm_constraint": 5e-4, "trains_bias": True}),
    Published("gptj", 28, 4096, _CONSTRAINED, {"layer": 0, "norm_constraint": 5e-5, "trains_bias": True}),
    Published("mistral", 32, 4096, _EASY, {"layer": 21, "norm_constraint": 5e-5, "batch_size": 1}),
)

_WITHOUT_BALL: Final = (
    Published("llama", 32, 4096, _EASY, {"layer": 21, "batch_size": 1}),
    Published("llama", 28, 3072, _EASY, {"layer": 21, "batch_size": 1}),
    Published("mistral", 32, 4096, f"{_EASY}, its ball left off", {"layer": 21, "batch_size": 1}),
    Published("qwen2", 28, 3584, _EASY, {"layer": 27, "batch_size": 1}),
    Published("t5", 48, 1024, _EASY_PAIRED, {"layer": 24 + 21, "epochs": 50, "batch_size": 1}, d_ff=16384),
)
"""EasyEdit keeps one file for both losses."""

FREE: Final = (
    Published("gpt2", 48, 1600, f"{_ROME} (unconstrained)", {"layer": 1, "trains_bias": True}),
    Published("gptj", 28, 4096, f"{_ROME} (unconstrained)", {"layer": 21, "trains_bias": True}),
    *_WITHOUT_BALL,
)

MASKED: Final = _WITHOUT_BALL


def derived(layers: int) -> Mapping[str, tuple[Any, str]]:
    """Return FT-L's layer for a model that no source speaks of: ROME's, as the survey has it."""
    return {"layer": (layers // 3, "a third of the blocks, ROME's layer")}


def derived_without_ball(layers: int) -> Mapping[str, tuple[Any, str]]:
    """Return the layer of FT and FT-M for a model that no source speaks of: 21 of 32, as in most published rows."""
    return {"layer": (2 * layers // 3, "two thirds of the blocks, as published for models of 32")}


def derived_with_encoder(encoder_layers: int, decoder_layers: int) -> Mapping[str, tuple[Any, str]]:
    """Return the layer of all three for an encoder-decoder model that no source speaks of: decoder block 21 of 24."""
    layer = encoder_layers + 7 * decoder_layers // 8
    return {"layer": (layer, "seven eighths up the decoder, as published for one of 24 blocks")}


@dataclass(frozen=True)
class Example:
    """One request in tokens."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]

    def pair(self, position: LossPosition) -> Pair:
        """What to run: for "prompt-last" the prompt and nothing behind it."""
        return self.prompt, self.target[:1] if position == "prompt-last" else self.target


def prompt_last_loss(logits: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
    """Mean negative log-likelihood (nats) of all the targets' tokens, each row's from its one distribution.

    logits: (rows, vocabulary); the mean is over the tokens of a row, then over the rows.
    """
    log_probs = logits.log_softmax(-1)
    losses = [
        -row[torch.tensor(target, device=row.device)].mean() for row, target in zip(log_probs, targets, strict=True)
    ]
    return torch.stack(losses).mean()


def target_new_loss(logits: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
    """Mean cross entropy (nats) of the targets' tokens, each at its own position.

    logits: (all target tokens, vocabulary), row by row; the mean is over the tokens of a row, then over the rows.
    """
    labels = torch.tensor([token for target in targets for token in target], device=logits.device)
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    parts = torch.split(losses, [len(target) for target in targets])
    return torch.stack([part.mean() for part in parts]).mean()


class TrainedChange:
    """What is trained: the change of a matrix, and of its bias where asked for; at least float32, zero at first.

    Adam without weight decay moves a change as it would move the weight itself, and a ball around the old weight is
    exactly a box around zero.
    """

    def __init__(self, matrix: Matrix, *, trains_bias: bool) -> None:
        self._matrix = matrix
        self.old = _master(matrix.weight())
        self.weight = nn.Parameter(torch.zeros_like(self.old))
        bias = matrix.bias() if trains_bias else None
        self.old_bias = None if bias is None else _master(bias)
        self.bias = None if self.old_bias is None else nn.Parameter(torch.zeros_like(self.old_bias))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trained tensors."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    @torch.no_grad()
    def clamp(self, radius: float | None) -> None:
        """Move every entry into [-radius, radius]; None leaves them alone."""
        if radius is not None:
            for parameter in self.parameters:
                parameter.clamp_(-radius, radius)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Let the matrix's module compute with the changed weight and bias; the module's own are not touched.

        What other changes in force do to the module's output, they do to the changed one.
        """

        def forward(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            del module
            entering = args[0]
            bias = self._matrix.bias()
            if self.bias is not None and self.old_bias is not None:
                bias = self.old_bias + self.bias
            changed = nn.functional.linear(
                entering,
                (self.old + self.weight).to(entering.device, entering.dtype),
                None if bias is None else bias.to(entering.device, entering.dtype),
            )
            return changed.to(output.dtype)

        handle = self._matrix.module.register_forward_hook(forward, prepend=True)
        try:
            yield
        finally:
            handle.remove()

    def deltas(self) -> dict[str, Delta]:
        """Return the changes by parameter name."""
        found: dict[str, Delta] = {self._matrix.name: Dense(self.weight.detach().clone())}
        if self.bias is not None and self._matrix.bias_name is not None:
            found[self._matrix.bias_name] = Dense(self.bias.detach().clone())
        return found


class FineTuning(ABC):
    """All requests in one run of Adam on a float32 copy of one down projection.

    The methods below say with which settings; each has its name, and rows for the models that sources speak of.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[FineTuningSettings]]
    recipe: ClassVar[Recipe]

    def __init__(
        self,
        settings: FineTuningSettings | None = None,
        *,
        provenance: Mapping[str, str] | None = None,
    ) -> None:
        self.settings = settings or self.settings_type()
        self.provenance = dict(provenance or {})

    def prepare(self, model: LanguageModel, data: Preparation) -> None:
        """Need nothing but a layer that exists."""
        del data
        _matrix(model, self.settings.layer, self.name)

    def apply(self, edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
        """Return `edited` with the requests trained in on top, as one dense update; none where no step was needed.

        Identical requests count once. What is the model's answer already is trained on beside the others, which might
        undo it; where all of them are, nothing changes.

        Raises: ConflictingEdits: two requests want different targets for one fact. MethodRefused: no such layer, or
            the training broke down; then nothing has changed.
        """
        matrix = _matrix(edited.model, self.settings.layer, self.name)

        def train(unique: Sequence[EditRequest]) -> Trained:
            data = examples(edited.model, unique, self.settings.loss_position)
            deltas, course, figures = fine_tuned(edited.model, matrix, data, self.settings)
            return [WeightDelta(deltas)], course, figures

        return trained_on_batch(self.name, edited, requests, self.settings, self.provenance, train)


class ConstrainedFineTuning(FineTuning):
    """FT-L: every weight stays in a small ball around its old value."""

    name = "ft-l"
    settings_type = FineTuningSettings
    recipe = Recipe(FineTuningSettings, CONSTRAINED, derived, derived_with_encoder)


class FreeFineTuning(FineTuning):
    """FT: the weights may go anywhere."""

    name = "ft"
    settings_type = FreeFineTuningSettings
    recipe = Recipe(FreeFineTuningSettings, FREE, derived_without_ball, derived_with_encoder)


class MaskedFineTuning(FineTuning):
    """FT-M: as FT, with the answer's tokens read one after the other."""

    name = "ft-m"
    settings_type = MaskedFineTuningSettings
    recipe = Recipe(MaskedFineTuningSettings, MASKED, derived_without_ball, derived_with_encoder)


def examples(model: LanguageModel, requests: Sequence[EditRequest], position: LossPosition) -> list[Example]:
    """Return the requests in tokens; a target that is read from one place does not close there."""
    pairs = [model.encode_answer(request.text, request.target) for request in requests]
    return [
        Example(tuple(prompt), tuple(target if position == "target-new" else model.unclosed(target)))
        for prompt, target in pairs
    ]


def fine_tuned(
    model: LanguageModel,
    matrix: Matrix,
    data: Sequence[Example],
    settings: FineTuningSettings,
) -> tuple[dict[str, Delta], Course, dict[str, Any]]:
    """Return the updates of the trained parameters, what the training did, and diagnostics.

    The model itself stays untouched, and the blocks below the matrix run once: they are constant.

    Raises: FloatingPointError: the loss or a gradient is infinite or undefined.
    """
    trained = TrainedChange(matrix, trains_bias=settings.trains_bias)
    losses = batch_losses(model, data, settings.layer, settings.batch_size, settings.loss_position)
    with trained.in_force():
        course = descend(
            trained.parameters,
            losses,
            step_size=settings.step_size,
            epochs=settings.epochs,
            stop_below=settings.stop_below,
            after_step=lambda: trained.clamp(settings.norm_constraint),
        )
    change = trained.weight.detach()
    figures = {
        "largest_change": float(change.abs().max()),
        "relative_norm": float(change.norm() / trained.old.norm()),
    }
    return trained.deltas(), course, figures


def batch_losses(
    model: LanguageModel, data: Sequence[Example], layer: int, batch_size: int, position: LossPosition
) -> list[Callable[[], Tensor]]:
    """Return what evaluates the loss (nats) of each batch, for changes at block `layer` and above.

    The blocks below run once, now; the others at each call, with the hooks and modules that are in force then.
    """
    batches = [data[at : at + batch_size] for at in range(0, len(data), batch_size)]
    pairs = [[example.pair(position) for example in batch] for batch in batches]
    passes = [answer_passes(model, of_batch, layer) for of_batch in pairs]
    return [partial(_loss, run, batch, position) for run, batch in zip(passes, batches, strict=True)]


def _loss(run: AnswerPasses, batch: Sequence[Example], position: LossPosition) -> Tensor:
    targets = [example.target for example in batch]
    loss = prompt_last_loss if position == "prompt-last" else target_new_loss
    return loss(run.logits(), targets)


def _master(weight: Tensor) -> Tensor:
    """The weight's values, at least in float32."""
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32))


def _matrix(model: LanguageModel, layer: int, name: str) -> Matrix:
    if layer >= model.anatomy.layers:
        raise MethodRefused(
            f"{name} should edit layer {layer} of {model.name}, which has layers 0 to {model.anatomy.layers - 1}: "
            "set `layer` in its settings."
        )
    [matrix] = in_memory(name, [model.anatomy.down_projection(layer)])
    return matrix
