"""MEND: a trained network that turns an edit's gradient into a change of weights.

Source: Mitchell, Lin, Bosselut, Finn, Manning, "Fast Model Editing at Scale", ICLR 2022, section 3 and appendix B.
The gradient of the edit's loss is a sum of outer products u delta^T over tokens. Each pair goes through a small
residual network that is the identity at first, and the products of what comes out are summed and taken off the weights,
in a learned measure: W - a sum u~ delta~^T. The paper's sign is kept; its released code adds.

Several requests are one batch: the sum of the changes that each would make alone, which is not what was trained. In a
sequence the gradient is that of the model as edited so far, as in the survey (Yao et al. 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from editguard.edited import EditedModel, WeightDelta
from editguard.edits import EditRequest
from editguard.errors import InvalidSettings, MethodRefused
from editguard.methods.batch_training import BatchOutcome, edited_as_batch
from editguard.methods.editor_examples import Draws
from editguard.methods.gradient_editors import (
    GradientEditorSettings,
    GradientEditorTraining,
    Outcome,
    edited_matrices,
    last_three,
    last_two_of_each,
)
from editguard.methods.protocol import Preparation
from editguard.methods.residual_spreading import frobenius
from editguard.methods.running_statistics import RunningStatistics
from editguard.methods.settings import Published, Recipe
from editguard.methods.trained_editors import Matrices, TrainableEditor, TrainedEditors
from editguard.models.gradient_factors import Factors, gradient_factors
from editguard.models.placement import device_of
from editguard.models.shifted import RowShifts
from editguard.models.weights import Delta, Dense, LowRank

if TYPE_CHECKING:
    from pathlib import Path

    from editguard.models.language_model import LanguageModel

CODE: Final = 1
"""Version of the training: raised when the same input would give another editor."""
BLOCKS: Final = 2


@dataclass(frozen=True, kw_only=True)
class MendSettings(GradientEditorSettings):
    """Defaults are the released code's."""

    rank: int = 1_920
    """r: width of the networks' low-rank layers; never more than d_in + d_out."""
    normalise: bool = True
    """Whether u and delta are normalised by all that was seen in training."""
    edit_rate: float = 1e-4
    """a before training, the same for every matrix."""
    rate_step_size: float = 1e-4
    """Adam's learning rate for a. In the released code an oversight leaves it at `step_size`."""
    step_size: float = 1e-6
    """Adam's learning rate for the networks."""
    edit_weight: float = 0.1
    """c_edit: weight of the edit's loss, nats per token."""
    locality_weight: float = 1.0
    """c_loc: weight of the divergence elsewhere, nats per token."""
    statistics_edits: int = 200
    """Edits whose gradients are counted in before the first step, so that it does not start from a few tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise InvalidSettings(f"rank is at least 1, not {self.rank}.")
        for name in ("step_size", "rate_step_size"):
            if getattr(self, name) <= 0:
                raise InvalidSettings(f"{name} is positive, not {getattr(self, name)}.")
        for name in ("edit_weight", "locality_weight", "statistics_edits"):
            if getattr(self, name) < 0:
                raise InvalidSettings(f"{name} is not negative; got {getattr(self, name)}.")


def rectified(values: Tensor) -> Tensor:
    """max(values, 0), with the derivative 1 at 0.

    The network starts with exact zeros here. Where the derivative at 0 is 0, as `relu` has it, it would never learn.
    """
    return torch.where(values < 0, 0.0, values)


class ResidualBlock(nn.Module):
    """z + rectified(s_i * (U V z + b) + o_i), with a scale s_i and an offset o_i for each matrix i that shares it."""

    def __init__(self, width: int, rank: int, matrices: int, generator: torch.Generator) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.zeros(width, rank))
        self.right = nn.Parameter(torch.randn(rank, width, generator=generator))
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(matrices, width))
        self.offset = nn.Parameter(torch.zeros(matrices, width))

    def forward(self, vectors: Tensor, tokens: Sequence[int]) -> Tensor:
        """vectors: (all tokens, width), matrix by matrix, each of which has so many `tokens`; the same comes back."""
        inner = vectors @ self.right.T @ self.left.T + self.bias
        parts = torch.split(inner, list(tokens))
        scaled = [self.scale[i] * part + self.offset[i] for i, part in enumerate(parts)]
        return vectors + rectified(torch.cat(scaled))


class GradientNetwork(nn.Module):
    """What turns the factors of the matrices of one shape into pseudo-factors; the statistics are shared too."""

    def __init__(
        self, d_in: int, d_out: int, matrices: int, rank: int, *, normalise: bool, generator: torch.Generator
    ) -> None:
        super().__init__()
        self._widths, self._normalise = [d_in, d_out], normalise
        self.inputs, self.gradients = RunningStatistics(d_in), RunningStatistics(d_out)
        width = d_in + d_out
        self.blocks = nn.ModuleList(ResidualBlock(width, min(rank, width), matrices, generator) for _ in range(BLOCKS))

    def learn(self, factors: Sequence[Factors]) -> None:
        """Count the factors in."""
        self.inputs.add(torch.cat([each.inputs for each in factors]))
        self.gradients.add(torch.cat([each.gradients for each in factors]))

    def forward(self, factors: Sequence[Factors]) -> list[tuple[Tensor, Tensor]]:
        """Return u~ (tokens, d_in) and delta~ (tokens, d_out) of each matrix."""
        tokens = [len(each.row) for each in factors]
        own = next(self.parameters())
        inputs = torch.cat([each.inputs for each in factors]).to(own)
        gradients = torch.cat([each.gradients for each in factors]).to(own)
        if self._normalise:
            inputs, gradients = self.inputs.normalised(inputs), self.gradients.normalised(gradients)
        vectors = torch.cat([inputs, gradients], dim=1)
        for block in self.blocks:
            vectors = block(vectors, tokens)
        made = [torch.split(part, self._widths, dim=1) for part in torch.split(vectors, tokens)]
        return [(inputs, gradients) for inputs, gradients in made]


class MendEditor(TrainableEditor):
    """The networks, one for every shape of matrix, and the edit rates, one for every matrix.

    Args:
        shapes: parameter name -> (d_out, d_in).
        seed: of the networks' first weights.
    """

    asks_request: ClassVar[bool] = False
    smoothing: float = 0.0

    def __init__(self, shapes: Mapping[str, tuple[int, int]], settings: MendSettings, seed: int) -> None:
        super().__init__()
        self._settings = settings
        self._names = list(shapes)
        self._groups: dict[str, list[str]] = {}
        for name, (d_out, d_in) in shapes.items():
            self._groups.setdefault(f"{d_in}x{d_out}", []).append(name)
        generator = torch.Generator().manual_seed(seed)
        self.networks = nn.ModuleDict()
        for group, names in self._groups.items():
            d_out, d_in = shapes[names[0]]
            self.networks[group] = GradientNetwork(
                d_in, d_out, len(names), settings.rank, normalise=settings.normalise, generator=generator
            )
        self.rates = nn.Parameter(torch.full((len(shapes),), settings.edit_rate))

    def learn(self, factors: Mapping[str, Factors]) -> None:
        """Count the factors into the statistics of their network."""
        for group, names in self._groups.items():
            self._network(group).learn([factors[name] for name in names])

    def changes(
        self, model: LanguageModel, factors: Mapping[str, Factors], requests: Sequence[EditRequest]
    ) -> dict[str, RowShifts]:
        """Return -a sum delta~ u~^T for every matrix and request."""
        del model
        found: dict[str, RowShifts] = {}
        for group, names in self._groups.items():
            made = self._network(group)([factors[name] for name in names])
            for name, (inputs, gradients) in zip(names, made, strict=True):
                rate = self.rates[self._names.index(name)]
                found[name] = RowShifts(-rate * gradients, inputs, factors[name].row, len(requests))
        return found

    def report(self) -> Mapping[str, Any]:
        """Return how many tokens the statistics have seen, and the edit rates."""
        return {
            "statistic_tokens": {group: int(self._network(group).inputs.count) for group in self._groups},
            "rates": dict(zip(self._names, self.rates.tolist(), strict=True)),
        }

    def _network(self, group: str) -> GradientNetwork:
        network = self.networks[group]
        assert isinstance(network, GradientNetwork)
        return network

    # ---- training

    def objective(self, outcome: Outcome) -> Tensor:
        """c_edit times the loss of rephrases, plus c_loc times the divergence elsewhere."""
        settings = self._settings
        return settings.edit_weight * outcome.losses.mean() + settings.locality_weight * outcome.divergences.mean()

    def value(self, figures: Mapping[str, float]) -> float:
        """The objective itself."""
        return figures["loss"]

    def optimisers(self) -> Mapping[str, Optimizer]:
        """One Adam, with a learning rate of its own for the edit rates."""
        networks = {"params": list(self.networks.parameters()), "lr": self._settings.step_size}
        return {"adam": Adam([networks, {"params": [self.rates], "lr": self._settings.rate_step_size}])}

    def step_scale(self, step: int) -> float:
        """Always 1."""
        del step
        return 1.0

    def stepped(self) -> None:
        """Nothing to do."""

    def validated(self, figures: Mapping[str, float]) -> None:
        """Nothing to do."""


_MEND: Final = "MEND repository, config/model and config/alg/mend"
_EASY: Final = "EasyEdit, hparams/MEND"
_GATED: Final = {"matrices": ("up", "gate", "down")}


_ACTIVATED: Final = {"matrices": ("gate", "down")}
"""Of a gated MLP the matrix whose output is activated, which the code knows as the first one."""


def _last(layers: int) -> dict[str, Any]:
    return {"layers": (layers - 3, layers - 2, layers - 1)}


def _last_of_both(encoder: int, decoder: int) -> dict[str, Any]:
    return {"layers": (encoder - 2, encoder - 1, encoder + decoder - 2, encoder + decoder - 1)}


PUBLISHED: Final = (
    Published("gpt2", 12, 768, _MEND, _last(12)),
    Published("gpt2", 24, 1024, _MEND, _last(24)),
    Published("gpt2", 36, 1280, _MEND, _last(36)),
    Published("gpt2", 48, 1600, _MEND, _last(48)),
    Published("gptj", 28, 4096, _MEND, _last(28)),
    Published("llama", 32, 4096, _EASY, {**_last(32), **_GATED, "patience": 3_000}),
    Published("mistral", 32, 4096, _EASY, {**_last(32), **_GATED, "patience": 3_000}),
    Published("qwen2", 28, 3584, _EASY, {**_last(28), **_GATED, "steps": 2_000, "patience": 400}),
    Published("t5", 48, 1024, _MEND, _last_of_both(24, 24), d_ff=4096),
    Published("t5", 48, 1024, _MEND, _last_of_both(24, 24), d_ff=16384),
    Published("t5", 48, 2048, _MEND, {**_last_of_both(24, 24), **_ACTIVATED}),
    Published("t5", 48, 4096, _MEND, {**_last_of_both(24, 24), **_ACTIVATED}, d_ff=10240),
    Published("t5", 16, 512, _MEND, {**_last_of_both(8, 8), **_ACTIVATED}),
    Published("bart", 12, 768, _MEND, _last_of_both(6, 6)),
)


def low_rank_or_dense(change: LowRank) -> Delta:
    """Return the change as it takes less room: many requests together have more terms than the matrix has rows."""
    (d_out, rank), d_in = change.left.shape, change.right.shape[0]
    return Dense(change.dense()) if rank * (d_out + d_in) > d_out * d_in else change


class Mend:
    """All requests in one computation; one low-rank update of each edited matrix."""

    name: ClassVar[str] = "mend"
    settings_type: ClassVar[type] = MendSettings
    recipe: ClassVar[Recipe] = Recipe(MendSettings, PUBLISHED, last_three, last_two_of_each)

    def __init__(self, settings: MendSettings | None = None, *, provenance: Mapping[str, str] | None = None) -> None:
        self.settings = settings or MendSettings()
        self.provenance = dict(provenance or {})
        self._editors = TrainedEditors(
            self.name,
            CODE,
            self.settings,
            build=self._build,
            trainee=self._trainee,
            matrices=lambda model: edited_matrices(model, self.name, self.settings),
        )

    def prepare(self, model: LanguageModel, data: Preparation) -> None:
        """Find the model's trained editor, or train it; see `TrainedEditors.prepare`."""
        self._editors.prepare(model, data)

    def train(self, model: LanguageModel, data: Preparation, folder: Path | None) -> Path | None:
        """Train the model's editor and return where it is; see `TrainedEditors.train`."""
        return self._editors.train(model, data, folder)

    def apply(self, edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
        """Return `edited` with the requests on top: the sum of what each changes alone.

        Identical requests count once, and nothing is changed for what the model answers already.

        Raises: ConflictingEdits: two requests want different targets for one fact. MethodRefused: not prepared, or the
            model's gradient is undefined. PromptTooLong: a request does not fit the model's context.
        """
        model = edited.model
        ready = self._editors.of(model)

        def edit(true: Mapping[EditRequest, bool]) -> BatchOutcome:
            wanted = [request for request, answered in true.items() if not answered]
            deltas, losses = self._deltas(model, ready.matrices, ready.editor, wanted)
            figures = {
                "editor": dict(ready.record),
                "edits_in_batch": len(wanted),
                "rates": dict(zip(deltas, ready.editor.rates.tolist(), strict=False)),
                "matrices": {name: _described(model, name, delta) for name, delta in deltas.items()},
            }
            lines = {request: {"loss": losses.get(request)} for request in true}
            return BatchOutcome((WeightDelta(deltas),) if deltas else (), figures, lines)

        return edited_as_batch(self.name, edited, requests, self.settings, self.provenance, edit)

    def _deltas(
        self, model: LanguageModel, matrices: Matrices, editor: MendEditor, requests: Sequence[EditRequest]
    ) -> tuple[dict[str, Delta], dict[EditRequest, float]]:
        """The updates by parameter name, and the loss of each request."""
        pairs = [(request.text, request.target) for request in requests]
        parts: dict[str, list[RowShifts]] = {}
        losses: dict[EditRequest, float] = {}

        def run(batch: list[int]) -> tuple[dict[str, RowShifts], Tensor]:
            own = [pairs[index] for index in batch]
            factors, of_batch = gradient_factors(model, own, matrices, device=device_of(editor))
            return editor.changes(model, factors, [requests[index] for index in batch]), of_batch

        for batch, (changes, of_batch) in model.batches([len(text) for text, _ in pairs], run):
            losses |= {requests[index]: float(loss) for index, loss in zip(batch, of_batch, strict=True)}
            for name, change in changes.items():
                parts.setdefault(name, []).append(change)
        deltas: dict[str, Delta] = {}
        for name, found in parts.items():
            whole = LowRank(torch.cat([each.left for each in found]).T, torch.cat([each.right for each in found]).T)
            deltas[name] = low_rank_or_dense(whole)
            if not all(part.isfinite().all() for part in (whole.left, whole.right)):
                raise MethodRefused(
                    f"{self.name}: the gradient of {requests[0].statement!r}"
                    f"{f' or {len(requests) - 1} more' if len(requests) > 1 else ''} is infinite or undefined. Nothing "
                    "was changed; load the model in a wider type."
                )
        return deltas, losses

    def _build(self, model: LanguageModel, matrices: Matrices, seed: int) -> MendEditor:
        del model
        shapes = {matrix.name: matrix.shape for of_layer in matrices.values() for matrix in of_layer}
        return MendEditor(shapes, self.settings, seed)

    def _trainee(
        self, model: LanguageModel, matrices: Matrices, editor: MendEditor, train: Draws, validation: Draws
    ) -> GradientEditorTraining:
        return GradientEditorTraining(
            self.name,
            model,
            matrices,
            editor,
            self.settings,
            train=train,
            validation=validation,
            statistics_edits=self.settings.statistics_edits,
        )


def _described(model: LanguageModel, name: str, delta: Delta) -> dict[str, Any]:
    """The size of an update in the record."""
    weight = float(model.weights.present(name).float().norm())
    if isinstance(delta, LowRank):
        return {"rank": delta.left.shape[1], "relative_norm": frobenius(delta.left, delta.right) / weight}
    return {"rank": min(delta.shape), "relative_norm": float(delta.dense().norm()) / weight}
