"""Files of trained editors: the editor under all that determines it, a record beside it, and unfinished trainings.

An editor is one safetensors file that is written in one step and carries its identity and a checksum; the record is
JSON. While a training runs its checkpoint is a third file, which goes when the editor is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from editguard.edits import content_id
from editguard.errors import CacheError
from editguard.models.weights import tensor_sha256
from editguard.storage import locked, refuse_unwritable, write_atomically

FORMAT: Final = 1
_HEADER: Final = "editguard"
_DAMAGES: Final = (SafetensorError, OSError, KeyError, ValueError, TypeError)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """All that determines a trained editor, but for the arithmetic of the machine.

    Attributes:
        method: registered name.
        code: version of the method's training; raised when the same input would give another editor.
        model: fingerprint of the model that it edits.
        matrices: parameter name -> (d_out, d_in).
        settings: of the method.
        data: digest of the training cases.
        seed: of every random draw.
    """

    method: str
    code: int
    model: str
    matrices: Mapping[str, tuple[int, int]]
    settings: Mapping[str, Any]
    data: str
    seed: int

    @property
    def plain(self) -> dict[str, Any]:
        """The same as JSON gives it back."""
        found: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **asdict(self)}))
        return found

    @property
    def key(self) -> str:
        """16 hex digits that two editors share only when all of this is the same."""
        return content_id("trained editor", self.plain)

    def difference(self, found: Mapping[str, Any], *, ignoring: tuple[str, ...] = ()) -> str | None:
        """Return the first thing in which an editor of the identity `found` differs, in words; None without any."""
        wanted = self.plain
        for name in ("format", "method", "model", "matrices", "code", "settings", "data", "seed"):
            if name in ignoring or found.get(name) == wanted[name]:
                continue
            if name == "settings":
                theirs = found.get(name) or {}
                return "; ".join(
                    f"it was trained with {setting} = {theirs.get(setting)!r}, the setting is {value!r}"
                    for setting, value in wanted[name].items()
                    if theirs.get(setting) != value
                )
            return _WORDS[name].format(theirs=found.get(name), ours=wanted[name])
        return None


_WORDS: Final = {
    "format": "its file has the format {theirs}, this version reads {ours}",
    "method": "it is an editor for {theirs}, not for {ours}",
    "model": "it was trained for the model {theirs}, this one is {ours} (weights, number type and tokenizer count)",
    "matrices": "it edits the matrices {theirs}, not {ours}",
    "code": "it was trained by version {theirs} of the training, this one is {ours}",
    "data": "it was trained on other cases ({theirs}, not {ours})",
    "seed": "it was trained with the seed {theirs}, not {ours}",
}


class EditorFiles:
    """The files of one editor in a folder: NAME.safetensors, NAME.json and, while it is trained, NAME.unfinished."""

    def __init__(self, folder: Path, name: str, identity: Identity) -> None:
        self.folder, self.name, self.identity = folder, name, identity

    def __str__(self) -> str:
        return str(self._unfinished)

    @property
    def editor(self) -> Path:
        """The file of the editor itself."""
        return self.folder / f"{self.name}.safetensors"

    @property
    def _unfinished(self) -> Path:
        return self.folder / f"{self.name}.unfinished"

    def load(self) -> dict[str, Tensor] | None:
        """Return the state of the finished editor; None without one.

        Raises: CacheError: it is damaged, or another editor.
        """
        if not self.editor.is_file():
            return None
        state, found = load_editor(self.editor)
        self._refuse_another(self.editor, found)
        return state

    def store(self, state: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Write a trained editor and its record, and forget the checkpoint.

        Raises: CacheError: they cannot be written.
        """
        text = json.dumps({"identity": self.identity.plain, **record}, indent=1, ensure_ascii=False) + "\n"
        write_atomically(self.folder / f"{self.name}.json", text)
        write_atomically(self.editor, _packed(state, self.identity.plain))
        with suppress(OSError):
            self._unfinished.unlink(missing_ok=True)

    def store_checkpoint(self, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> None:
        """Keep how far a training has come, in place of what was kept before.

        Raises: CacheError: it cannot be written.
        """
        write_atomically(self._unfinished, _packed(tensors, {"identity": self.identity.plain, "position": data}))

    def load_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return tensors and data of the checkpoint; None without one.

        Raises: CacheError: it is damaged, or of another editor.
        """
        if not self._unfinished.is_file():
            return None
        tensors, data = _unpacked(self._unfinished, "the unfinished training")
        self._refuse_another(self._unfinished, data["identity"])
        return tensors, data["position"]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Let one process at a time train this editor; a killed process leaves no lock behind.

        Raises: CacheError: the folder cannot be written.
        """
        refuse_unwritable(self.folder)
        with locked(self.folder / f".{self.name}.lock"):
            yield

    def _refuse_another(self, path: Path, found: Mapping[str, Any]) -> None:
        if (difference := self.identity.difference(found)) is not None:
            raise CacheError(f"{path} is of another editor: {difference}. Choose another folder, or remove the file.")


def load_editor(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state of a trained editor and its identity as plain data.

    Raises: CacheError: there is no such file, or it is damaged.
    """
    if not path.is_file():
        raise CacheError(
            f"there is no trained editor {path}: train one with editguard train, or leave the setting out."
        )
    return _unpacked(path, "the trained editor")


def _packed(tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> bytes:
    """One safetensors file; the same tensors and data give the same bytes."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    text = json.dumps({"data": data, "sha256": _checksum(stored, data)}, sort_keys=True, ensure_ascii=False)
    return save(stored, {_HEADER: text})  # one entry: the library puts several in any order


def _unpacked(path: Path, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        data: dict[str, Any] = header["data"]
        if header["sha256"] != _checksum(tensors, data):
            raise ValueError("its content does not match its checksum")
        return tensors, data
    except _DAMAGES as failure:
        raise CacheError(
            f"{what} {path} is damaged ({str(failure) or type(failure).__name__}): remove it, and train again."
        ) from failure


def _checksum(tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> str:
    return content_id(json.loads(json.dumps(data)), {name: tensor_sha256(each) for name, each in tensors.items()})
