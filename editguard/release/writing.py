"""Writing a release: the edited model or its edits, with the manifest, all of it or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from editguard import __version__
from editguard.comparison import present_environment
from editguard.edited import EditedModel, WeightDelta, merged
from editguard.edited.key_memory import KeyMemory
from editguard.edits import EditCase, refuse_conflicts
from editguard.errors import BaselineUnreadable, ReleaseError
from editguard.methods.settings import in_force
from editguard.models.loading import quiet
from editguard.release.answers import ask, questions
from editguard.release.factors import write_factors
from editguard.release.manifest import Base, Form, Manifest, file_records, file_sha256, write_manifest
from editguard.storage import new_folder

if TYPE_CHECKING:
    from editguard.methods.protocol import EditMethod
    from editguard.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Release:
    """What is to be released.

    Attributes:
        edited: the base with all edits in force.
        method: by which, prepared; its settings and their origin are noted.
        cases: what was applied, in order, with the rephrases that are asked.
        mode: "batch" or "sequence".
        form: "model" or "factors".
        seed: of everything random in the edits.
        baselines: file name -> SHA-256.
        verdicts: of a run, plain data.
    """

    edited: EditedModel
    method: EditMethod
    cases: Sequence[EditCase]
    mode: str
    form: Form
    seed: int = 0
    baselines: dict[str, str] = field(default_factory=dict)
    verdicts: Any = None


def applied(method: EditMethod, model: LanguageModel, cases: Sequence[EditCase], *, sequence: bool) -> EditedModel:
    """The model with the cases' requests, all at once or one after another.

    Raises: ConflictingEdits: two requests of a batch contradict each other. MethodRefused: the method cannot do it.
    """
    requests = [case.request for case in cases]
    chain = EditedModel.original(model)
    if not sequence:
        refuse_conflicts(requests)
        return method.apply(chain, requests)
    for request in requests:
        chain.activate()
        chain = merged(method.apply(chain, [request]), since=0)
    return chain


def write_release(out: Path, release: Release) -> tuple[Manifest, str]:
    """Write a release into a new folder; returns its manifest, and the SHA-256 of that.

    The folder is filled under another name and renamed when it is complete; the model is as it was afterwards.

    Raises: ReleaseError: the folder exists and is not empty, the disk is full, or the edits cannot be written in this
        form; says why. Nothing is left behind.
    """
    edited, model = release.edited, release.edited.model
    if release.form == "model":
        refuse_beside_weights(edited, release.method.name)
    with new_folder(out, error=ReleaseError) as folder, edited:
        if release.form == "model":
            _write_model(folder, model)
        else:
            write_factors(folder, edited, release.method.name)
        manifest = Manifest(
            form=release.form,
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            editguard=__version__,
            base=Base(
                name=model.name,
                revision=model.revision,
                fingerprint=model.fingerprint(),
                family=model.anatomy.family,
            ),
            method=release.method.name,
            settings=settings_of(release.method),
            mode=release.mode,
            requests=tuple(case.request for case in release.cases),
            answers=ask(edited, questions(release.cases)),
            environment=present_environment(
                device=model.device.type,
                dtype=str(model.dtype),
                fingerprint=model.fingerprint(),
                settings={
                    "dtype": str(model.module.dtype).removeprefix("torch."),
                    "batch_size": model.batch_size,
                    "chat": model.chat,
                    "seed": release.seed,
                },
            ),
            weights=model.weights.digest(),
            baselines=release.baselines,
            verdicts=release.verdicts,
        )
        manifest = replace(manifest, files=file_records(folder))
        return manifest, write_manifest(folder, manifest)


def refuse_beside_weights(edited: EditedModel, method: str) -> None:
    """Refuse edits that no plain model can hold.

    Raises: ReleaseError: something that the edits left behind is no update of a weight; names it.
    """
    beside = [change for change in edited.changes if not isinstance(change, WeightDelta | KeyMemory)]
    if beside:
        kinds = ", ".join(dict.fromkeys(type(change).__name__ for change in beside))
        raise ReleaseError(
            f"edits of {method} are not in the model's weights ({kinds}), so that no plain model has them: release "
            "them with --as factors where they can be written, or choose a method that changes weights."
        )


def settings_of(method: EditMethod) -> dict[str, Any]:
    """A method's settings in force, and where each comes from, as plain data."""
    provenance = {name: str(origin) for name, origin in getattr(method, "provenance", {}).items()}
    return {"values": in_force(method) or {}, "provenance": provenance}


def baseline_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every baseline file of a folder, by its name there.

    Raises: BaselineUnreadable: there is no such folder, no file in it, or one cannot be read.
    """
    try:
        found = {path.relative_to(folder).as_posix(): file_sha256(path) for path in sorted(folder.rglob("*.json"))}
    except OSError as failure:
        raise BaselineUnreadable(f"cannot read the baselines in {folder}: {failure.strerror or failure}.") from failure
    if not found:
        raise BaselineUnreadable(f"{folder} holds no baselines: name the folder of --editguard-baseline-dir.")
    return found


def _write_model(folder: Path, model: LanguageModel) -> None:
    """Write the physical model as it is, with its tokenizer.

    Raises: ReleaseError: weights are offloaded, or the disk is full.
    """
    if any(parameter.is_meta for parameter in model.module.parameters()):
        raise ReleaseError(
            f"some weights of {model.name} are offloaded and not in memory: give devices with room for all of it, or "
            "release the edits alone with --as factors."
        )
    try:
        with quiet():
            model.module.save_pretrained(folder)
            model.tokenizer.save_pretrained(folder)
    except SafetensorError as failure:
        raise ReleaseError(f"cannot write the weights: {failure}. Free some space; nothing was left.") from failure
