"""Bringing the physical model from one stack of changes to another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from editguard.edited.weight_delta import WeightDelta

if TYPE_CHECKING:
    from editguard.models.language_model import Change, LanguageModel


def switch(model: LanguageModel, stack: Sequence[Change]) -> None:
    """Bring the model to exactly this stack of changes, oldest first.

    The common prefix of the stack in force and the wanted one stays; the rest goes newest first, then the
    missing changes come oldest first. When one of them raises, the stack that was in force comes back.
    """
    before = list(model.installed)
    try:
        _move(model, stack)
    except BaseException:
        _move(model, before)
        raise


@contextmanager
def stack_kept(model: LanguageModel) -> Iterator[None]:
    """Leave the model with the stack of changes that it had on entry, whatever happens inside."""
    before = tuple(model.installed)
    with model.weights.marked():
        try:
            yield
        finally:
            switch(model, before)


def _move(model: LanguageModel, stack: Sequence[Change]) -> None:
    kept = 0
    for present, wanted in zip(model.installed, stack, strict=False):
        if present is not wanted:
            break
        kept += 1
    while len(model.installed) > kept:
        _take_off(model, kept)
    for change in stack[kept:]:
        change.install(model)
        model.installed.append(change)


def _take_off(model: LanguageModel, kept: int) -> None:
    """Undo the newest change, and with a weight delta all those right below it in one step."""
    installed = model.installed
    run = 0
    while len(installed) - run > kept and isinstance(installed[-1 - run], WeightDelta):
        run += 1
    if run:
        model.weights.pop(run)
    else:
        installed[-1].uninstall(model)
    del installed[len(installed) - max(run, 1) :]
