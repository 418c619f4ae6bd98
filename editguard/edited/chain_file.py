"""A chain of applied edits on disk: numbers as safetensors, the rest as JSON, nothing unpickled.

What comes back is what was there: the same bytes in the same layout, and what shared its memory shares it again, so
that the model answers the same to the bit and the edits hold as much. Written are weight updates, added neurons, and
the keys that later edits go by. A chain with anything else, such as a memory or a codebook, is not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from editguard.edited.added_neurons import AddedNeurons, Neurons
from editguard.edited.edited_model import AppliedEdit, EditedModel
from editguard.edited.key_memory import KeyMemory
from editguard.edited.weight_delta import WeightDelta
from editguard.edits import EditRequest
from editguard.errors import CacheError, InvalidEdit
from editguard.models.weights import Dense, LowRank, Masked, Total
from editguard.storage import write_atomically

if TYPE_CHECKING:
    from editguard.models.language_model import Change, LanguageModel

FORMAT: Final = 1
_PACKED: Final[Mapping[type, tuple[str, ...]]] = {
    LowRank: ("left", "right"),
    Dense: ("delta",),
    Masked: ("of", "bits"),
    Total: ("total",),
    Neurons: ("keys", "biases", "values", "activation"),
    WeightDelta: ("deltas",),
    AddedNeurons: ("layer", "neurons"),
    KeyMemory: ("keys",),
}
"""What may be written, and the fields that it is made of again."""
_NAMED: Final = {kind.__name__: kind for kind in _PACKED}


class _Unwritable(Exception):
    """Something that has no form on disk."""


def write_chain(path: Path, chain: EditedModel, notes: Mapping[str, Any]) -> bool:
    """Write a chain of edits beside some notes; returns whether it could be written.

    Two files: the numbers, under a name of their content, then `path`, in one step, which names them. A process that is
    killed leaves the chain before, or this one.

    Args:
        path: of the JSON file.
        notes: plain data.

    Raises: CacheError: the disk is full, or the folder cannot be written.
    """
    storages: dict[tuple[int, str], tuple[str, Tensor]] = {}
    try:
        edits = [_packed_edit(edit, storages) for edit in chain.edits]
        text = json.dumps({"format": FORMAT, "edits": edits, "notes": notes}, allow_nan=False)
    except (_Unwritable, TypeError, ValueError):
        return False
    raw = save(dict(storages.values())) if storages else b""
    numbers = path.with_name(f"{path.stem}-{hashlib.sha256(raw).hexdigest()[:24]}.safetensors")
    write_atomically(numbers, raw)
    write_atomically(path, json.dumps({"numbers": numbers.name}) + "\n" + text + "\n")
    for other in _numbers_of(path):
        if other != numbers:
            other.unlink(missing_ok=True)
    return True


def read_chain(
    path: Path, model: LanguageModel, *, device: str | None = None
) -> tuple[EditedModel, dict[str, Any]] | None:
    """The chain that was written last, over the model, and its notes; None where there is none that is whole.

    Nor is there one where its numbers were on a device that this machine, or this build of torch, has not.

    Args:
        device: where all numbers go; by default each to the device that it was on.
    """
    try:
        head, text = path.read_text(encoding="utf-8").splitlines()
        numbers = path.with_name(Path(json.loads(head)["numbers"]).name)
        record, raw = json.loads(text), numbers.read_bytes()
        if record["format"] != FORMAT or numbers.stem.rpartition("-")[2] != hashlib.sha256(raw).hexdigest()[:24]:
            return None
        storages = {name: tensor.clone() for name, tensor in load(raw).items()} if raw else {}
        made: dict[str, Tensor] = {}
        edits = [_edit(each if device is None else _moved(each, device), storages, made) for each in record["edits"]]
        return EditedModel(model, edits), dict(record["notes"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AssertionError, SafetensorError, InvalidEdit):
        return None


def remove_chain(path: Path) -> None:
    """Remove what `write_chain` has written there, and the folder when it is empty then.

    Raises: CacheError: it cannot be removed.
    """
    try:
        for each in (path, *_numbers_of(path)):
            each.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # which succeeds where nothing else is in it
    except OSError as failure:
        raise CacheError(f"cannot remove {path}: {failure.strerror or failure}. Remove it by hand.") from failure


def _numbers_of(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.stem}-{'[0-9a-f]' * 24}.safetensors"))


# ---- writing


def _packed_edit(edit: AppliedEdit, storages: dict[tuple[int, str], tuple[str, Tensor]]) -> dict[str, Any]:
    record = dict(edit.record)
    plain = json.loads(json.dumps(record, allow_nan=False))
    if plain != _lists(record):
        raise _Unwritable("the record is no plain data")
    return {
        "method": edit.method,
        "requests": [asdict(request) for request in edit.requests],
        "changes": [_packed(change, storages) for change in edit.changes],
        "record": plain,
        "seconds": edit.seconds,
    }


def _lists(value: Any) -> Any:
    """Plain data with lists for tuples."""
    if isinstance(value, Mapping):
        return {name: _lists(each) for name, each in value.items()}
    return [_lists(each) for each in value] if isinstance(value, list | tuple) else value


def _packed(thing: Any, storages: dict[tuple[int, str], tuple[str, Tensor]]) -> Any:
    if isinstance(thing, Tensor):
        return _packed_tensor(thing, storages)
    if type(thing) in _PACKED:
        parts = {name: _packed(getattr(thing, name), storages) for name in _PACKED[type(thing)]}
        return {"kind": type(thing).__name__, **parts}
    if isinstance(thing, Mapping):
        return {"kind": "mapping", "entries": {name: _packed(each, storages) for name, each in thing.items()}}
    if isinstance(thing, str | int):
        return thing
    raise _Unwritable(type(thing).__name__)


def _packed_tensor(tensor: Tensor, storages: dict[tuple[int, str], tuple[str, Tensor]]) -> dict[str, Any]:
    """A view: which storage, and where in it; each storage is written once, whole."""
    if tensor.layout != torch.strided or tensor.device.type == "meta" or tensor.is_conj() or tensor.is_neg():
        raise _Unwritable("no strided numbers")
    storage = tensor.untyped_storage()
    place = (storage.data_ptr(), str(tensor.device))
    if place not in storages:
        whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
        storages[place] = (str(len(storages)), whole.cpu().clone())
    return {
        "kind": "tensor",
        "storage": storages[place][0],
        "device": str(tensor.device),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "offset": tensor.storage_offset(),
        "shape": list(tensor.shape),
        "stride": list(tensor.stride()),
    }


# ---- reading


def _edit(record: Mapping[str, Any], storages: Mapping[str, Tensor], made: dict[str, Tensor]) -> AppliedEdit:
    changes: list[Change] = [_made(each, storages, made) for each in record["changes"]]
    requests = tuple(EditRequest(**request) for request in record["requests"])
    return AppliedEdit(record["method"], requests, tuple(changes), record["record"], record["seconds"])


def _moved(packed: Any, device: str) -> Any:
    """A packed thing, all tensors of which are on the device."""
    if isinstance(packed, list):
        return [_moved(each, device) for each in packed]
    if not isinstance(packed, dict):
        return packed
    moved = {name: _moved(each, device) for name, each in packed.items()}
    return {**moved, "device": device} if packed.get("kind") == "tensor" else moved


def _made(packed: Any, storages: Mapping[str, Tensor], made: dict[str, Tensor]) -> Any:
    if not isinstance(packed, dict):
        return packed
    kind = packed["kind"]
    if kind == "tensor":
        return _tensor(packed, storages, made)
    if kind == "mapping":
        return {name: _made(each, storages, made) for name, each in packed["entries"].items()}
    type_: Callable[..., Any] = _NAMED[kind]
    return type_(**{name: _made(packed[name], storages, made) for name in _PACKED[_NAMED[kind]]})


def _tensor(packed: Mapping[str, Any], storages: Mapping[str, Tensor], made: dict[str, Tensor]) -> Tensor:
    name, shape, stride = packed["storage"], packed["shape"], packed["stride"]
    if name not in made:
        made[name] = storages[name].to(packed["device"])
    dtype = getattr(torch, packed["dtype"])
    storage = made[name].untyped_storage()
    behind = packed["offset"] + 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if 0 not in shape and behind * dtype.itemsize > storage.nbytes():
        raise ValueError("a tensor reaches over the end of its numbers")
    return torch.empty(0, dtype=dtype, device=made[name].device).set_(storage, packed["offset"], shape, stride)
