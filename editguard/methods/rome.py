"""ROME: rewrite one fact with a rank-one update of one down projection.

Source: Meng, Bau, Andonian, Belinkov, "Locating and Editing Factual Associations in GPT", NeurIPS 2022, section 3.1,
as its released code computes it: the update's direction uses the key averaged over prefix contexts, the constraint
the key of the bare prompt.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from editguard.edited import AppliedEdit, EditedModel, WeightDelta
from editguard.edits import EditRequest
from editguard.errors import InvalidSettings, MethodRefused
from editguard.methods.already_true import warn_already_true
from editguard.methods.causal_stream import needs_causal_stream
from editguard.methods.context_templates import ROME_LENGTHS, prefix_contexts
from editguard.methods.keys import keys_and_outputs
from editguard.methods.one_by_one import one_by_one
from editguard.methods.protocol import Preparation
from editguard.methods.settings import Published, Recipe
from editguard.methods.value_optimisation import ValueSettings, optimise_values, value_problem
from editguard.methods.whitening import LayerStatistics, Whitening
from editguard.models.placement import in_memory
from editguard.models.weights import LowRank

if TYPE_CHECKING:
    from editguard.models.anatomy import Matrix
    from editguard.models.language_model import LanguageModel

DISABLING_RATIO = 0.1
"""u.k of the bare key over u.k of the averaged key, below which an update is known to wreck models (R-ROME)."""


@dataclass(frozen=True, kw_only=True)
class RomeSettings:
    """Symbols as in the paper; defaults are the released values for GPT-2 XL."""

    layer: int = 17
    """l*: the edited block, counted from 0."""
    steps: int = 20
    """Forward passes of the optimisation of v*; one update fewer."""
    step_size: float = 0.5
    """Adam's learning rate for v*, dimensionless."""
    drift_weight: float = 0.0625
    """Weight of the essence-drift term, a divergence in nats."""
    weight_decay: float = 0.5
    """Weight of ||delta|| / ||v0||^2."""
    clamp_factor: float = 4.0
    """Radius of the ball around v0 that v* stays in, in units of ||v0||."""
    stop_below: float = 0.05
    """Loss (nats) at which the optimisation ends."""
    second_moment_adjustment: bool = True
    """Whether u = C^-1 k (the paper) or u = k (a method of poorer locality under the same name)."""
    shrinkage: float = 1e-4
    """a in C' = (1 - a) C + a tr(C)/d_ff I, dimensionless; 0 is the paper."""
    context_lengths: tuple[tuple[int, int], ...] = ROME_LENGTHS
    """(length in tokens, number) of the prefix contexts."""
    seed: int = 0
    """Of the prefix contexts."""

    def __post_init__(self) -> None:
        for name in ("steps",):
            if getattr(self, name) < 1:
                raise InvalidSettings(f"{name} is at least 1, not {getattr(self, name)}.")
        for name in ("layer", "drift_weight", "weight_decay", "clamp_factor", "stop_below"):
            if getattr(self, name) < 0:
                raise InvalidSettings(f"{name} is not negative; got {getattr(self, name)}.")
        if self.step_size <= 0:
            raise InvalidSettings(f"step_size is positive, not {self.step_size}.")
        if not 0 <= self.shrinkage < 1:
            raise InvalidSettings(f"shrinkage lies in [0, 1), not at {self.shrinkage}.")

    def value_settings(self) -> ValueSettings:
        """Return the part that the optimisation of v* needs."""
        return ValueSettings(
            layer=self.layer,
            place="mlp",
            steps=self.steps,
            step_size=self.step_size,
            drift_weight=self.drift_weight,
            weight_decay=self.weight_decay,
            clamp_factor=self.clamp_factor,
            stop_below=self.stop_below,
        )


_ROME = "ROME repository, hparams/ROME"
_MEMIT = "MEMIT repository, hparams/ROME"
_EASY = "EasyEdit, hparams/ROME (there without the second moment)"
_LLAMA_LIKE = {"layer": 5, "steps": 25, "weight_decay": 1e-3, "clamp_factor": 4.0}

PUBLISHED = (
    Published("gpt2", 24, 1024, _ROME, {"layer": 8, "clamp_factor": 3.0}),
    Published("gpt2", 36, 1280, _ROME, {"layer": 12}),
    Published("gpt2", 48, 1600, _ROME, {"layer": 17}),
    Published("gptj", 28, 4096, _ROME, {"layer": 5}),
    Published("gpt_neox", 44, 6144, _MEMIT, {"layer": 15}),
    Published("llama", 32, 4096, _EASY, _LLAMA_LIKE),
    Published("llama", 28, 3072, _EASY, _LLAMA_LIKE),
    Published("mistral", 32, 4096, _EASY, _LLAMA_LIKE),
    Published("qwen2", 28, 3584, _EASY, _LLAMA_LIKE),
)


def derived(layers: int) -> Mapping[str, tuple[Any, str]]:
    """Return the layer for a model that no source speaks of: a third of the depth, as in all GPT-2 sizes."""
    return {"layer": (layers // 3, "a third of the blocks")}


def left_vector(key: Tensor, lower: Tensor | None) -> Tensor:
    """u = C^-1 k*, of length one.

    Args:
        key: k*, (d_ff,).
        lower: the lower Cholesky factor of C = E[k k^T], (d_ff, d_ff); None stands for C = I.
    """
    solved = key if lower is None else torch.cholesky_solve(key[:, None], lower)[:, 0]
    return torch.nn.functional.normalize(solved, dim=0, eps=0.0)


def right_vector(value: Tensor, output: Tensor, key: Tensor, left: Tensor) -> Tensor:
    """(v* - W k) / (u . k).  value v*, output W k (+ b): (d_model,); key k, left u: (d_ff,)."""
    return (value - output) / torch.dot(left, key)


@dataclass(frozen=True)
class Association:
    """What a rank-one update is made of.

    Attributes:
        direction: the key (d_ff,) whose whitened form is u.
        key, output: k (d_ff,), and what the matrix puts out there now, (d_model,): the pair that is rewritten.
    """

    direction: Tensor
    key: Tensor
    output: Tensor


def mixed_keys(keys: Tensor, outputs: Tensor) -> Association:
    """ROME's association: the direction from all contexts, the pair from the bare prompt, row 0.

    keys: (contexts, d_ff); outputs: (contexts, d_model).
    """
    return Association(keys.mean(0), keys[0], outputs[0])


class Rome:
    """One request at a time, each on the model that the ones before have left; no bias and no other matrix changes."""

    name: ClassVar[str] = "rome"
    settings_type: ClassVar[type] = RomeSettings
    recipe: ClassVar[Recipe] = Recipe(RomeSettings, PUBLISHED, derived)

    def __init__(self, settings: RomeSettings | None = None, *, provenance: Mapping[str, str] | None = None) -> None:
        self.settings = settings or RomeSettings()
        self.provenance = dict(provenance or {})
        self._insertion = RankOneInsertion(self.name, self.settings, self.provenance)

    def prepare(self, model: LanguageModel, data: Preparation) -> None:
        """Draw the prefix contexts and factorise the second moment of the layer's keys, on the unedited model."""
        self._insertion.prepare(model, data)

    def apply(self, edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
        """Return `edited` with one rank-one update per request on top."""
        return self._insertion.apply(edited, requests, mixed_keys)


class RankOneInsertion:
    """The course of ROME and of its corrections, which choose the keys and outputs of the update differently.

    Args:
        method: registered name.
        settings, provenance: as in force.
    """

    def __init__(self, method: str, settings: RomeSettings, provenance: Mapping[str, str]) -> None:
        self.method = method
        self.settings = settings
        self.provenance = dict(provenance)
        self._whitenings = LayerStatistics(
            method,
            lambda moment: Whitening.of(moment, self.settings.shrinkage),
            alternative=", or second_moment_adjustment = false, a method of poorer locality",
        )

    def prepare(self, model: LanguageModel, data: Preparation) -> None:
        """Draw the prefix contexts and factorise the second moment of the layer's keys, on the unedited model.

        Raises: MethodRefused: the model has no such layer, or an encoder. MissingMaterial: there is no text.
        """
        self._matrix(model)
        self._contexts(model)
        if self.settings.second_moment_adjustment:
            self._whitenings.prepare(model, [self.settings.layer], data)

    def apply(
        self,
        edited: EditedModel,
        requests: Sequence[EditRequest],
        associate: Callable[[Tensor, Tensor], Association],
    ) -> EditedModel:
        """Return `edited` with one rank-one update per request on top.

        Args:
            associate: keys (contexts, d_ff) and outputs (contexts, d_model) at the subject, the bare prompt's first,
                float64 -> what to make the update of.

        Raises: ConflictingEdits: two requests want different targets for one fact. MethodRefused: no such layer, not
            prepared, or no update was found that would not wreck the model.
        """
        return one_by_one(edited, requests, lambda model, request: self._edit(model, request, associate))

    def _edit(
        self, edited: EditedModel, request: EditRequest, associate: Callable[[Tensor, Tensor], Association]
    ) -> AppliedEdit:
        """Compute one request's update on the model as the earlier edits have left it."""
        started = time.perf_counter()
        model, settings = edited.model, self.settings
        matrix, whitening, contexts = self._matrix(model), self._whitening(model), self._contexts(model)
        edited.activate()

        problem = value_problem(model, request, contexts)
        [optimised] = optimise_values(model, [problem], settings.value_settings())
        record: dict[str, Any] = {
            "settings": asdict(settings),
            "provenance": self.provenance,
            "contexts": len(contexts),
            "already_true": optimised.already_true,
            "loss": optimised.loss,
            "target_probability": float(torch.tensor(-optimised.nll).exp()),
            "drift": optimised.drift,
            "updates": optimised.updates,
        }
        if optimised.already_true:
            warn_already_true(self.method, [request.statement])
            return AppliedEdit(self.method, (request,), (), record, time.perf_counter() - started)
        keys, outputs = keys_and_outputs(model, matrix, problem.prompts)
        pair = associate(keys.double(), outputs.double())
        left = left_vector(pair.direction, whitening.lower.to(keys.device) if whitening else None)
        ratio = guard(left, pair.key, pair.direction, request) if pair.key is not pair.direction else 1.0
        right = right_vector(optimised.value.double(), pair.output, pair.key, left)

        update = LowRank(right[:, None].to(optimised.value), left[:, None].to(optimised.value))
        weight = matrix.weight().detach()
        record |= {
            "u_dot_key": float(left @ pair.key),
            "key_ratio": ratio,
            "disabling_risk": ratio < DISABLING_RATIO,
            "relative_norm": float(right.norm() * left.norm() / weight.double().norm()),
            "second_moment": dict(whitening.record) if whitening else None,
        }
        change = WeightDelta({matrix.name: update})
        return AppliedEdit(self.method, (request,), (change,), record, time.perf_counter() - started)

    def _matrix(self, model: LanguageModel) -> Matrix:
        needs_causal_stream(model, self.method)
        layers = model.anatomy.layers
        if self.settings.layer >= layers:
            raise MethodRefused(
                f"{self.method} should edit layer {self.settings.layer} of {model.name}, which has layers 0 to "
                f"{layers - 1}: set `layer` in its settings."
            )
        [matrix] = in_memory(self.method, [model.anatomy.down_projection(self.settings.layer)])
        return matrix

    def _contexts(self, model: LanguageModel) -> tuple[str, ...]:
        return prefix_contexts(model, lengths=self.settings.context_lengths, seed=self.settings.seed)

    def _whitening(self, model: LanguageModel) -> Whitening | None:
        if not self.settings.second_moment_adjustment:
            return None
        return self._whitenings.of(model)[self.settings.layer]


def guard(left: Tensor, bare: Tensor, average: Tensor, request: EditRequest) -> float:
    """Return (u . k_bare) / (u . k_average), and warn when it is small.

    The two keys differ, so that the denominator of the update may come near zero or below: such an edit disables
    the model (Gupta et al. 2024, "Rebuilding ROME").

    Raises: MethodRefused: the ratio is not positive.
    """
    ratio = float(torch.dot(left, bare) / torch.dot(left, average))
    if not ratio > 0:
        raise MethodRefused(
            f"rome refuses {request.statement!r}: the bare prompt's key points away from the averaged one "
            f"(u.k ratio {ratio:.3g}), and the update would wreck the model. Other prefix contexts (`seed`) may help."
        )
    if ratio < DISABLING_RATIO:
        warnings.warn(
            f"rome: the edit {request.statement!r} may disable the model (u.k ratio {ratio:.3g}).", stacklevel=2
        )
    return ratio
