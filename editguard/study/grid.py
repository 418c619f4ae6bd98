"""Models x data sets: one study for each pair, each in a folder of its own."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from editguard.errors import ConfigurationError

_SEPARATOR: Final = "--"
_UNSAFE: Final = re.compile(r"[^\w.+-]+|-{2,}")


def studies(options: argparse.Namespace) -> list[argparse.Namespace]:
    """The options of each study that the command asks for: those given, where there is one model and one data set.

    Of several, each has its model, its cases, and a folder below `--out` that is named after them.

    Raises: ConfigurationError: something was named twice, or a revision goes with several models.
    """
    models = [name for part in options.model.split(",") if (name := part.strip())]
    data = list(options.cases)
    if not models:
        raise ConfigurationError("--model names no model.")
    if len(models) > 1 and options.revision is not None:
        raise ConfigurationError("--revision is of one model; give every model a command of its own, or leave it out.")
    named = dict(zip(models, _labels("--model", models), strict=True))
    known = dict(zip(data, _labels("--cases", [str(path.parent / path.stem) for path in data]), strict=True))
    pairs = [(model, cases) for model in models for cases in data or [None]]
    found = []
    for model, cases in pairs:
        name = _SEPARATOR.join([named[model], *([known[cases]] if cases is not None and len(data) > 1 else [])])
        out = options.out / name if len(pairs) > 1 else options.out
        found.append(argparse.Namespace(**{**vars(options), "model": model, "cases": cases, "out": out}))
    return found


def _labels(option: str, names: Sequence[str]) -> list[str]:
    """The shortest ends of paths that tell them apart, as names of folders.

    Raises: ConfigurationError: one is there twice.
    """
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigurationError(f"{option} names {twice} twice.")
    parts = [[_UNSAFE.sub("_", part).strip(".-") or "_" for part in Path(name).parts] or ["_"] for name in names]
    for length in range(1, max(map(len, parts), default=0) + 1):
        labels = ["-".join(each[-length:]) for each in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{'-'.join(each)}-{at}" for at, each in enumerate(parts, start=1)]
