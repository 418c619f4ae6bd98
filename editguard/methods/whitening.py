"""Second moments of keys in the form in which methods use them: derived once per model and layer, and kept.

Methods write the closed form with C^-1; here C is factorised once, C = L L^T, and every later edit costs two
triangular solves. The layers of a method come from one pass over the text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from editguard.edited import EditedModel
from editguard.errors import MethodRefused, MissingMaterial
from editguard.models.second_moment import Pace, SecondMoment, second_moments

if TYPE_CHECKING:
    from editguard.methods.protocol import Preparation
    from editguard.models.language_model import LanguageModel

_ITERATIONS: Final = 30

_Derived = TypeVar("_Derived")


@dataclass(frozen=True, eq=False)
class Whitening:
    """The factorised second moment of one layer's keys.

    Attributes:
        lower: the Cholesky factor of the shrunk moment, (d_ff, d_ff), float64.
        record: how it was obtained, ready for JSON.
    """

    lower: Tensor
    record: Mapping[str, Any]

    @classmethod
    def of(cls, moment: SecondMoment, shrinkage: float) -> Whitening:
        """Factorise a second moment, shrunk towards a multiple of the identity.

        Raises: MethodRefused: it is singular, and the shrinkage too small to mend that.
        """
        factor = moment.cholesky(shrinkage)
        record = {
            "key": moment.key,
            "tokens": moment.tokens,
            "shrinkage": factor.shrinkage,
            "jitter": factor.jitter,
            "condition_number_at_least": condition_number_at_least(factor.lower),
            "dead_units": moment.dead_units,
        }
        return cls(factor.lower, record)

    def solve(self, right: Tensor) -> Tensor:
        """C^-1 right for keys (d_ff,) or (d_ff, columns); float64, on the device of `right`."""
        columns = right.double() if right.ndim == 2 else right.double()[:, None]
        solved = torch.cholesky_solve(columns, self.lower.to(columns.device))
        return solved.reshape(right.shape)


def condition_number_at_least(lower: Tensor) -> float:
    """A bound from below on the condition number of L L^T, that is close for most matrices; lower L: (n, n).

    Rayleigh quotients after a few power iterations with the matrix and with its inverse: no eigenvalue problem, so
    the cost is that of some dozens of solves.
    """
    start = torch.ones(lower.shape[0], 1, dtype=lower.dtype, device=lower.device)
    start[::2] = -0.5  # not orthogonal to the usual extreme directions, and the same at every call
    largest = _rayleigh(lambda vector: lower @ (lower.T @ vector), start)
    inverse = _rayleigh(lambda vector: torch.cholesky_solve(vector, lower), start)
    pivots = lower.diagonal() ** 2
    return max(largest * inverse, float(pivots.max() / pivots.min()))


def _rayleigh(apply: Callable[[Tensor], Tensor], start: Tensor) -> float:
    """A bound from below on the largest eigenvalue of a symmetric positive map."""
    vector = start / start.norm()
    value = 0.0
    for _ in range(_ITERATIONS):
        image = apply(vector)
        value = float((vector * image).sum())
        vector = image / image.norm()
    return value


class LayerStatistics(Generic[_Derived]):
    """What a method derives from the second moments of its layers, for each model apart.

    Args:
        method: registered name, for messages.
        derive: from one layer's second moment to what the method needs of it.
        alternative: how the method does without, where it can; ends the message about a missing corpus.
    """

    def __init__(self, method: str, derive: Callable[[SecondMoment], _Derived], *, alternative: str = "") -> None:
        self._method = method
        self._derive = derive
        self._alternative = alternative
        self._kept: WeakKeyDictionary[LanguageModel, tuple[str, Mapping[int, _Derived]]] = WeakKeyDictionary()

    def prepare(self, model: LanguageModel, layers: Sequence[int], data: Preparation) -> None:
        """Derive the statistics of all the layers from one pass of the unedited model over the texts.

        Nothing happens when that was done for this model from the same texts, tokens and seed; other ones replace
        what is there. A call without texts keeps what is there.

        Raises: MissingMaterial: there is no text, now or earlier.
        """
        texts = tuple(data.texts)
        if not texts:
            if model in self._kept:
                return
            raise MissingMaterial(
                f"{self._method} needs running text for the second moments of the keys (--editguard-corpus FILE, one "
                f"document per line; Preparation(texts=...) from Python){self._alternative}."
            )
        tokens = data.second_moment_tokens or 10 * model.anatomy.d_ff
        key = _content(texts, tokens, data.seed, sorted(layers))
        if model in self._kept and self._kept[model][0] == key:
            return
        named = ", ".join(map(str, sorted(layers)))
        which = f"moment of layer {named}" if len(layers) == 1 else f"moments of layers {named}"
        pace = Pace()
        with EditedModel.original(model):
            moments = second_moments(
                model,
                layers,
                texts,
                tokens=tokens,
                seed=data.seed,
                cache_dir=data.cache_dir,
                on_progress=lambda done, of: data.on_progress(f"{self._method}: second {which}, {pace(done, of)}"),
            )
        self._kept[model] = (key, {layer: self._derived(model, layer, moment) for layer, moment in moments.items()})

    def of(self, model: LanguageModel) -> Mapping[int, _Derived]:
        """Return the statistics by layer.

        Raises: MethodRefused: nothing was prepared for this model.
        """
        if model not in self._kept:
            raise MethodRefused(
                f"{self._method} was not prepared for this model: call prepare(model, Preparation(texts=...)) first."
            )
        return self._kept[model][1]

    def _derived(self, model: LanguageModel, layer: int, moment: SecondMoment) -> _Derived:
        """Derive where the layer's keys are, so that later edits move no matrix; on the CPU where there is no room."""
        device = model.anatomy.down_projection(layer).device
        if device.type == "cuda":
            try:
                return self._derive(replace(moment, matrix=moment.matrix.to(device)))
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
        return self._derive(moment)


def _content(texts: Sequence[str], *rest: object) -> str:
    digest = hashlib.sha256(repr(rest).encode())
    for text in texts:
        raw = text.encode()
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()
