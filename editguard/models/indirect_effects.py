"""What causal tracing has found: indirect effects by token and layer, and the layers that they suggest to edit.

Source: Meng, Bau, Andonian, Belinkov, "Locating and Editing Factual Associations in GPT", NeurIPS 2022, section 2. The
tracing itself is in `causal_tracing`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor

from editguard.errors import InvalidEdit, InvalidSettings

Kind = Literal["block", "mlp", "attention"]
"""Which state is restored: a block's output, or what its MLP or its attention adds to the residual stream."""
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

Role = Literal["first subject token", "middle subject tokens", "last subject token", "further tokens", "last token"]
"""What a token is in its prompt. A subject's only token is its last one; a subject's last token that ends the prompt
is the last token, because restoring it there restores the answer as such."""
ROLES: Final[tuple[Role, ...]] = get_args(Role)

SIGNIFICANCE: Final = 0.05
"""Level at which a peak among the layers is told from an accident."""


@dataclass(frozen=True, kw_only=True)
class TraceSettings:
    """How to trace; defaults are the paper's."""

    kinds: tuple[Kind, ...] = KINDS
    """What to restore, each in runs of its own."""
    draws: int = 10
    """Noise draws per fact; probabilities are averaged over them."""
    noise: float = 3.0
    """Standard deviation of the noise, in units of that of the embeddings of all subjects' tokens."""
    window: int | None = None
    """Neighbouring layers whose MLP (or attention) is restored together; None = ten of 48, in proportion."""
    seed: int = 0
    """Of the noise; a fact's noise depends on the seed and on the fact alone."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", tuple(dict.fromkeys(self.kinds)))
        if not self.kinds or set(self.kinds) - set(KINDS):
            raise InvalidSettings(f"kinds are some of {', '.join(KINDS)}, not {', '.join(self.kinds) or 'none'}.")
        if self.draws < 1:
            raise InvalidSettings(f"draws is at least 1, not {self.draws}.")
        if not self.noise > 0:
            raise InvalidSettings(f"noise is positive, not {self.noise}.")
        if self.window is not None and self.window < 1:
            raise InvalidSettings(f"window is at least 1, not {self.window}.")

    def window_for(self, layers: int) -> int:
        """The window's width in a model of so many layers."""
        return self.window if self.window is not None else max(1, round(10 * layers / 48))


# ---- results


@dataclass(frozen=True, eq=False)
class FactTrace:
    """What tracing one fact has found.

    Attributes:
        text, answer: the fact.
        tokens: the prompt's tokens as text.
        subject: positions of the subject's first and last token.
        clean, corrupted: probability of the answer's first token in these runs, the latter averaged over draws.
        probabilities: kind -> (tokens, layers), the same in the restored runs. Before the subject nothing was
            corrupted, so restoring it gives the corrupted run.
    """

    text: str
    answer: str
    tokens: tuple[str, ...]
    subject: tuple[int, int]
    clean: float
    corrupted: float
    probabilities: Mapping[Kind, Tensor]

    @cached_property
    def roles(self) -> tuple[Role | None, ...]:
        """Each token's role; None before the subject."""
        first, last = self.subject

        def role(position: int) -> Role | None:
            if position == len(self.tokens) - 1:
                return "last token"
            if position == last:
                return "last subject token"
            if position > last:
                return "further tokens"
            if position == first:
                return "first subject token"
            return "middle subject tokens" if position > first else None

        return tuple(role(position) for position in range(len(self.tokens)))

    def effects(self, kind: Kind) -> dict[Role, Tensor]:
        """Role -> indirect effect (layers,), averaged over the role's tokens; roles that the prompt has."""
        effect = self.probabilities[kind] - self.corrupted
        places = {role: [at for at, other in enumerate(self.roles) if other == role] for role in ROLES}
        return {role: effect[at].mean(0) for role, at in places.items() if at}


@dataclass(frozen=True, eq=False)
class CausalTrace:
    """What tracing a set of facts has found.

    Attributes:
        model: its name.
        fingerprint: of its weights, configuration and tokenizer.
        layers: its number of blocks.
        settings: how it was traced.
        sigma: standard deviation of the noise, in units of the embeddings.
        window: width of the window of MLPs, or attentions, restored together.
        facts: the traced facts.
        unknown: facts left out because the model answers them otherwise.
        seconds: wall-clock time.
    """

    model: str
    fingerprint: str
    layers: int
    settings: TraceSettings
    sigma: float
    window: int
    facts: tuple[FactTrace, ...]
    unknown: tuple[str, ...]
    seconds: float

    def by_fact(self, kind: Kind, role: Role) -> Tensor:
        """Indirect effects (facts that have the role, layers)."""
        found = [effects[role] for fact in self.facts if role in (effects := fact.effects(kind))]
        return torch.stack(found) if found else torch.zeros(0, self.layers, dtype=torch.float64)

    def average_effects(self, kind: Kind) -> dict[Role, Tensor]:
        """Role -> average indirect effect (layers,), over the facts that have the role."""
        tables = {role: self.by_fact(kind, role) for role in ROLES}
        return {role: table.mean(0) for role, table in tables.items() if len(table)}

    @property
    def total_effect(self) -> float:
        """Average of clean minus corrupted probability: what a restoration can bring back at most, as a rule."""
        return statistics.fmean(fact.clean - fact.corrupted for fact in self.facts)

    def as_dict(self) -> dict[str, Any]:
        """All figures as plain data."""
        return {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "layers": self.layers,
            "settings": asdict(self.settings),
            "sigma": self.sigma,
            "window": self.window,
            "unknown": list(self.unknown),
            "seconds": self.seconds,
            "total_effect": self.total_effect,
            "average_effects": {
                kind: {role: effect.tolist() for role, effect in self.average_effects(kind).items()}
                for kind in self.settings.kinds
            },
            "facts": [
                {
                    "text": fact.text,
                    "answer": fact.answer,
                    "tokens": list(fact.tokens),
                    "roles": list(fact.roles),
                    "clean": fact.clean,
                    "corrupted": fact.corrupted,
                    "probabilities": {kind: table.tolist() for kind, table in fact.probabilities.items()},
                }
                for fact in self.facts
            ],
        }


# ---- which layers to edit


@dataclass(frozen=True)
class Suggestion:
    """The layers to edit, and what speaks for them.

    Attributes:
        kind: the restorations that it goes by.
        layer: where the average indirect effect at the last subject token is highest (for one edited layer).
        layers: the neighbouring layers with the highest sum of it (for several).
        effects: that average for each layer, unit: probability.
        standard_errors: of these averages, over facts.
        facts: how many facts they are averages of.
        warning: why the peak may be an accident; empty where it is not.
    """

    kind: Kind
    layer: int
    layers: tuple[int, ...]
    effects: tuple[float, ...]
    standard_errors: tuple[float, ...]
    facts: int
    warning: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The suggestion as plain data."""
        return asdict(self)


def suggest_layers(trace: CausalTrace, *, width: int | None = None) -> Suggestion:
    """Return the layers whose restoration at the last subject token brings back most of the answer.

    Args:
        trace: with MLPs restored, which is what editing methods change; otherwise its first kind is gone by.
        width: how many neighbouring layers to suggest for methods that edit several; None = five, and no more than a
            third of the model.

    The effect counts as flat when the peak is not above the mean of all layers by more than chance allows: a paired
    test over facts, corrected for the peak being the best of all layers (Bonferroni).

    Raises: InvalidEdit: no traced fact has a last subject token that does not end the prompt.
    """
    kind: Kind = "mlp" if "mlp" in trace.settings.kinds else trace.settings.kinds[0]
    table = trace.by_fact(kind, "last subject token")
    if not len(table):
        raise InvalidEdit("every traced prompt ends with its subject, so that its last token tells nothing by itself.")
    width = width if width is not None else max(1, min(5, trace.layers // 3))
    mean = table.mean(0)
    peak = int(mean.argmax())
    sums = mean.unfold(0, width, 1).sum(1)
    start = int(sums.argmax())
    errors = table.std(0) / len(table) ** 0.5 if len(table) > 1 else torch.full_like(mean, float("nan"))
    return Suggestion(
        kind=kind,
        layer=peak,
        layers=tuple(range(start, start + width)),
        effects=tuple(mean.tolist()),
        standard_errors=tuple(errors.tolist()) if len(table) > 1 else (),
        facts=len(table),
        warning=_doubt(table, peak, trace),
    )


def _doubt(table: Tensor, peak: int, trace: CausalTrace) -> str:
    """Why the peak of effects (facts, layers) may be an accident."""
    if trace.total_effect <= 0:
        return "the noise on the subject does not make the answer less likely, so there is nothing to restore."
    if len(table) < 3:
        return f"{len(table)} facts are too few to tell a peak from an accident."
    above = table[:, peak] - table.mean(1)
    critical = statistics.NormalDist().inv_cdf(1 - SIGNIFICANCE / table.shape[1])
    error = float(above.std()) / len(table) ** 0.5
    if float(above.mean()) > critical * error:
        return ""
    return (
        f"the effect is flat: the best layer is {float(above.mean()):.4f} above the mean of all layers, with a "
        f"standard error of {error:.4f} over {len(table)} facts. Any of these layers may do; trace more facts."
    )
