"""Signs of collapse that cost little, read after every edit of a sequence.

Sources: Yang et al., "The Butterfly Effect of Model Editing" (ACL Findings 2024), for the perplexity; Gupta,
Baskaran, Anumanchipalli, "Rebuilding ROME" (2024), for the size of the updates; Meng et al. (2022) for the n-grams.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final, Self

from editguard.edited import EditedModel, WeightDelta
from editguard.measurements.drift import Onset, onset
from editguard.measurements.fluency import continuing, ngram_entropy
from editguard.measurements.perplexity import log_perplexity, parted

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel

CONTINUED_TOKENS: Final = 16
CONTINUED: Final = 1
"""How many of the texts are continued from their beginnings."""


@dataclass(frozen=True, kw_only=True)
class Signals:
    """The state of a model after some edits of a sequence.

    Attributes:
        edits: how many are in force.
        log_perplexity: of fixed texts, mean in nats per token; None where a probability is no finite number.
        entropy: of the n-grams of free continuations, mean in bits; it falls where a model repeats itself. None where
            the continuations have hardly a word.
        weights: parameter's name -> norm of its change relative to the norm of the unedited parameter.
    """

    edits: int
    log_perplexity: float | None
    entropy: float | None
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def weight_change(self) -> float:
        """The largest relative change of a parameter; 0 without any."""
        return max(self.weights.values(), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote. Raises: TypeError: a field is missing or unknown."""
        return cls(**record)


def read_signals(edited: EditedModel, edits: int, texts: Sequence[str], *, seed: int = 0) -> Signals:
    """Read the signs of a model's present state.

    Args:
        edited: the model, which is in force afterwards.
        edits: how many requests it holds.
        texts: fixed texts of several words that no edit is about.
        seed: of the continuations.
    """
    usable = [text for text in texts if parted(text) is not None]
    losses = log_perplexity(edited, usable)
    finite = [loss for loss in losses if loss is not None]
    beginnings = [" ".join(text.split()[:2]) for text in usable[:CONTINUED]]
    continued = continuing(edited, seed)(beginnings, tokens=CONTINUED_TOKENS) if beginnings else []
    entropies = [found for text in continued if (found := ngram_entropy(text)) is not None]
    return Signals(
        edits=edits,
        log_perplexity=fmean(finite) if finite and len(finite) == len(losses) else None,
        entropy=fmean(entropies) if entropies else None,
        weights=relative_changes(edited),
    )


def relative_changes(edited: EditedModel) -> dict[str, float]:
    """Frobenius norm of each parameter's change over that of the unedited parameter; 0 / 0 is 0.

    Parameters that share their numbers are named once. The model is in force afterwards.
    """
    edited.activate()
    changed = [change.deltas for change in edited.changes if isinstance(change, WeightDelta)]
    return {
        name: _relative(edited.model, name) for name in dict.fromkeys(name for deltas in changed for name in deltas)
    }


def _relative(model: LanguageModel, name: str) -> float:
    pristine = model.weights.pristine(name).float()
    present = model.module.get_parameter(name).detach().float()
    change, whole = (present - pristine).norm().item(), pristine.norm().item()
    return change / whole if whole else 0.0 if not change else float("inf")


SIGNALS: Final = ("log-perplexity (nats)", "n-gram entropy (bits)", "largest weight change")


@dataclass(frozen=True)
class Series:
    """The signals of one sequence, in the order of its edits."""

    method: str
    points: tuple[Signals, ...]

    def values(self, signal: str) -> list[float | None]:
        """One of `SIGNALS` over the edits."""
        read: dict[str, Callable[[Signals], float | None]] = {
            SIGNALS[0]: lambda point: point.log_perplexity,
            SIGNALS[1]: lambda point: point.entropy,
            SIGNALS[2]: lambda point: point.weight_change,
        }
        return [read[signal](point) for point in self.points]

    def onset(self, signal: str) -> Onset | None:
        """Where it begins to get worse: perplexity rises, entropy falls. Weights change with every edit: None."""
        if signal == SIGNALS[2]:
            return None
        return onset([point.edits for point in self.points], self.values(signal), rises=signal == SIGNALS[0])
