"""The largest resident size of this process: of its whole life, and of a phase where the system can start anew."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")
_HIGHEST: Final = "VmHWM:"
_highest = 0
"""Of what the system's own record has said so far; it forgets when it is started anew."""


def peak_bytes() -> int:
    """The largest resident size that this process has had; 0 where the system does not say."""
    global _highest
    _highest = max(_highest, _recorded(), peak_since() or 0)
    return _highest


def start_anew() -> bool:
    """Let `peak_since` count from here; returns whether the system can: Linux does, where /proc may be written.

    Source: proc(5), `/proc/pid/clear_refs`: writing 5 sets the peak to the present size.
    """
    peak_bytes()
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def peak_since() -> int | None:
    """The largest resident size since `start_anew` last returned true; None where the system does not say."""
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(_HIGHEST))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024


def _recorded() -> int:
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
