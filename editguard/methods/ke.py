"""KE, the Knowledge Editor: a trained network that reads an edit as text and gates the edit's gradient.

Source: De Cao, Aziz, Titov, "Editing Factual Knowledge in Language Models", EMNLP 2021, section 4, as its released code
computes it. From a text of the old answer, the new one and the prompt an LSTM makes a code; from the code a conditioner
of each matrix makes two rank-one masks and a gate: G is the gradient of the edit's loss,

    dW = s sigmoid(eta) (G * A + B),    A = softmax(r_a) g_a^T,    B = softmax(r_b) g_b^T.

With G = sum delta_t u_t^T the product G * A is a sum of as many outer products, each factor scaled entry by entry; no
matrix of the size of W is made, in training or in use. The softmax runs over the rows of the matrix as it is stored, so
the same numbers mean different changes for the two layouts that models have.

The editor is trained to answer the edit under the constraint that elsewhere nothing moves, by a multiplier that grows
while the constraint is violated; a port for larger models, which the survey (Yao et al. 2023) compares, has a weighted
sum instead (`objective`). Requests are edited one after another, on the model as edited so far.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.optim import Adam, Optimizer, RMSprop

from editguard.edited import AppliedEdit, EditedModel, WeightDelta
from editguard.edits import EditRequest
from editguard.errors import InvalidSettings, MethodRefused
from editguard.methods.already_true import already_true, warn_already_true
from editguard.methods.editor_examples import Draws, previous_answers, with_previous
from editguard.methods.gradient_editors import (
    GradientEditorSettings,
    GradientEditorTraining,
    Outcome,
    edited_matrices,
    last_three,
    last_two_of_each,
)
from editguard.methods.one_by_one import one_by_one
from editguard.methods.protocol import Preparation
from editguard.methods.residual_spreading import frobenius
from editguard.methods.settings import Published, Recipe
from editguard.methods.trained_editors import Matrices, TrainableEditor, TrainedEditors
from editguard.models.gradient_factors import Factors, gradient_factors
from editguard.models.placement import device_of, present_value
from editguard.models.shifted import RowShifts

if TYPE_CHECKING:
    from pathlib import Path

    from editguard.models.anatomy import Matrix
    from editguard.models.language_model import LanguageModel

CODE: Final = 1
"""Version of the training: raised when the same input would give another editor."""
SUCCESS_TO_TIGHTEN: Final = 0.9
TIGHTENED: Final = 0.8
"""A validation in which more than this share of edits succeeds multiplies the margin by this."""

Objective = Literal["constrained", "weighted"]


@dataclass(frozen=True, kw_only=True)
class KeSettings(GradientEditorSettings):
    """Defaults are the released code's for BART and zero-shot relation extraction."""

    lstm_width: int = 128
    """Of the hidden state of each direction."""
    code_width: int = 1_024
    """D: of the code that stands for an edit."""
    conditioner_width: int = 128
    """Of the hidden layer between the code and a matrix's masks."""
    condition_tokens: int = 32
    """Length at which the text of an edit is cut."""
    largest_gate: float = 1.0
    """s: what sigmoid(eta) is multiplied with."""
    objective: Objective = "constrained"
    """"constrained": the paper's; "weighted": edit_weight and locality_weight, as in the port for larger models."""
    margin: float = 1e-3
    """m: divergence elsewhere (nats per token) that the constraint allows at first."""
    smallest_margin: float = 1e-5
    """m is multiplied by 0.8 after each validation with more than 90 % success, but never below this."""
    label_smoothing: float = 0.1
    """Of the edit's loss in training."""
    edit_weight: float = 0.1
    """Of the edit's loss in the weighted objective."""
    locality_weight: float = 1.0
    """Of the divergence in the weighted objective."""
    step_size: float = 3e-4
    """Learning rate of the networks: RMSprop's, or Adam's for the weighted objective."""
    multiplier_step_size: float = 0.1
    """RMSprop's learning rate of the multiplier."""
    warm_up: int = 1_000
    """Steps in which the learning rates rise from 0; with the weighted objective they are constant."""
    schedule: int = 200_000
    """Step at which the learning rates have fallen to 0."""
    edits_per_step: int = 4
    edits_per_pass: int = 4
    locality_examples: int = 63
    steps: int = 200_000

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lstm_width", "code_width", "conditioner_width", "condition_tokens", "schedule"):
            if getattr(self, name) < 1:
                raise InvalidSettings(f"{name} is at least 1, not {getattr(self, name)}.")
        for name in ("step_size", "multiplier_step_size", "largest_gate", "margin"):
            if getattr(self, name) <= 0:
                raise InvalidSettings(f"{name} is positive, not {getattr(self, name)}.")
        for name in ("edit_weight", "locality_weight", "warm_up"):
            if getattr(self, name) < 0:
                raise InvalidSettings(f"{name} is not negative; got {getattr(self, name)}.")
        if not 0 <= self.smallest_margin <= self.margin:
            raise InvalidSettings(f"smallest_margin lies in [0, margin], not at {self.smallest_margin}.")
        if not 0 <= self.label_smoothing < 1:
            raise InvalidSettings(f"label_smoothing lies in [0, 1), not at {self.label_smoothing}.")


def condition_text(request: EditRequest, previous: str) -> str:
    """Return what the editor reads: the old answer, the new one and the prompt, in the released code's order."""
    return f"{previous.strip()} >> {request.target.strip()} || {request.text}"


@dataclass(frozen=True)
class Masks:
    """What a conditioner makes of a code, for a matrix that is stored as (rows, columns).

    Attributes:
        gradient_rows, gradient_columns: r_a (rows,) and g_a (columns,).
        own_rows, own_columns: r_b (rows,) and g_b (columns,).
        gate: eta, ().
    """

    gradient_rows: Tensor
    gradient_columns: Tensor
    own_rows: Tensor
    own_columns: Tensor
    gate: Tensor


def gated(factors: tuple[Tensor, Tensor], masks: Masks, largest: float, *, transposed: bool) -> tuple[Tensor, Tensor]:
    """dW as factors: left (tokens + 1, d_out) and right (tokens + 1, d_in), summed as left_i right_i^T.

    Args:
        factors: u (tokens, d_in) and delta (tokens, d_out).
        largest: s.
        transposed: whether the matrix is stored as (d_in, d_out), so that its rows are inputs.
    """
    inputs, gradients = factors
    rows, columns = (inputs, gradients) if transposed else (gradients, inputs)
    of_rows = torch.cat([masks.gradient_rows.softmax(0) * rows, masks.own_rows.softmax(0)[None]])
    of_columns = torch.cat([masks.gradient_columns * columns, masks.own_columns[None]])
    of_rows = largest * masks.gate.sigmoid() * of_rows
    return (of_columns, of_rows) if transposed else (of_rows, of_columns)


class Conditioner(nn.Module):
    """From the code of one edit to the masks of one matrix."""

    def __init__(self, shape: tuple[int, int], code: int, hidden: int) -> None:
        super().__init__()
        rows, columns = shape
        self._sizes = [columns, rows, columns, rows, 1]
        self.layers = nn.Sequential(
            weight_norm(nn.Linear(code, hidden)), nn.Tanh(), weight_norm(nn.Linear(hidden, sum(self._sizes)))
        )

    def forward(self, code: Tensor) -> Masks:
        """code: (D,), of one edit: those of several would be mixed.

        Raises: ValueError: codes of several edits.
        """
        if code.ndim != 1:
            raise ValueError(f"a conditioner takes the code of one edit, (D,), not {tuple(code.shape)}")
        columns_a, rows_a, columns_b, rows_b, gate = torch.split(self.layers(code), self._sizes)
        return Masks(rows_a, columns_a, rows_b, columns_b, gate[0])


class KeEditor(TrainableEditor):
    """Encoder of the edit's text, a conditioner for each matrix, and the constraint's multiplier and margin.

    Args:
        embedding: the model's token embedding (vocabulary, width); copied, so that the model's own is never trained.
        seed: of the first weights.
    """

    asks_request: ClassVar[bool] = True
    multiplier: nn.Parameter
    margin: Tensor

    def __init__(self, embedding: Tensor, matrices: Sequence[Matrix], settings: KeSettings, seed: int) -> None:
        super().__init__()
        self._settings = settings
        self.smoothing = settings.label_smoothing
        self._transposed = {matrix.name: matrix.transposed for matrix in matrices}
        shapes = [matrix.shape[::-1] if matrix.transposed else matrix.shape for matrix in matrices]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.lstm = nn.LSTM(embedding.shape[1], settings.lstm_width, bidirectional=True, batch_first=True)
            self.code = nn.Linear(2 * settings.lstm_width, settings.code_width)
            self.conditioners = nn.ModuleList(
                Conditioner(shape, settings.code_width, settings.conditioner_width) for shape in shapes
            )
            self.embedding = nn.Embedding(*embedding.shape)
        self.embedding.weight = nn.Parameter(embedding.detach().cpu().float().clone())
        self.multiplier = nn.Parameter(torch.ones(()))
        self.register_buffer("margin", torch.tensor(settings.margin))

    def encoded(self, ids: Sequence[int]) -> Tensor:
        """Return the code (D,) of an edit's text."""
        tokens = torch.tensor([list(ids)[: self._settings.condition_tokens]], device=self.embedding.weight.device)
        _, (state, _) = self.lstm(self.embedding(tokens))
        found: Tensor = self.code(state[:, 0].flatten()).tanh()
        return found

    def learn(self, factors: Mapping[str, Factors]) -> None:
        """Keep no statistics."""

    def changes(
        self, model: LanguageModel, factors: Mapping[str, Factors], requests: Sequence[EditRequest]
    ) -> dict[str, RowShifts]:
        """Return dW of every matrix for every request; a request without its previous answer is asked for it."""
        texts = map(condition_text, requests, previous_answers(model, requests))
        codes = [self.encoded(model.encode_text(text)) for text in texts]
        found = {}
        for conditioner, (name, transposed) in zip(self.conditioners, self._transposed.items(), strict=True):
            made, owners = [], []
            for number, code in enumerate(codes):
                own = factors[name].row == number
                pair = factors[name].inputs[own].float(), factors[name].gradients[own].float()
                made.append(gated(pair, conditioner(code), self._settings.largest_gate, transposed=transposed))
                owners.append(torch.full((len(made[-1][0]),), number, device=code.device))
            left, right = (torch.cat(parts) for parts in zip(*made, strict=True))
            found[name] = RowShifts(left, right, torch.cat(owners), len(requests))
        return found

    def report(self) -> Mapping[str, Any]:
        """Return the multiplier and the margin."""
        return {"multiplier": float(self.multiplier.detach()), "margin": float(self.margin)}

    # ---- training

    def objective(self, outcome: Outcome) -> Tensor:
        """The edit's loss + multiplier (divergence - margin), of which the multiplier climbs while the rest descends.

        Or, for the weighted objective, edit_weight times the loss + locality_weight times the divergence.
        """
        loss, divergence = outcome.losses.mean(), outcome.divergences.mean()
        if self._settings.objective == "weighted":
            return self._settings.edit_weight * loss + self._settings.locality_weight * divergence
        excess = divergence - self.margin
        return loss + self.multiplier.detach() * excess + (self.multiplier.detach() - self.multiplier) * excess.detach()

    def value(self, figures: Mapping[str, float]) -> float:
        """The mean of what fails, of edits and elsewhere; the weighted objective itself."""
        if self._settings.objective == "weighted":
            return figures["loss"]
        return 1 - (figures["edit_success"] + figures["locality"]) / 2

    def optimisers(self) -> Mapping[str, Optimizer]:
        """Centred RMSprop, one for the networks and one for the multiplier; Adam for the weighted objective."""
        settings = self._settings
        networks = [parameter for parameter in self.parameters() if parameter is not self.multiplier]
        if settings.objective == "weighted":
            return {"networks": Adam(networks, lr=settings.step_size)}
        return {
            "networks": RMSprop(networks, lr=settings.step_size, centered=True),
            "multiplier": RMSprop([self.multiplier], lr=settings.multiplier_step_size, centered=True),
        }

    def step_scale(self, step: int) -> float:
        """A linear rise over the warm-up, then a linear fall to the schedule's end."""
        settings = self._settings
        if settings.objective == "weighted":
            return 1.0
        if step < settings.warm_up:
            return (step + 1) / settings.warm_up
        return max(0.0, (settings.schedule - step) / max(1, settings.schedule - settings.warm_up))

    @torch.no_grad()
    def stepped(self) -> None:
        """Keep the multiplier from falling below zero."""
        self.multiplier.clamp_(min=0)

    @torch.no_grad()
    def validated(self, figures: Mapping[str, float]) -> None:
        """Tighten the margin when most edits succeed."""
        if figures["edit_success"] > SUCCESS_TO_TIGHTEN:
            self.margin.copy_((TIGHTENED * self.margin).clamp(min=self._settings.smallest_margin))


_PORT: Final = "MEND repository, config/alg/efk (a port without the constraint)"


def _port(*layers: int, **changes: Any) -> dict[str, Any]:
    return {
        "layers": layers,
        **changes,
        "lstm_width": 512,
        "code_width": 768,
        "conditioner_width": 512,
        "objective": "weighted",
        "label_smoothing": 0.0,
        "step_size": 1e-5,
        "edits_per_step": 10,
        "edits_per_pass": 10,
        "locality_examples": 1,
        "steps": 50_000,
    }


PUBLISHED: Final = (
    Published("gpt2", 48, 1600, _PORT, _port(45, 46, 47)),
    Published("gptj", 28, 4096, _PORT, _port(25, 26, 27)),
    Published("t5", 48, 1024, _PORT, _port(22, 23, 46, 47), d_ff=16384),
    Published("t5", 48, 2048, _PORT, _port(22, 23, 46, 47, matrices=("gate", "down"))),
)


class Ke:
    """One request after another, each on the model that the ones before have left."""

    name: ClassVar[str] = "ke"
    settings_type: ClassVar[type] = KeSettings
    recipe: ClassVar[Recipe] = Recipe(KeSettings, PUBLISHED, last_three, last_two_of_each)

    def __init__(self, settings: KeSettings | None = None, *, provenance: Mapping[str, str] | None = None) -> None:
        self.settings = settings or KeSettings()
        self.provenance = dict(provenance or {})
        self._editors = TrainedEditors(
            self.name,
            CODE,
            self.settings,
            build=self._build,
            trainee=self._trainee,
            matrices=lambda model: edited_matrices(model, self.name, self.settings),
            completed=with_previous,
        )

    def prepare(self, model: LanguageModel, data: Preparation) -> None:
        """Find the model's trained editor, or train it; see `TrainedEditors.prepare`."""
        self._editors.prepare(model, data)

    def train(self, model: LanguageModel, data: Preparation, folder: Path | None) -> Path | None:
        """Train the model's editor and return where it is; see `TrainedEditors.train`."""
        return self._editors.train(model, data, folder)

    def apply(self, edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
        """Return `edited` with one low-rank update of each edited matrix per request on top.

        Identical requests count once, and nothing is changed for what the model answers already.

        Raises: ConflictingEdits: two requests want different targets for one fact. MethodRefused: not prepared, or the
            model's gradient is undefined. PromptTooLong: a request does not fit the model's context.
        """
        return one_by_one(edited, requests, self._edit)

    def _edit(self, edited: EditedModel, request: EditRequest) -> AppliedEdit:
        started = time.perf_counter()
        model, ready = edited.model, self._editors.of(edited.model)
        edited.activate()
        [true] = already_true(model, [request])
        record: dict[str, Any] = {
            "settings": asdict(self.settings),
            "provenance": self.provenance,
            "editor": dict(ready.record),
            "already_true": true,
        }
        if true:
            warn_already_true(self.name, [request.statement])
            return AppliedEdit(self.name, (request,), (), record, time.perf_counter() - started)
        with torch.no_grad():
            pairs, device = [(request.text, request.target)], device_of(ready.editor)
            factors, losses = gradient_factors(model, pairs, ready.matrices, device=device)
            changes = ready.editor.changes(model, factors, [request])
        deltas = {name: change.together() for name, change in changes.items()}
        if not all(part.isfinite().all() for delta in deltas.values() for part in (delta.left, delta.right)):
            raise MethodRefused(
                f"{self.name}: the gradient of {request.statement!r} is infinite or undefined. Nothing was changed; "
                "load the model in a wider type."
            )
        record |= {
            "loss": float(losses),
            "matrices": {
                name: {
                    "rank": delta.left.shape[1],
                    "relative_norm": frobenius(delta.left, delta.right)
                    / float(model.weights.present(name).float().norm()),
                }
                for name, delta in deltas.items()
            },
        }
        return AppliedEdit(self.name, (request,), (WeightDelta(deltas),), record, time.perf_counter() - started)

    def _build(self, model: LanguageModel, matrices: Matrices, seed: int) -> KeEditor:
        embedding = present_value(model.anatomy.embedding, "weight")
        return KeEditor(embedding, [m for of_layer in matrices.values() for m in of_layer], self.settings, seed)

    def _trainee(
        self, model: LanguageModel, matrices: Matrices, editor: KeEditor, train: Draws, validation: Draws
    ) -> GradientEditorTraining:
        return GradientEditorTraining(
            self.name, model, matrices, editor, self.settings, train=train, validation=validation
        )
