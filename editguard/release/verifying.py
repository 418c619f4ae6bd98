"""Whether a release is still what was released: its files, and the answers of what is loaded from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from editguard.edited import EditedModel
from editguard.release.answers import ask, differences, tolerance
from editguard.release.factors import read_factors
from editguard.release.manifest import Manifest

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel


def loading_options(manifest: Manifest) -> dict[str, Any]:
    """How the model was loaded, as `load_model` takes it: the same type, batch size and chat template.

    The type is that of most weights: some models keep a few of theirs in float32 whatever was asked for.
    """
    settings = manifest.environment.record["settings"]
    return {
        "dtype": settings["dtype"],
        "batch_size": settings["batch_size"],
        "chat": "on" if settings["chat"] else "off",
    }


def edited_from(folder: Path, manifest: Manifest, model: LanguageModel) -> EditedModel:
    """The released model, from what was loaded: the base for factors, else the folder itself.

    Raises: ReleaseError: the base is another model, or the edits are damaged.
    """
    if manifest.form == "factors":
        return read_factors(folder, manifest, model)
    return EditedModel.original(model)


def answer_differences(manifest: Manifest, edited: EditedModel) -> list[str]:
    """One line for each way in which a loaded release differs from what was released.

    Compared are the bytes of all weights where the release is a whole model, then every answer and score. The weights
    of factors are computed anew, on whatever device; their answers tell.
    """
    lines = []
    with edited:
        if manifest.form == "model" and edited.model.weights.digest() != manifest.weights:
            lines.append("the weights that were loaded are not those that were released")
        found = ask(edited, manifest.answers)
    return lines + differences(manifest.answers, found, within=tolerance(loading_options(manifest)["dtype"]))
