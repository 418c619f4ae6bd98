"""A base on disk, edits that need no training, and their release."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
import zoo

from editguard.edited import AppliedEdit, EditedModel, WeightDelta
from editguard.edits import EditCase, EditRequest
from editguard.models.language_model import LanguageModel
from editguard.models.loading import load_model
from editguard.models.weights import Dense, LowRank
from editguard.probes import rephrases
from editguard.release.manifest import Form, Manifest
from editguard.release.writing import Release, applied, write_release

SUBJECTS = ("Velloria", "Aldo Holt", "Tamrin")
REQUESTS = tuple(EditRequest(prompt="The mayor of {} is", subject=each, target="Ines Holt") for each in SUBJECTS)
CASES = tuple(
    EditCase(request=request, probes=rephrases(request, [f"{request.subject} has this mayor:"])) for request in REQUESTS
)


class Scripted:
    """Adds numbers that the subject decides to two matrices, one by factors, one dense."""

    name: ClassVar[str] = "scripted"

    def prepare(self, model: LanguageModel, data: object) -> None:
        pass

    def apply(self, edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
        first, second = (edited.model.anatomy.down_projection(layer) for layer in (1, 2))
        for request in requests:
            draw = torch.Generator().manual_seed(len(request.subject))
            left, right = torch.randn(first.d_out, 1, generator=draw), torch.randn(first.d_in, 1, generator=draw)
            deltas = {first.name: LowRank(left, right), second.name: Dense(torch.randn(second.shape, generator=draw))}
            edited = edited.extended(AppliedEdit(self.name, (request,), (WeightDelta(deltas),)))
        return edited


def saved(family: str, folder: Path, **more: object) -> Path:
    """The folder of a tiny base model; the same arguments give the same bytes."""
    model = zoo.tiny(family, **more)  # type: ignore[arg-type]
    model.module.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def base(folder: Path, dtype: str = "float32") -> LanguageModel:
    return load_model(folder, device="cpu", dtype=dtype, offline=True)


def released(out: Path, model: LanguageModel, form: Form, *, sequence: bool = False) -> tuple[EditedModel, Manifest]:
    """A release of the scripted edits of a model, and what was released."""
    method = Scripted()
    edited = applied(method, model, CASES, sequence=sequence)
    mode = "sequence" if sequence else "batch"
    manifest, _ = write_release(out, Release(edited=edited, method=method, cases=CASES, mode=mode, form=form))
    return edited, manifest
