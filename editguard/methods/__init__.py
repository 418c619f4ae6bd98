"""Editing methods: one file each, one line each in the registry. Importing this loads no torch."""

from editguard.methods.protocol import DemonstrationRecord, EditMethod, Preparation
from editguard.methods.registry import MethodInfo, create, default_methods, methods

__all__ = [
    "DemonstrationRecord",
    "EditMethod",
    "MethodInfo",
    "Preparation",
    "create",
    "default_methods",
    "methods",
]
