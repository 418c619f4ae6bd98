"""Loading a language model from a directory or a hub; whatever can go wrong gets one clear
sentence."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from editguard.device_map import DeviceMap, read_device_map, refuse_both
from editguard.errors import (
    ConfigurationError,
    EditguardError,
    ModelNotLoaded,
    UnsupportedModel,
    closest,
)
from editguard.models.families import FAMILIES
from editguard.models.language_model import LanguageModel
from editguard.pocket import MODEL_NAMES, weights_path

DTYPES: Final = ("auto", "float32", "bfloat16", "float16", "float64")
CHAT: Final = ("auto", "on", "off")
_CONFIG: Final = "config.json"


def load_model(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    offline: bool = False,
    trust_remote_code: bool = False,
    batch_size: int = 32,
    chat: str = "auto",
    device_map: DeviceMap | None = None,
) -> LanguageModel:
    """Load a language model, a decoder alone or with an encoder, with its tokenizer.

    Args:
        name_or_path: the name of an embedded model ("pocket"), a local directory, or a name on the hub.
        revision: branch, tag or commit of the hub.
        device: "auto" (the GPU when there is one), or a torch device such as "cpu" or "cuda:1".
        dtype: "auto" or the name of a torch type. "auto" keeps the stored type, except that half
            precision is widened to float32 on a CPU, which loses nothing and computes faster there.
        offline: use local files and the hub's local cache alone.
        trust_remote_code: run code that comes with the model; never the default.
        chat: "auto" (on when the tokenizer has a chat template), "on" or "off".
        device_map: spread the modules over devices, as `transformers` takes it, or as a JSON file or object; instead
            of `device`. Needs the package `accelerate`. A warning says which weights it has left out of memory.

    Raises:
        ModelNotLoaded: there is no such model, or its files are missing, damaged or not
            safetensors.
        UnsupportedModel: it is no language model of a known family.
        ConfigurationError: an option has an unknown value, or `accelerate` is missing.
    """
    name = str(name_or_path)
    _check_choice("dtype", dtype, DTYPES)
    _check_choice("chat template", chat, CHAT)
    spread = _checked_map(device, device_map)
    target = None if spread is not None else choose_device(device)
    source = _source(name)
    common: dict[str, Any] = {
        "revision": revision,
        "local_files_only": offline,
        "trust_remote_code": trust_remote_code,
    }
    with _explained(name, source, revision, offline), quiet():
        config = AutoConfig.from_pretrained(source, **common)
        _check_family(name, config)
        tokenizer = AutoTokenizer.from_pretrained(source, **common)
        kind = AutoModelForSeq2SeqLM if FAMILIES[config.model_type].encoder else AutoModelForCausalLM
        loaded: Any = kind.from_pretrained(
            source,
            config=config,
            dtype=_torch_dtype(dtype, config, target),
            use_safetensors=True,
            device_map=spread,
            output_loading_info=True,
            **common,
        )
    module, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelNotLoaded(
            f"the weights of {name} lack {len(missing)} tensors, for example {missing[0]}: they would be random. "
            "The files are incomplete, or belong to another architecture than config.json says."
        )
    if target is not None:
        module = module.to(target)
    else:
        _check_parts(module, spread)
        _tell_offloaded(module, name)
    return LanguageModel(
        module,
        tokenizer,
        name=name,
        revision=revision,
        batch_size=batch_size,
        chat=_with_chat(chat, tokenizer),
        offline=offline,
    )


def choose_device(device: str) -> torch.device:
    """The torch device of a name; "auto" is the GPU when there is one, else the CPU.

    Raises: ConfigurationError: torch knows no such device, or the machine has none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ConfigurationError(
            f"unknown device {device!r}; use 'auto', 'cpu', 'cuda' or for example 'cuda:1'."
        ) from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ConfigurationError(f"the device {device!r} is not there: torch sees {found} CUDA devices; use 'auto'.")
    return chosen


def _checked_map(device: str, device_map: object) -> DeviceMap | None:
    """The device map, after everything about it that can be wrong before the model is known.

    Raises: ConfigurationError: see `load_model`.
    """
    if device_map is None:
        return None
    refuse_both(device, device_map, options=("device", "device_map"))
    try:
        chosen = read_device_map(device_map)
    except ValueError as problem:
        raise ConfigurationError(f"device_map {problem}; it is {device_map!r}.") from None
    if find_spec("accelerate") is None:
        raise ConfigurationError(
            "device_map needs the package accelerate, which is not installed: pip install 'editguard[device-map]'."
        )
    for place in set(chosen.values()) - {"cpu", "disk"} if isinstance(chosen, dict) else ():
        if isinstance(place, str):
            choose_device(place)
        elif place >= torch.accelerator.device_count():
            raise ConfigurationError(
                f"device_map names the device {place}, and torch sees {torch.accelerator.device_count()} GPUs."
            )
    return chosen


def _check_parts(module: nn.Module, device_map: DeviceMap | None) -> None:
    """Raise ConfigurationError for a device map that names what the model does not have."""
    if isinstance(device_map, dict):
        parts = {name for name, _ in [*module.named_modules(), *module.named_parameters(), *module.named_buffers()]}
        for part in device_map:
            if part not in parts:
                raise ConfigurationError(f"device_map names {part!r}, which the model lacks.{closest(part, parts)}")


def _tell_offloaded(module: nn.Module, name: str) -> None:
    away = [path for path, parameter in module.named_parameters() if parameter.is_meta]
    if away:
        warnings.warn(
            f"{len(away)} weights of {name} do not fit the devices and are offloaded, the first is {away[0]}: every "
            "pass brings them anew, and methods that change them refuse.",
            RuntimeWarning,
            stacklevel=3,
        )


def _check_choice(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigurationError(
            f"unknown {what} {value!r}; it is one of {', '.join(known)}.{closest(str(value), known)}"
        )


def _check_family(name: str, config: Any) -> None:
    if config.model_type not in FAMILIES:
        raise UnsupportedModel(
            f"{name} is of the family {config.model_type!r}; known are {', '.join(sorted(FAMILIES))}. "
            "A family joins by one row in editguard/models/families.py."
        )


def _source(name: str) -> str:
    """Where the files are: of an embedded model, in a local directory, or under the name itself on the
    hub."""
    path = weights_path(name) if name in MODEL_NAMES else Path(name).expanduser()
    if path.is_dir():
        if not (path / _CONFIG).is_file():
            raise ModelNotLoaded(
                f"the directory {path} holds no {_CONFIG}: name the directory that a Hugging Face model was saved to."
            )
        if not any(path.glob("*.safetensors")):
            raise ModelNotLoaded(
                f"the directory {path} holds no *.safetensors file; weights of other formats are not loaded, "
                "because reading them can run code. Save the model again with safe_serialization."
            )
        return str(path)
    if path.exists():
        raise ModelNotLoaded(f"{path} is a file; name the directory that holds it.")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or name in MODEL_NAMES:
        raise ModelNotLoaded(f"there is no directory {path}; check the path of the model.")
    return name


def _torch_dtype(dtype: str, config: Any, target: torch.device | None) -> torch.dtype | str:
    """target: None where several devices share the model."""
    if dtype != "auto":
        chosen = getattr(torch, dtype)
        assert isinstance(chosen, torch.dtype)
        return chosen
    stored = getattr(config.get_text_config(), "dtype", None) or getattr(config, "dtype", None)
    on_cpu = target.type == "cpu" if target is not None else not torch.accelerator.is_available()
    return torch.float32 if on_cpu and stored in (torch.float16, torch.bfloat16) else "auto"


def _with_chat(chat: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    return chat == "on" or (chat == "auto" and bool(getattr(tokenizer, "chat_template", None)))


@contextmanager
def _explained(name: str, source: str, revision: str | None, offline: bool) -> Iterator[None]:
    """Turn what the library raises into `ModelNotLoaded` with one sentence."""
    try:
        yield
    except EditguardError:
        raise
    except SafetensorError as failure:
        raise ModelNotLoaded(
            f"the weights of {name} in {source} are damaged or cut short ({failure}): copy or download them again."
        ) from failure
    except torch.OutOfMemoryError as failure:
        raise ModelNotLoaded(
            f"{name} does not fit the device's memory: choose another device or a smaller dtype."
        ) from failure
    except Exception as failure:
        if Path(source).is_dir():
            raise ModelNotLoaded(f"the model in {source} could not be loaded: {_reason(failure)}") from failure
        where = f"{name} (revision {revision})" if revision else name
        if offline:
            raise ModelNotLoaded(
                f"{where} is neither a local directory nor complete in the local cache, and offline is set: "
                "download it once while online, or name a directory."
            ) from failure
        raise ModelNotLoaded(
            f"{where} is neither a local directory nor could it be fetched from the hub: {_reason(failure)}"
        ) from failure


def _reason(failure: Exception) -> str:
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return f"{type(failure).__name__}: {lines[0] if lines else 'no reason given'}"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the library's progress bars and notes off the terminal; its settings are as before
    afterwards."""
    settings: Any = transformers_logging
    verbosity, bars = settings.get_verbosity(), settings.is_progress_bar_enabled()
    spreading = logging.getLogger("accelerate")
    level = spreading.level
    spreading.setLevel(logging.ERROR)
    settings.set_verbosity_error()
    settings.disable_progress_bar()
    try:
        yield
    finally:
        spreading.setLevel(level)
        settings.set_verbosity(verbosity)
        if bars:
            settings.enable_progress_bar()
