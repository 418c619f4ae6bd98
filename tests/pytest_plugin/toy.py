"""A toy language model and toy editing methods: real changes and a real ledger, answers from a table.

Inner pytest runs load it through their conftest; nothing here needs weights, a tokenizer or more than milliseconds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import nn

from editguard.edited import AppliedEdit, EditedModel, WeightDelta
from editguard.edits import EditRequest
from editguard.errors import MethodRefused
from editguard.measurements import signals
from editguard.methods import registry
from editguard.models import loading
from editguard.models.generation import Generation
from editguard.models.weights import LowRank, WeightLedger

LOG = "toy-log.jsonl"


def log(event: str, **details: Any) -> None:
    """Note an event in a file that every process of a run appends to."""
    line = json.dumps({"event": event, "worker": os.environ.get("PYTEST_XDIST_WORKER", ""), **details})
    with Path(os.environ["TOY_LOG"]).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


@dataclass(frozen=True, eq=False)
class TaughtAnswers(WeightDelta):
    """A weight delta that also says what the toy model answers while it is in force."""

    answers: dict[str, str] | None = None


class ToyModel:
    """Answers what it was taught, "old" otherwise; prompts that begin with "broken" depend on the weights."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 6), nn.Linear(100, 100)).eval().requires_grad_(False)
        self.weights = WeightLedger(self.module)
        self.installed: list[Any] = []
        self.name, self.dtype, self.device = name, torch.float32, torch.device("cpu")
        self.devices = ("cpu",)
        self.anatomy = SimpleNamespace(
            family="toy", layers=2, d_model=6, down_projection=lambda layer: SimpleNamespace(name=f"none.{layer}")
        )
        log("load", name=name)

    def fingerprint(self) -> str:
        return os.environ.get("TOY_FINGERPRINT", "0123456789abcdef")

    def answer(self, prompt: str) -> str:
        if prompt.startswith("fragile") and self.together():
            return "broken"
        if prompt.startswith("worn ") and self.worn(int(prompt[5:].rstrip("?"))):
            return "broken"
        if any(f" {subject} " in prompt for subject in self.lost_by_ageing()):
            return "lost"
        for change in reversed(self.installed):
            if prompt in getattr(change, "answers", ()):
                return str(change.answers[prompt])
        return os.environ.get("TOY_ANSWER", "old")

    def together(self) -> bool:
        """Whether the edits are in force that break something only together: TOY_TOGETHER names their subjects."""
        wanted = [subject for subject in os.environ.get("TOY_TOGETHER", "").split("+") if subject]
        present = " ".join(text for change in self.installed for text in getattr(change, "answers", ()))
        return bool(wanted) and all(f" {subject} " in present for subject in wanted)

    def lost_by_ageing(self) -> list[str]:
        """Subjects whose edits do not survive a change that teaches nothing: TOY_AGED names them."""
        aged = any(not hasattr(change, "answers") for change in self.installed)
        return os.environ.get("TOY_AGED", "").split(",") if aged else []

    def worn(self, place: int) -> bool:
        """Whether a place suffers at the present number of edits: two others at each number of TOY_WORN."""
        steps = [int(step) for step in os.environ.get("TOY_WORN", "").split(",") if step]
        present = len(self.installed)
        return present in steps and place // 2 == steps.index(present)

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int = 24) -> list[Any]:
        return [Generation(self.answer(prompt), (), stopped=True, prompt=prompt) for prompt in prompts]

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Any]:
        return [
            SimpleNamespace(
                answer_ids=(1,),
                argmax_ids=(int(self.answer(prompt) == answer),),
                log_prob=-1.0,
                token_accuracy=float(self.answer(prompt) == answer),
                tokens=((answer, 0.75),),
            )
            for prompt, answer in pairs
        ]

    def encode(self, prompt: str) -> list[int]:
        return [len(word) for word in prompt.split()]

    def next_tokens(self, prompts: Sequence[str], k: int = 5) -> list[list[tuple[str, float]]]:
        return [
            [(f" {self.answer(prompt)}", 0.75), *((f" t{rank}", 0.01) for rank in range(1, k))] for prompt in prompts
        ]


class Toy:
    """Teaches the requests' own prompts, and every rephrase that begins with the subject."""

    name: ClassVar[str] = "toy"
    forgets: ClassVar[bool] = False

    def prepare(self, model: ToyModel, data: Any) -> None:
        log("prepare", method=self.name)

    def apply(self, edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
        log("apply", method=self.name, requests=[request.subject for request in requests], on=len(edited.requests))
        lost = os.environ.get("TOY_LOST", "").split(",")
        answers = {request.text: request.target for request in requests if request.subject not in lost}
        if self.forgets:
            answers |= {request.text: "forgotten" for request in edited.requests}
        if leaking := os.environ.get("TOY_LEAK"):
            edited.model.module.get_parameter(leaking).data[63, 1] += 1
        left = torch.full((4, 1), float(len(edited.requests) + 1))
        change = TaughtAnswers({"0.weight": LowRank(left, torch.ones(6, 1))}, answers=answers)
        return edited.extended(AppliedEdit(self.name, tuple(requests), (change,)))


class Forgetful(Toy):
    """Keeps the newest edit alone."""

    name: ClassVar[str] = "forgetful"
    forgets: ClassVar[bool] = True


class Refusing(Toy):
    """Cannot edit anything."""

    name: ClassVar[str] = "refusing"

    def apply(self, edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
        log("apply", method=self.name)
        raise MethodRefused("this model has no such part.")


def _information(kind: type[Toy], *, default: bool) -> registry.MethodInfo:
    return registry.MethodInfo(
        name=kind.name,
        target=f"toy:{kind.__name__}",
        family="other",
        changes="nothing real",
        batches=True,
        prepares="nothing",
        source="made up",
        default=default,
    )


def install() -> Callable[[], None]:
    """Put the toy model and methods in the place of the real ones; returns what puts these back.

    No generator: one that an aborted run leaves behind would put them back whenever it is collected.
    """
    real = loading.load_model, registry.BUILT_IN, signals.continuing
    signals.continuing = lambda *_: lambda prompts, *, tokens: ["old " * tokens for _ in prompts]
    loading.load_model = lambda name, **_: ToyModel(str(name))  # type: ignore[assignment]
    registry.BUILT_IN = (
        _information(Toy, default=True),
        _information(Forgetful, default=True),
        _information(Refusing, default=False),
    )

    def put_back() -> None:
        loading.load_model, registry.BUILT_IN, signals.continuing = real

    return put_back
