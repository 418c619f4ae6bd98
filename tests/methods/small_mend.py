"""A MEND editor small enough for tests, and weights for it as if it had been trained."""

from typing import Any

import torch

from editguard.methods.mend import MendEditor, MendSettings

LAYERS = (1, 2)
QUICK: dict[str, Any] = {
    "layers": LAYERS,
    "rank": 4,
    "steps": 4,
    "edits_per_step": 2,
    "edits_per_pass": 2,
    "validation_edits": 2,
    "statistics_edits": 2,
}
SETTINGS = MendSettings(**QUICK)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def disturbed(editor: MendEditor, seed: int = 1) -> MendEditor:
    """The editor with weights as if it had been trained."""
    source = generator(seed)
    with torch.no_grad():
        for parameter in editor.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=source)
    return editor
