"""A model that was edited elsewhere, as changes of its base: suites ask it as they ask what a method leaves behind."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from editguard.edited import AppliedEdit, ReplacedWeights
from editguard.errors import MethodRefused, ReleaseError
from editguard.models.weights import tensor_sha256
from editguard.release.checkpoint import changed_weights
from editguard.release.factors import read_factors, refuse_other_base
from editguard.release.manifest import MANIFEST, file_sha256, is_release, read_manifest

if TYPE_CHECKING:
    from editguard.edited import EditedModel
    from editguard.edits import EditRequest
    from editguard.models.language_model import Change, LanguageModel


@dataclass(frozen=True)
class CandidateSettings:
    """What identifies a candidate: baselines keep it where methods have their settings.

    Attributes:
        content: 16 hex digits of what it changes in the base, the same wherever its folder lies.
    """

    content: str


@dataclass(frozen=True)
class Candidate:
    """An edited model over its base.

    Attributes:
        folder: where it was read from.
        changes: all that it differs in.
        settings: what identifies it.
        tells: what it is, in words.
    """

    name: ClassVar[str] = "candidate"

    folder: Path
    changes: tuple[Change, ...]
    settings: CandidateSettings
    tells: str

    def apply(self, edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
        """Return the candidate, over the unedited base; it holds what was edited before, whatever is asked about it.

        Raises: ReleaseError: the base cannot take it.
        """
        candidate = edited.extended(AppliedEdit(self.name, tuple(requests), self.changes))
        try:
            candidate.activate()
        except MethodRefused as refused:
            raise ReleaseError(f"the candidate {self.folder} cannot be put into the base: {refused}") from refused
        return candidate


def read_candidate(folder: Path, base: LanguageModel) -> Candidate:
    """Read a model folder, or what `editguard release` wrote, as changes of its base.

    The base is asked for its pristine weights, whatever edits are in force; its memory grows by the changed tensors.

    Raises: ReleaseError: it cannot be read, is not what was released, or is no edit of this base; says what to do.
    """
    if is_release(folder):
        manifest = read_manifest(folder)
        if manifest.form == "factors":
            edited = read_factors(folder, manifest, base)
            content = file_sha256(folder / MANIFEST)[:16]
            tells = f"{_count(len(manifest.requests), 'edit')} by {manifest.method} as factors"
            return Candidate(folder, edited.changes, CandidateSettings(content), tells)
        refuse_other_base(folder, manifest, base)
    values = changed_weights(folder, base)
    digest = hashlib.sha256()
    for name in sorted(values):
        digest.update(f"{name} {tensor_sha256(values[name].value)}\n".encode())
    changes = (ReplacedWeights(values),) if values else ()
    total = sum(1 for _ in base.module.parameters())
    tells = f"{len(values)} of {_count(total, 'weight tensor')} differ from the base"
    return Candidate(folder, changes, CandidateSettings(digest.hexdigest()[:16]), tells)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
