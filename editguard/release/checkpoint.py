"""A model folder in Hugging Face format, read tensor by tensor and compared with a model that is in memory.

Only safetensors are read. A checkpoint that the model's own structure cannot hold to the bit is refused: other shapes,
another vocabulary or tokenizer, tensors that are missing or additional, tied weights that are not equal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from editguard.errors import EditguardError, MethodRefused, ReleaseError
from editguard.models.fingerprint import lasting, tokenizer_content
from editguard.models.loading import load_model, quiet

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel
    from editguard.models.weights import Replacement

_WHOLE: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_PICKLED: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_TOKENIZER: Final = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "spiece.model")
_GENERATION: Final = ("eos_token_id", "decoder_start_token_id", "forced_bos_token_id")
"""What of the generation settings decides where a text begins and ends."""
_LOCAL: Final[Mapping[str, Any]] = {"local_files_only": True, "trust_remote_code": False}
_SHOWN: Final = 3


def changed_weights(folder: Path, model: LanguageModel) -> dict[str, Replacement]:
    """The parameters of a checkpoint that differ from a model's pristine ones, by the model's names.

    Values are cast to the types that the model is loaded with, as loading the checkpoint with that dtype would. In
    memory are the changed tensors and one more; where the files' names are not the model's, all of them for a moment.

    Raises: ReleaseError: the folder holds no such checkpoint; says what is other, and what to do.
    """
    files = _files(folder)
    with _explained(folder):
        _refuse_other_kind(folder, model)
        changed: dict[str, Replacement] = {}
        seen: dict[int, tuple[str, Replacement | None]] = {}
        own = _own(model)
        first = {id(tensor): name for name, tensor in reversed(own.items())}
        for name, stored in _tensors(folder, files, model, own):
            if stored.shape != own[name].shape:
                raise ReleaseError(
                    f"{name} of the candidate {folder} has the shape {tuple(stored.shape)}, the base has "
                    f"{tuple(own[name].shape)}: they are not the same architecture. {_ELSE}"
                )
            if stored.is_floating_point() != own[name].is_floating_point():
                raise ReleaseError(
                    f"{name} of the candidate {folder} is stored as {stored.dtype}: quantised weights cannot be "
                    f"compared. Give the model before that. {_ELSE}"
                )
            if not isinstance(own[name], torch.nn.Parameter):
                _refuse_other_buffer(folder, name, stored, own[name])
                continue
            value = model.weights.replacement(name, stored)
            tied, known = seen.setdefault(id(own[name]), (name, value))
            if tied != name and not _equal(known, value):
                raise ReleaseError(
                    f"the base uses one matrix as {tied} and as {name}, the candidate {folder} has two that differ: "
                    f"they are not the same architecture. {_ELSE}"
                )
            if value is not None:
                changed[first[id(own[name])]] = value
    return changed


_ELSE: Final = "Run the suites with --editguard-model on it alone, or name the base that it was made of."


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint.

    Raises: ReleaseError: there is none; where others are there, how to convert them.
    """
    if not folder.is_dir():
        raise ReleaseError(f"there is no folder {folder}: name the folder of a model, or one of `editguard release`.")
    if (folder / "adapter_config.json").is_file():
        raise ReleaseError(
            f"{folder} holds an adapter, not a model: merge it first, PeftModel.from_pretrained(base, folder)"
            ".merge_and_unload().save_pretrained(new_folder)."
        )
    if (folder / _INDEX).is_file():
        return [folder / name for name in _shards(folder / _INDEX)]
    if (folder / _WHOLE).is_file():
        return [folder / _WHOLE]
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLED)
    if pickled:
        code = f"M.from_pretrained('{folder}').save_pretrained('{folder}-safe')"
        raise ReleaseError(
            f"{folder} holds pickled weights ({pickled[0]}) and no {_WHOLE}: unpickling can run code, so they are not "
            "read. If you trust them, convert them once, and copy the tokenizer beside the result: "
            f'python -c "from transformers import AutoModelForCausalLM as M; {code}"'
        )
    raise ReleaseError(f"{folder} holds neither {_WHOLE} nor {_INDEX}: name the folder that a model was saved to.")


def _shards(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ReleaseError(f"{index} is no index of safetensors files: save the model again.") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ReleaseError(f"{index} names {name!r}, which is no safetensors file beside it: save the model again.")
        if not (index.parent / name).is_file():
            raise ReleaseError(f"{index} names {name}, which is not there: copy the candidate again.")
    return names


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn what reading raises into one sentence."""
    try:
        with quiet():
            yield
    except ReleaseError:
        raise
    except SafetensorError as failure:
        raise ReleaseError(
            f"the weights in {folder} are damaged or cut short ({failure}): copy them again."
        ) from failure
    except MethodRefused as refused:
        raise ReleaseError(f"the candidate {folder} cannot be put into the base: {refused}") from refused
    except EditguardError as failure:
        raise ReleaseError(f"the candidate {folder} cannot be read: {failure}") from failure
    except (OSError, ValueError, KeyError) as failure:
        raise ReleaseError(f"the candidate {folder} cannot be read: {str(failure).splitlines()[0]}") from failure


def _refuse_other_kind(folder: Path, model: LanguageModel) -> None:
    """Refuse another configuration, tokenizer or end of texts than the base's.

    Raises: ReleaseError: names what differs.
    """
    if not (folder / "config.json").is_file():
        raise ReleaseError(f"{folder} holds no config.json: name the folder that a model was saved to.")
    ours, theirs = lasting(model.module.config), lasting(AutoConfig.from_pretrained(folder, **_LOCAL))
    wrong = _unequal(ours, theirs)
    if wrong:
        raise ReleaseError(
            f"the candidate {folder} is not the same architecture as {model.name}: config.json differs in "
            f"{_some(wrong)}. {_ELSE}"
        )
    if any((folder / name).is_file() for name in _TOKENIZER):
        words = AutoTokenizer.from_pretrained(folder, **_LOCAL)
        wrong = _unequal(tokenizer_content(model.tokenizer), tokenizer_content(words))
        if wrong:
            raise ReleaseError(
                f"the candidate {folder} has another tokenizer than {model.name}: it differs in {_some(wrong)}. {_ELSE}"
            )
    if (folder / "generation_config.json").is_file():
        settings = GenerationConfig.from_pretrained(folder, **_LOCAL)
        base = model.module.generation_config
        wrong = [name for name in _GENERATION if getattr(settings, name, None) != getattr(base, name, None)]
        if wrong:
            raise ReleaseError(
                f"the candidate {folder} begins or ends its texts otherwise than {model.name}: generation_config.json "
                f"differs in {_some(wrong)}. {_ELSE}"
            )


def _own(model: LanguageModel) -> dict[str, Tensor]:
    """What a checkpoint of the model holds: parameters under all their names, and persistent buffers."""
    return dict(model.module.state_dict(keep_vars=True))


def _tensors(
    folder: Path, files: list[Path], model: LanguageModel, own: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the checkpoint, under the model's name for it.

    Raises: ReleaseError: one is missing, or there is one too many.
    """
    stored = {name for path in files for name in _names(path)}
    ignored = [re.compile(each) for each in getattr(model.module, "_keys_to_ignore_on_load_unexpected", None) or ()]
    aliases: dict[int, list[str]] = {}
    for name, tensor in own.items():
        aliases.setdefault(id(tensor), []).append(name)
    missing = [names[0] for names in aliases.values() if not stored.intersection(names)]
    additional = [name for name in sorted(stored - own.keys()) if not any(pattern.search(name) for pattern in ignored)]
    if missing and len(additional) == len(missing):
        yield from load_model(folder, device="cpu", offline=True).module.state_dict().items()
        return
    if len(additional) > len(missing):
        raise ReleaseError(
            f"the candidate {folder} has {_count(additional)} that the base has not, {_some(additional)}: its edits "
            f"live outside the base's weights. {_ELSE}"
        )
    if missing:
        raise ReleaseError(
            f"the candidate {folder} lacks {_count(missing)} of the base, {_some(missing)}: save it again."
        )
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # it is no mapping
                if name in own:
                    yield name, file.get_tensor(name)


def _names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def _refuse_other_buffer(folder: Path, name: str, stored: Tensor, own: Tensor) -> None:
    """Raise ReleaseError for a buffer, which no edit changes, that is not the base's."""
    if not torch.equal(stored.to(own.dtype), own.detach().cpu()):
        raise ReleaseError(
            f"the candidate {folder} has another {name} than the base, which is no weight that an edit may change. "
            f"{_ELSE}"
        )


def _equal(one: Replacement | None, other: Replacement | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one.value, other.value)


def _unequal(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    return [name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]


def _count(names: list[str]) -> str:
    return f"{len(names)} tensor{'' if len(names) == 1 else 's'}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" and others" if len(names) > _SHOWN else "")
