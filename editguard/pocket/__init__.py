"""The embedded pocket models, a decoder and a T5, and the synthetic world that both have read."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from editguard.pocket.world import World

MODEL_NAME: Final = "pocket"
T5_MODEL_NAME: Final = "pocket-t5"
MODEL_NAMES: Final = (MODEL_NAME, T5_MODEL_NAME)
_FOLDERS: Final = {MODEL_NAME: "weights", T5_MODEL_NAME: "t5_weights"}


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
