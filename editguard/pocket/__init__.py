"""The embedded pocket model: a small language model of a synthetic world, and the world itself."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from editguard.pocket.world import World

MODEL_NAME: Final = "pocket"

FOLDERS: Final[Mapping[str, str]] = {MODEL_NAME: "weights"}
"""Names of the shipped models, and their folders beside this module."""


def weights_path(name: str = MODEL_NAME) -> Path:
    """The folder of a shipped model, in Hugging Face format.

    Raises: KeyError: there is none of that name.
    """
    return Path(str(files("editguard.pocket"))) / FOLDERS[name]


@cache
def default_world() -> World:
    """The world that the shipped weights were trained on."""
    from editguard.pocket.world import World

    return World()
