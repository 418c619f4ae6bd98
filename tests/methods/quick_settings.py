"""Settings with which every method of the registry is fast enough for tests."""

from dataclasses import fields
from functools import cache
from typing import Any

import zoo

from editguard.methods import methods

QUICK = {
    "steps": 4,
    "epochs": 3,
    "context_lengths": ((4, 2),),
    "demonstrations": 2,
    "shrinkage": 1e-2,
    "layer": 2,
    "layers": (2, 3),
    "edits_per_step": 2,
    "edits_per_pass": 2,
    "locality_examples": 1,
    "validation_edits": 2,
    "statistics_edits": 2,
    "rank": 4,
    "lstm_width": 4,
    "code_width": 8,
    "conditioner_width": 4,
    "examples": None,
    "step_tokens": 4,
    "fallback": "fact",
    "similarity_above": 0.1,
    "classifier_layers": 1,
    "classifier_width": 8,
    "false_hits": 1.0,
}
"""Values that make a method fast, for the settings that it has; with an encoder, layers are those that it derives."""


@cache
def quick_settings(name: str, family: str = "gpt2") -> dict[str, Any]:
    settings_type = methods()[name].settings_type
    known = {field.name for field in fields(settings_type)} if settings_type else set()
    derived = {"layer", "layers"} if family in zoo.ENCODER_DECODER else set()
    return {field: value for field, value in QUICK.items() if field in known - derived}
