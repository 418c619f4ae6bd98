"""Layers that causal tracing has found, for a setting that asks for them: `layer = "traced:trace.json"`.

The file is one that `editguard trace --json` has written of the same model. A method never traces by itself: which
facts to go by is the user's choice, and the file keeps it, with the evidence, where a review can see it.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, Final

from editguard.errors import InvalidSettings

PREFIX: Final = "traced:"
SETTINGS: Final = ("layer", "layers")
"""What tracing can tell: the one layer to edit, or the neighbouring ones."""


def asks_for_tracing(value: Any) -> bool:
    """Whether a setting's value names a trace instead of saying the value itself."""
    return isinstance(value, str) and value.startswith(PREFIX)


def traced(name: str, value: str, *, folder: Path, fingerprint: str, where: str) -> tuple[Any, str]:
    """Return what the trace says of a setting, and where it comes from in words.

    Args:
        name: of the setting, `layer` or `layers`.
        value: "traced:" and the path of the file.
        folder: which a relative path starts from.
        fingerprint: of the model that is to be edited.
        where: the method and the place of the value, for messages.

    Raises: InvalidSettings: another setting, no such file, none of a trace, or one of another model.
    """
    if name not in SETTINGS:
        raise InvalidSettings(f"{where}: tracing tells {' and '.join(SETTINGS)}, not {name!r}.")
    given = value.removeprefix(PREFIX).strip()
    path = folder / Path(given).expanduser()
    try:
        trace = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        reason = "there is no such file" if isinstance(problem, FileNotFoundError) else problem
        raise InvalidSettings(
            f"{where}: the trace {path} cannot be read ({reason}). Write it with `editguard trace --json {given}`."
        ) from None
    try:
        found = trace["suggestion"]
        facts, kind, effects, doubt = found["facts"], found["kind"], found["effects"], found["warning"]
        chosen = int(found["layer"]) if name == "layer" else tuple(int(layer) for layer in found["layers"])
        effect = sum(effects[layer] for layer in (chosen if isinstance(chosen, tuple) else (chosen,)))
        traced_model, of = trace["fingerprint"], trace["model"]
    except (KeyError, TypeError, ValueError, IndexError):
        raise InvalidSettings(f"{where}: {path} is no trace that `editguard trace --json` has written.") from None
    if traced_model != fingerprint:
        raise InvalidSettings(
            f"{where}: {path} is a trace of other weights ({of}, {traced_model}) than this model's ({fingerprint}): "
            "trace this model, in the type that it is loaded in."
        )
    if doubt:
        warnings.warn(
            f"{where}: {name} = {chosen} comes from {path}, which doubts it: {doubt}", RuntimeWarning, stacklevel=2
        )
    return chosen, f"derived by tracing: {given}, effect {effect:.3g} of the {kind} over {facts} facts"
