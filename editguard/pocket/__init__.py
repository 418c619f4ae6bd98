"""The embedded pocket model: a small language model of a synthetic world, and the world itself."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from editguard.pocket.world import World

MODEL_NAME = "pocket"


def weights_path() -> Path:
    """The folder with the model in Hugging Face format."""
    return Path(str(files("editguard.pocket"))) / "weights"


@cache
def default_world() -> World:
    """The world that the shipped weights were trained on."""
    from editguard.pocket.world import World

    return World()
