"""Energy by the counters that GPUs keep themselves, which NVML reads (`pip install 'editguard[energy]'`).

A counter is of the whole card, whoever uses it, and moves every few hundredths of a second. A device without one
(before NVIDIA's Volta, or of another maker) has no value here, and none is estimated for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any


def counters(cuda: Any, nvml: Any = None) -> dict[int, float]:
    """Joules that each visible device has used since its driver was loaded, by the device's number.

    Args:
        cuda: `torch.cuda`; its numbers are those of visible devices, so that devices are found by their UUIDs.
        nvml: the module `pynvml`, initialised; by default the installed one, if there is one.
    """
    nvml = _nvml() if nvml is None else nvml
    if nvml is None:
        return {}
    found = {}
    for device in range(cuda.device_count()):
        uuid = getattr(cuda.get_device_properties(device), "uuid", None)
        if uuid is None:
            continue
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            found[device] = nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
        except nvml.NVMLError:
            continue
    return found


def joules_between(before: Mapping[int, float], after: Mapping[int, float], devices: Iterable[int]) -> float | None:
    """Joules that devices have used together; None where there is none, where one does not tell, or began anew."""
    chosen = list(devices)
    if not chosen or any(device not in before or device not in after for device in chosen):
        return None
    used = [after[device] - before[device] for device in chosen]
    return sum(used) if min(used) >= 0 else None


@cache
def _nvml() -> Any:
    """The module, ready to be asked; None where it is not installed or finds no driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml
