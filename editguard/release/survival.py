"""What happens to a model's weights before it is used: rounding, further training; and it taken back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch

from editguard.edited import AppliedEdit, EditedModel
from editguard.errors import ConfigurationError, closest
from editguard.release.further_training import FineTuning, FurtherTraining, LoraMerge
from editguard.release.rounding import Rounding, quantised, rounded
from editguard.release.torchao_weights import quantised_by_torchao, require_torchao

if TYPE_CHECKING:
    from editguard.models.language_model import Change


class Fate(Protocol):
    """One thing that may happen to weights; equal ones do the same."""

    @property
    def label(self) -> str:
        """Its name, with what was set otherwise than by default: no other one in a run has the same."""

    def change(self, edited: EditedModel) -> Change:
        """Return it as a change on top of an edited model's. Raises: MethodRefused: it cannot be done."""


_ROUNDINGS: Final = (
    Rounding("bfloat16", partial(rounded, dtype=torch.bfloat16)),
    Rounding("float16", partial(rounded, dtype=torch.float16)),
    Rounding("int8", partial(quantised, bits=8), matrices=True),
    Rounding("int4", partial(quantised, bits=4), matrices=True),
    Rounding("torchao-int8", partial(quantised_by_torchao, bits=8), matrices=True, require=require_torchao),
    Rounding("torchao-int4", partial(quantised_by_torchao, bits=4), matrices=True, require=require_torchao),
)

FATES: Final[Mapping[str, Rounding | type[FurtherTraining]]] = MappingProxyType(
    {
        **{rounding.label: rounding for rounding in _ROUNDINGS},
        FineTuning.label: FineTuning,
        LoraMerge.label: LoraMerge,
    }
)
"""By the name that suites use. Of the number types only the rounding of weights is done: passes compute as before."""


def named_fate(name: str, *, texts: Sequence[str] | None = None, otherwise: Sequence[str] = (), **options: Any) -> Fate:
    """The fate of a name.

    Args:
        name: one of `FATES`.
        texts: what a further training reads.
        otherwise: what it reads where no `texts` are given.
        options: of a further training; see `FineTuning` and `LoraMerge`.

    Raises: ConfigurationError: there is no such fate, it has no such option, or an option cannot be used.
    """
    kind = known_fate(name)
    if isinstance(kind, Rounding):
        if options or texts is not None:
            raise ConfigurationError(f"{name} rounds weights and has no options; got {', '.join(options) or 'texts'}.")
        if kind.require is not None:
            kind.require()
        return kind
    known = {each.name: each for each in fields(kind) if each.name not in ("label", "texts")}
    for option, value in options.items():
        if option not in known:
            raise ConfigurationError(
                f"{name} has the options texts, {', '.join(known)}, and no {option!r}.{closest(option, known)}"
            )
        wanted = type(known[option].default)
        if isinstance(value, bool) or not isinstance(value, int if wanted is int else int | float):
            raise ConfigurationError(f"{name}: {option} is a {'whole ' * (wanted is int)}number, not {value!r}.")
    if texts is not None and (isinstance(texts, str) or not all(isinstance(text, str) for text in texts)):
        raise ConfigurationError(f"{name}: texts are a list of texts, or the path of a file with one a line.")
    shown = [f"{option}={value!r}" for option, value in options.items() if value != known[option].default]
    if texts is not None:
        shown.insert(0, f"texts={hashlib.sha256(repr(list(texts)).encode()).hexdigest()[:8]}")
    label = f"{name}({', '.join(sorted(shown))})" if shown else name
    return kind(label=label, texts=tuple(otherwise if texts is None else texts), **options)


def known_fate(name: str) -> Rounding | type[FurtherTraining]:
    """What a name stands for. Raises: ConfigurationError: for nothing."""
    if name not in FATES:
        raise ConfigurationError(f"a model is asked after one of {', '.join(FATES)}.{closest(name, FATES)}")
    return FATES[name]


def aged(edited: EditedModel, fate: str | Fate) -> EditedModel:
    """The model after what is going to happen to its weights; the same edits, and reversible like one more.

    Raises: ConfigurationError: there is no such fate. MethodRefused: it cannot be done.
    """
    fate = named_fate(fate) if isinstance(fate, str) else fate
    return edited.extended(AppliedEdit(f"after {fate.label}", (), (fate.change(edited),)))
