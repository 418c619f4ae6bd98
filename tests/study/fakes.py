"""A method that changes answers at once, and does what a test tells it; cases for tiny models."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import zoo

from editguard.edited import AppliedEdit, WeightDelta
from editguard.edits import EditCase, EditRequest, Probe
from editguard.methods.registry import MethodInfo
from editguard.methods.settings import Recipe
from editguard.models.weights import Dense

PEOPLE = ("Velloria", "Ines Holt", "Aldo Holt", "Tamrin", "Belmora", "Oskaria")


def case(subject: str, target: str = "Oskar") -> EditCase:
    """A case with a probe of every kind that a table shows."""
    request = EditRequest(prompt="The capital of {} is", subject=subject, target=target, relation="capital")
    asked = {
        ("generalization", "rephrase"): f"Which city is the capital of {subject}? Answer:",
        ("portability", "one_hop"): f"The mayor of the capital of {subject} is",
        ("locality", "neighbourhood"): f"The mother of {subject} is",
        ("locality", "other_relation"): f"{subject} was born in",
    }
    probes = tuple(
        Probe(property=name, kind=kind, prompt=prompt, answers=() if name == "locality" else (target,))
        for (name, kind), prompt in asked.items()
    )
    return EditCase(request=request, probes=probes, label=subject)


CASES = tuple(case(subject) for subject in PEOPLE)
TASKS = tuple(
    Probe(property="other_tasks", kind="copy", prompt=f"Copy: {word}. Result:", answers=(word,))
    for word in ("red", "blue", "green")
)


@dataclass(frozen=True, kw_only=True)
class ScriptedSettings:
    """How far an edit goes."""

    size: float = 3.0
    layer: int = 1


class Scripted:
    """Adds a vector of the request's own to one bias; `before` is called with each request first."""

    name: ClassVar[str] = "scripted"
    settings_type: ClassVar[type] = ScriptedSettings
    recipe: ClassVar[Recipe] = Recipe(ScriptedSettings)
    applied: ClassVar[list[str]] = []
    prepared: ClassVar[list[str]] = []
    held: ClassVar[list[int]] = []
    """Updates that the chain holds at each application."""
    before: ClassVar[Callable[[EditRequest], None] | None] = None

    def __init__(self, settings=None, *, provenance=None):
        self.settings = settings or ScriptedSettings()
        self.provenance = dict(provenance or {})

    def prepare(self, model, data):
        Scripted.prepared.append(self.name)

    def apply(self, edited, requests):
        Scripted.held.append(len(edited.changes))
        for request in requests:
            Scripted.applied.append(request.subject)
            if Scripted.before is not None:
                Scripted.before(request)
        total = sum(self._vector(request) for request in requests)
        name = edited.model.anatomy.down_projection(self.settings.layer).bias_name
        change, record = (
            WeightDelta({name: Dense(total)}),
            {"layers": [{"second_moment": {"jitter": 0.0}, "norm": 1.0}]},
        )
        return edited.extended(AppliedEdit(self.name, tuple(requests), (change,), record))

    def _vector(self, request):
        seed = int(hashlib.sha256(request.statement.encode()).hexdigest()[:8], 16)
        return self.settings.size * torch.randn(zoo.D_MODEL, generator=torch.Generator().manual_seed(seed))


class OneByOne(Scripted):
    """The same under another name, registered as one that does not batch."""

    name = "one-by-one"


def info(method: type[Scripted], *, batches: bool) -> MethodInfo:
    return MethodInfo(
        name=method.name,
        target=f"study.fakes:{method.__name__}",
        family="other",
        changes="one bias",
        batches=batches,
        prepares="nothing",
        source="these tests",
    )


REGISTERED = (info(Scripted, batches=True), info(OneByOne, batches=False))
