"""Accelerators as far as measuring needs them: one in use, and the time at which its work is done."""

from __future__ import annotations

import sys
import time
from typing import Any


def accelerator() -> Any:
    """`torch.cuda` when torch is loaded and has a device in use; loading it is not this module's business."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return torch.cuda


def now() -> float:
    """The time in seconds at which all that was begun is done, on the devices too."""
    cuda = accelerator()
    if cuda is not None:
        for device in range(cuda.device_count()):
            cuda.synchronize(device)
    elif (torch := sys.modules.get("torch")) is not None and torch.backends.mps.is_available():
        torch.mps.synchronize()
    return time.perf_counter()
