"""The manifest of a release: what was edited, how, with what answers, and the digest of every file.

`manifest.json` names all other files with size and SHA-256; `manifest.sha256` names the manifest, in the form that
`sha256sum -c` reads. Digests show damage, not forgery: who can write the files can write the digests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from editguard.comparison import Environment
from editguard.edits import EditRequest
from editguard.errors import EditguardError, ReleaseError
from editguard.release.answers import ReleasedAnswer
from editguard.storage import write_atomically

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
SEAL: Final = "manifest.sha256"
CHAIN: Final = "chain.json"
"""The file of the edits in a release of factors; their numbers stand beside it."""
_PIECE: Final = 1 << 20

Form = Literal["model", "factors"]
FORMS: Final[tuple[Form, ...]] = get_args(Form)


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model that was edited: as it was named, and what identifies it."""

    name: str
    revision: str | None
    fingerprint: str
    family: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a release says of itself.

    Attributes:
        form: "model", a whole edited model, or "factors", the edits alone.
        made: when, UTC, ISO 8601.
        editguard: version that wrote it.
        base: the model under the edits.
        method: registered name; `settings` are those in force, and where each comes from.
        mode: "batch", all requests at once, or "sequence", one after another.
        requests: in the order of their application.
        answers: of the edited model, to each request's prompt and rephrases.
        environment: of the process that wrote it; its record's settings say how the model was loaded.
        weights: digest of the edited model's weights.
        baselines: file name -> SHA-256 of accepted baselines, where a folder was given.
        verdicts: of a run on this model, as given; None without.
        files: name -> size and SHA-256 of every other file of the folder.
    """

    form: Form
    made: str
    editguard: str
    base: Base
    method: str
    settings: Mapping[str, Any]
    mode: str
    requests: tuple[EditRequest, ...]
    answers: tuple[ReleasedAnswer, ...]
    environment: Environment
    weights: str
    baselines: Mapping[str, str] = field(default_factory=dict)
    verdicts: Any = None
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads."""
        return {
            "format": FORMAT,
            "form": self.form,
            "made": self.made,
            "editguard": self.editguard,
            "base": asdict(self.base),
            "method": self.method,
            "mode": self.mode,
            "settings": dict(self.settings),
            "requests": [{"id": request.id, **asdict(request)} for request in self.requests],
            "answers": [answer.to_json() for answer in self.answers],
            "environment": self.environment.to_json(),
            "weights": self.weights,
            "baselines": dict(self.baselines),
            "verdicts": self.verdicts,
            "files": {name: dict(record) for name, record in self.files.items()},
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Manifest:
        """Read what `to_json` wrote.

        Raises: KeyError, TypeError, ValueError: it is something else.
        """
        requests = [{name: value for name, value in each.items() if name != "id"} for each in record["requests"]]
        return cls(
            form=FORMS[FORMS.index(record["form"])],
            made=record["made"],
            editguard=record["editguard"],
            base=Base(**record["base"]),
            method=record["method"],
            settings=record["settings"],
            mode=record["mode"],
            requests=tuple(EditRequest(**each) for each in requests),
            answers=tuple(ReleasedAnswer.from_json(each) for each in record["answers"]),
            environment=Environment.from_json(record["environment"]),
            weights=record["weights"],
            baselines=record["baselines"],
            verdicts=record["verdicts"],
            files=record["files"],
        )


def is_release(folder: Path) -> bool:
    """Whether a folder looks like a release, damaged or not."""
    return (folder / SEAL).exists()


def file_records(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> size in bytes and SHA-256 of every file in a folder and below it, but for manifest and seal.

    Raises: OSError: a file cannot be read.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)}
        for name in names
        if name not in (MANIFEST, SEAL)
    }


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces. Raises: OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> str:
    """Write the manifest and its seal; returns the SHA-256 of the manifest.

    Raises: ReleaseError: the disk is full, or the folder cannot be written.
    """
    text = json.dumps(manifest.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_atomically(folder / MANIFEST, text, error=ReleaseError)
    write_atomically(folder / SEAL, _seal(digest), error=ReleaseError)
    return digest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder whose files are as they were released.

    Raises: ReleaseError: it is no release, of a later version, or one of its files is not as it was.
    """
    damaged = file_differences(folder)
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        raise ReleaseError(f"the release in {folder} is not what was written: {damaged[0]}{more}. Copy it again.")
    return _parsed(folder)


def file_differences(folder: Path) -> list[str]:
    """One line for each file that is changed, missing or additional; none where all is as it was released.

    Raises: ReleaseError: the folder is no release, or one of a later version.
    """
    if not folder.is_dir():
        raise ReleaseError(f"there is no folder {folder}: name the folder that `editguard release` wrote.")
    if not (folder / SEAL).exists() and not (folder / MANIFEST).exists():
        raise ReleaseError(f"{folder} holds no {MANIFEST}: it is no folder that `editguard release` wrote.")
    for name in (MANIFEST, SEAL):
        if not (folder / name).is_file():
            return [f"{name} is missing"]
    try:
        if (folder / SEAL).read_bytes() != _seal(file_sha256(folder / MANIFEST)).encode():
            return [f"{MANIFEST} or {SEAL} is changed: the second does not name the first"]
        recorded, found = _parsed(folder).files, file_records(folder)
    except OSError as failure:
        raise ReleaseError(f"cannot read {failure.filename or folder}: {failure.strerror or failure}.") from failure
    return [
        *(f"{name} is missing" for name in sorted(recorded.keys() - found.keys())),
        *(f"{name} is additional" for name in sorted(found.keys() - recorded.keys())),
        *(f"{name} is changed" for name in sorted(recorded.keys() & found.keys()) if recorded[name] != found[name]),
    ]


def _parsed(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = record["format"]
        if version == FORMAT:
            return Manifest.from_json(record)
    except (OSError, ValueError, KeyError, TypeError, EditguardError) as failure:
        raise ReleaseError(f"{path} is no manifest of a release: {failure!r}. Release the edits again.") from failure
    raise ReleaseError(f"{path} has the format {version!r}, this version of editguard reads {FORMAT}: use a later one.")


def _seal(digest: str) -> str:
    return f"{digest}  {MANIFEST}\n"
