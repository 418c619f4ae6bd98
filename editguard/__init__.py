"""editguard: regression tests for knowledge edits of language models.

The names below are all that a suite imports; each is loaded when it is first used, so that importing the
package (which pytest does in every run, through the plugin's entry point) costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from editguard.datasets import load_cases
    from editguard.edits import EditCase, EditRequest, Probe
    from editguard.errors import EditguardError
    from editguard.pytest_plugin.marks import edit, edit_sequence, known_failure, must_hold

__version__ = "0.1.0"

_HOME = {
    "EditCase": "editguard.edits",
    "EditRequest": "editguard.edits",
    "EditguardError": "editguard.errors",
    "Probe": "editguard.edits",
    "edit": "editguard.pytest_plugin.marks",
    "edit_sequence": "editguard.pytest_plugin.marks",
    "known_failure": "editguard.pytest_plugin.marks",
    "load_cases": "editguard.datasets",
    "must_hold": "editguard.pytest_plugin.marks",
}

__all__ = [
    "EditCase",
    "EditRequest",
    "EditguardError",
    "Probe",
    "edit",
    "edit_sequence",
    "known_failure",
    "load_cases",
    "must_hold",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'editguard' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
