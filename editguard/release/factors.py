"""A release of the edits alone: the chain as safetensors and JSON, over a base that must be the same model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from editguard.edited.chain_file import read_chain, write_chain
from editguard.errors import ReleaseError
from editguard.release.manifest import CHAIN, Manifest

if TYPE_CHECKING:
    from editguard.edited import EditedModel
    from editguard.models.language_model import LanguageModel


def write_factors(folder: Path, edited: EditedModel, method: str) -> None:
    """Write the chain of edits.

    Raises: ReleaseError: it holds a kind of change that has no form on disk. CacheError: see `write_chain`.
    """
    if not write_chain(folder / CHAIN, edited, {}):
        kinds = ", ".join(dict.fromkeys(type(change).__name__ for change in edited.changes))
        raise ReleaseError(
            f"edits of {method} ({kinds}) cannot be written to a file: only updates of weights and added neurons can. "
            "Choose a method that changes weights; `editguard methods` says which do."
        )


def read_factors(folder: Path, manifest: Manifest, base: LanguageModel) -> EditedModel:
    """The edits of a release over their base.

    Raises: ReleaseError: the base is another model, or the chain is damaged.
    """
    refuse_other_base(folder, manifest, base)
    places = base.devices
    found = read_chain(folder / CHAIN, base, device=places[0] if len(places) == 1 else None)
    if found is None:
        raise ReleaseError(f"the edits in {folder / CHAIN} are damaged, or of a later version: release them again.")
    return found[0]


def refuse_other_base(folder: Path, manifest: Manifest, base: LanguageModel) -> None:
    """Refuse a model that is not the one that was edited.

    Raises: ReleaseError: its fingerprint is another; names both.
    """
    wanted = manifest.base
    if base.fingerprint() != wanted.fingerprint:
        made, dtype = manifest.environment.record["settings"]["dtype"], str(base.module.dtype).removeprefix("torch.")
        revision = f" (revision {wanted.revision})" if wanted.revision else ""
        raise ReleaseError(
            f"the release in {folder} was made over {wanted.name}{revision} in {made}, with the fingerprint "
            f"{wanted.fingerprint}; {base.name} in {dtype} has {base.fingerprint()}. Give the same model, revision and "
            "dtype."
        )
