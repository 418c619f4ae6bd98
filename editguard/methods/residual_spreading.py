"""Many facts at once, written into a few consecutive down projections: what MEMIT and its descendants share.

First each edit's target vector z is optimised at the last of the layers. Then, from the lowest layer to the highest,
every matrix takes up a share of what is still missing to the targets, each on the model that the layers below have
already changed. The methods differ in the closed form that writes a share, and in the sizes of the shares.

Source: Meng, Sen Sharma, Andonian, Belinkov, Bau, "Mass-Editing Memory in a Transformer", ICLR 2023, section 4.3,
algorithm 1.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from editguard.edited import AppliedEdit, EditedModel, WeightDelta, stack_kept, switch
from editguard.edited.key_memory import KeyMemory, earlier_keys
from editguard.edits import EditRequest, first_mentions, refuse_conflicts
from editguard.errors import InvalidSettings, MethodRefused
from editguard.methods.already_true import warn_already_true
from editguard.methods.causal_stream import needs_causal_stream
from editguard.methods.context_templates import prefix_contexts
from editguard.methods.keys import averaged_keys, vectors
from editguard.methods.value_optimisation import (
    FailedValue,
    OnceAnswered,
    OptimisedValue,
    Outcome,
    Place,
    ValueProblem,
    ValueSettings,
    attempt_values,
    value_problem,
)
from editguard.models.placement import in_memory
from editguard.models.weights import LowRank

if TYPE_CHECKING:
    from editguard.models.anatomy import Matrix
    from editguard.models.language_model import Change, LanguageModel

NOTHING_ASKED: Final = 1e-6
"""The part of the largest residual below which one is rounding: that edit is held as it is."""

SPREAD_LENGTHS: Final = ((10, 5),)
"""(length in tokens, number) of the prefix contexts: one for each of the five first words."""


@dataclass(frozen=True, kw_only=True)
class SpreadingSettings:
    """The settings that MEMIT and its descendants have in common; defaults are MEMIT's for GPT-2 XL."""

    layers: tuple[int, ...] = (13, 14, 15, 16, 17)
    """R: the edited blocks, counted from 0, ascending; the targets are at the last one."""
    steps: int = 20
    """Forward passes of the optimisation of z; one update fewer."""
    step_size: float = 0.5
    """Adam's learning rate for z, dimensionless."""
    drift_weight: float = 0.0625
    """Weight of the essence-drift term, a divergence in nats."""
    weight_decay: float = 0.5
    """Weight of ||delta|| / ||z0||^2."""
    clamp_factor: float = 0.75
    """Radius of the ball around z0 that z stays in, in units of ||z0||."""
    stop_below: float = 0.05
    """Loss (nats) at which the optimisation of an edit ends."""
    context_lengths: tuple[tuple[int, int], ...] = SPREAD_LENGTHS
    """(length in tokens, number) of the prefix contexts."""
    seed: int = 0
    """Of the prefix contexts."""

    def __post_init__(self) -> None:
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise InvalidSettings(f"layers are different blocks in ascending order, from 0; got {list(self.layers)}.")
        if self.steps < 1:
            raise InvalidSettings(f"steps is at least 1, not {self.steps}.")
        for name in ("drift_weight", "weight_decay", "clamp_factor", "stop_below"):
            if getattr(self, name) < 0:
                raise InvalidSettings(f"{name} is not negative; got {getattr(self, name)}.")
        if self.step_size <= 0:
            raise InvalidSettings(f"step_size is positive, not {self.step_size}.")

    def value_settings(self, place: Place, once_answered: OnceAnswered | None = None) -> ValueSettings:
        """Return the part that the optimisation of z needs."""
        return ValueSettings(
            layer=self.layers[-1],
            place=place,
            steps=self.steps,
            step_size=self.step_size,
            drift_weight=self.drift_weight,
            weight_decay=self.weight_decay,
            clamp_factor=self.clamp_factor,
            stop_below=self.stop_below,
            once_answered=once_answered,
        )


def refuse_bad_shrinkage(shrinkage: float) -> None:
    """Raise InvalidSettings unless a shrinkage of the second moment lies in [0, 1)."""
    if not 0 <= shrinkage < 1:
        raise InvalidSettings(f"shrinkage lies in [0, 1), not at {shrinkage}.")


def derived_layers(layers: int) -> tuple[tuple[int, ...], str]:
    """Return the blocks to edit in a model that no source speaks of, and the rule in words.

    In all published rows the last one stands between a quarter and a third of the depth, and there are five or six.
    """
    last = layers // 3
    count = max(1, min(5, layers // 4))
    return tuple(range(last - count + 1, last + 1)), "up to a third of the blocks; a quarter as many, from 1 to 5"


def linear_share(left: int) -> float:
    """Part of the residual for a layer with `left` layers to go, itself included: equal parts in the end (MEMIT)."""
    return 1 / left


def square_root_share(left: int) -> float:
    """As `linear_share`, with more for the lower layers (PMET, equation 8)."""
    return float(left**-0.5)


@dataclass(frozen=True)
class Gain:
    """How one layer takes up its share: Delta = S A^T for the shares S (d_model, edits).

    Attributes:
        factor: A, (d_ff, edits), float64.
        report: what a method has to say of its solution, ready for JSON.
    """

    factor: Tensor
    report: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Spreading:
    """One method's way through the course.

    Attributes:
        method: registered name.
        settings, provenance: as in force, for the record and the course.
        place: where the targets are.
        gain: (layer, keys (d_ff, edits), keys of earlier edits (d_ff, any number)) -> `Gain`.
        share: part of the residual for a layer, by the number of layers to go, itself included.
        once_answered: see `ValueSettings`.
        remembers_keys: whether earlier edits' keys are handed to `gain`, and this one's kept for later ones.
    """

    method: str
    settings: SpreadingSettings
    provenance: Mapping[str, str]
    place: Place
    gain: Callable[[int, Tensor, Tensor], Gain]
    share: Callable[[int], float] = linear_share
    once_answered: OnceAnswered | None = None
    remembers_keys: bool = False


def block_or_mlp(model: LanguageModel) -> Place:
    """Return where MEMIT's targets are: at the block's output, which a change of the MLP's output moves by as much.

    Where a norm stands between the two, that does not hold, and the targets are at the MLP's output itself.
    """
    return "mlp" if model.anatomy.post_mlp_norm else "block"


def matrices(model: LanguageModel, method: str, layers: Sequence[int]) -> dict[int, Matrix]:
    """Return the down projections of the layers.

    Raises: MethodRefused: the model does not have one of them, has it offloaded, or has an encoder.
    """
    needs_causal_stream(model, method)
    beyond = [layer for layer in layers if layer >= model.anatomy.layers]
    if beyond:
        raise MethodRefused(
            f"{method} should edit layers {', '.join(map(str, layers))} of {model.name}, which has layers 0 to "
            f"{model.anatomy.layers - 1}: set `layers` in its settings."
        )
    edges = {layer: model.anatomy.down_projection(layer) for layer in layers}
    in_memory(method, edges.values())
    return edges


def edited_by_spreading(edited: EditedModel, requests: Sequence[EditRequest], how: Spreading) -> EditedModel:
    """Return `edited` with the requests on top as one batch; targets and keys are those of the model as edited so far.

    Identical requests count once. An edit that is the model's answer already is held as it is; where all of them are,
    nothing changes. An edit whose optimisation breaks down is left out, with a warning and a line in the record.

    Raises: ConflictingEdits: two requests want different targets for one fact. MethodRefused: the model lacks a
        layer, or no request is left.
    """
    if not requests:
        return edited
    refuse_conflicts(requests)
    started = time.perf_counter()
    model, settings = edited.model, how.settings
    edges = matrices(model, how.method, settings.layers)
    first_mention = first_mentions(requests)
    unique = sorted(set(first_mention))
    with stack_kept(model):
        edited.activate()
        contexts = prefix_contexts(model, lengths=settings.context_lengths, seed=settings.seed)
        problems = [value_problem(model, requests[position], contexts) for position in unique]
        outcomes = attempt_values(model, problems, settings.value_settings(how.place, how.once_answered))
        usable = _usable(how.method, outcomes)
        true = [problems[number].statement for number, outcome in usable.items() if outcome.already_true]
        warn_already_true(how.method, true)
        changes: tuple[Change, ...] = ()
        report: dict[str, Any] = {"layers": [], "residual_left": []}
        if len(true) < len(usable):
            chosen = [problems[number] for number in usable]
            changes, report = _written(edited, edges, chosen, _targets(usable.values()), how)
    by_request = dict(zip(unique, outcomes, strict=True))
    record = {
        "settings": asdict(settings),
        "provenance": dict(how.provenance),
        "contexts": len(contexts),
        "target_place": how.place,
        "edits_in_batch": len(usable),
        **report,
        "requests": [
            _described(request, by_request[first], first if first != position else None)
            for position, (request, first) in enumerate(zip(requests, first_mention, strict=True))
        ],
    }
    return edited.extended(AppliedEdit(how.method, tuple(requests), changes, record, time.perf_counter() - started))


def _usable(method: str, outcomes: Sequence[Outcome]) -> dict[int, OptimisedValue]:
    """The edits that have a target, by number.

    Raises: MethodRefused: none has.
    """
    failed = [outcome for outcome in outcomes if isinstance(outcome, FailedValue)]
    reasons = "; ".join(f"{failure.statement!r}: {failure.reason}" for failure in failed)
    advice = "Load the model in a wider type, or use a smaller step_size."
    if len(failed) == len(outcomes):
        raise MethodRefused(f"{method} found no target vector: {reasons}. {advice}")
    if failed:
        warnings.warn(
            f"{method} leaves out {len(failed)} of {len(outcomes)} edits, for which no target vector was found: "
            f"{reasons}. {advice}",
            RuntimeWarning,
            stacklevel=4,
        )
    return {number: outcome for number, outcome in enumerate(outcomes) if isinstance(outcome, OptimisedValue)}


def _targets(outcomes: Iterable[OptimisedValue]) -> Tensor:
    """The targets (edits, d_model); where a second place was optimised along, that one's vectors are dropped."""
    values = [outcome.value for outcome in outcomes]
    return torch.stack([value if value.ndim == 1 else value[-1] for value in values])


def _target_module(model: LanguageModel, layer: int, place: Place) -> nn.Module:
    return model.anatomy.block(layer) if place == "block" else model.anatomy.down_projection(layer).module


def _written(
    edited: EditedModel, edges: Mapping[int, Matrix], problems: Sequence[ValueProblem], targets: Tensor, how: Spreading
) -> tuple[tuple[Change, ...], dict[str, Any]]:
    """Compute the updates layer by layer, each in force while the next is computed; and what to report of them."""
    model, layers = edited.model, how.settings.layers
    prompts = [problem.prompts for problem in problems]
    module = _target_module(model, layers[-1], how.place)

    def missing() -> Tensor:
        """What the bare prompts' vectors lack, (d_model, edits), float64."""
        [outputs] = vectors(model, [edit[0] for edit in prompts], [(module, "output")])
        return (targets.to(outputs.device) - outputs).double().T

    deltas: dict[str, LowRank] = {}
    remembered: dict[str, Tensor] = {}
    reports: list[dict[str, Any]] = []
    in_force: list[Change] = list(edited.changes)
    residual = missing()
    at_first = residual.norm(dim=0)
    for number, (layer, matrix) in enumerate(edges.items()):
        keys = averaged_keys(model, matrix, prompts).double().T
        before = earlier_keys(edited.changes, matrix.name) if how.remembers_keys else None
        earlier = keys[:, :0] if before is None else before.to(keys)
        gain = how.gain(layer, keys, earlier)
        shares = how.share(len(layers) - number) * residual.to(keys.device)
        update = LowRank(shares.to(targets.dtype), gain.factor.to(targets.dtype))
        weight_norm = float(matrix.weight().detach().double().norm())
        reports.append(
            {
                "layer": layer,
                "relative_norm": frobenius(shares, gain.factor) / weight_norm if weight_norm else None,
                "fit_residual": fit_residual(shares, gain.factor, keys),
                "earlier_keys": earlier.shape[1],
                **gain.report,
            }
        )
        deltas[matrix.name] = update
        remembered[matrix.name] = keys.to(targets.dtype)
        in_force.append(WeightDelta({matrix.name: update}))
        switch(model, in_force)
        residual = missing()
    asked = at_first > NOTHING_ASKED * at_first.max()
    left = [float(part) if some else None for part, some in zip(residual.norm(dim=0) / at_first, asked, strict=True)]
    changes: tuple[Change, ...] = (WeightDelta(deltas),)
    if how.remembers_keys:
        changes = (*changes, KeyMemory(remembered))
    return changes, {"layers": reports, "residual_left": left}


def frobenius(left: Tensor, right: Tensor) -> float:
    """||left right^T|| from the factors (rows, rank) and (columns, rank)."""
    return float(((left.T @ left) * (right.T @ right)).sum().clamp_min(0).sqrt())


def fit_residual(shares: Tensor, factor: Tensor, keys: Tensor) -> float:
    """||Delta K - S|| / ||S|| for Delta = S A^T: how far the new matrix is from what it should put out at the keys.

    Args:
        shares: S, (d_model, edits).
        factor: A, (d_ff, edits).
        keys: K, (d_ff, edits).
    """
    asked = shares.norm()
    return float((shares @ (factor.T @ keys) - shares).norm() / asked) if asked > 0 else 0.0


def _described(request: EditRequest, outcome: Outcome, first: int | None) -> dict[str, Any]:
    """One request's line of the record."""
    line: dict[str, Any] = {"request": request.statement, "duplicate_of": first}
    if isinstance(outcome, FailedValue):
        return {**line, "failure": outcome.reason}
    return {
        **line,
        "failure": None,
        "already_true": outcome.already_true,
        "loss": outcome.loss,
        "target_probability": math.exp(-outcome.nll),
        "drift": outcome.drift,
        "updates": outcome.updates,
        "relative_shift": float(outcome.delta.norm() / outcome.base.norm()),
    }
