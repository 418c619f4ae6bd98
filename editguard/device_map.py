"""The options that say where a model goes: onto one device, or its parts onto several."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from editguard.errors import ConfigurationError, closest

DeviceMap = str | dict[str, int | str]
"""A rule by which parts are spread, or the device of each part, as `transformers` takes them."""

RULES: Final = ("auto", "balanced", "balanced_low_0", "sequential")
HELP: Final = (
    f"spread the parts of the model over devices: {', '.join(RULES)}, a JSON file, or a JSON object from part to device"
)


def read_device_map(given: object) -> DeviceMap:
    """Return the device map that a text, a path or a table stands for.

    Args:
        given: a rule, a JSON object from the name of a part to its device, or the path of a file that holds one. A
            device is a number, "cpu", "disk", or one of torch's names.

    Raises: ValueError: it is none of these; says what is wrong in words that follow the option's name.
    """
    if isinstance(given, Mapping):
        return _checked(given)
    text = str(given).strip()
    if text in RULES:
        return text
    if text.startswith("{"):
        return _parsed(text, "is no JSON object")
    path = Path(text).expanduser()
    if not path.is_file():
        guess = closest(text, RULES)
        raise ValueError(f"must be one of {', '.join(RULES)}, a JSON file, or a JSON object.{guess}")
    try:
        return _parsed(path.read_text(encoding="utf-8"), "names a file that holds no JSON object")
    except (OSError, UnicodeDecodeError) as failure:
        raise ValueError(f"names a file that cannot be read: {failure}") from failure


def refuse_both(device: str, device_map: object, *, options: tuple[str, str]) -> None:
    """Refuse one device and a map of several.

    Raises: ConfigurationError: both are given; names the two `options`.
    """
    if device_map is not None and device != "auto":
        raise ConfigurationError(
            f"give {options[0]} or {options[1]}, not both: one puts all of the model onto a device, the other says for "
            "every part where it goes."
        )


def add_device_options(parser: argparse._ActionsContainer) -> None:
    """Declare `--device` and `--device-map`."""
    parser.add_argument("--device", default="auto", help="auto (a GPU when there is one), cpu, cuda, cuda:N, mps")
    parser.add_argument("--device-map", metavar="MAP", help=f"{HELP} (pip install 'editguard[device-map]')")


def chosen_devices(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the two options say, as `load_model` takes it.

    Raises: ConfigurationError: both are given, or the map is none.
    """
    refuse_both(options.device, options.device_map, options=("--device", "--device-map"))
    if options.device_map is None:
        return {"device": options.device}
    try:
        return {"device_map": read_device_map(options.device_map)}
    except ValueError as problem:
        raise ConfigurationError(f"--device-map {options.device_map!r} {problem}") from None


def _parsed(text: str, otherwise: str) -> DeviceMap:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as problem:
        raise ValueError(f"{otherwise}: {problem}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{otherwise}, but {type(found).__name__}")
    return _checked(found)


def _checked(given: Mapping[Any, Any]) -> DeviceMap:
    if not given:
        raise ValueError("must name at least one part of the model")
    for part, device in given.items():
        number = isinstance(device, int) and not isinstance(device, bool) and device >= 0
        if not isinstance(part, str) or not (number or (isinstance(device, str) and device.strip())):
            raise ValueError(
                "gives every part, by its name, a device: a number from 0 on, 'cpu', 'disk', or for example 'cuda:1'; "
                f"{part!r} has {device!r}"
            )
    return dict(given)
