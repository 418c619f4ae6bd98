"""The embedded pocket model: a small language model of a synthetic world, and the world itself."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from editguard.pocket.world import World

MODEL_NAME: Final = "pocket"
MODEL_NAMES: Final = (MODEL_NAME,)
_FOLDERS: Final = {MODEL_NAME: "weights"}


def weights_path(name: str = MODEL_NAME) -> Path:
    """The folder with the model of that name in Hugging Face format.

    Raises: KeyError: no embedded model has the name.
    """
    return Path(str(files("editguard.pocket"))) / _FOLDERS[name]


@cache
def default_world() -> World:
    """The world that the shipped weights were trained on."""
    from editguard.pocket.world import World

    return World()
