"""A model that says what a script tells it, letter by letter: one token per character."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from editguard.edits import EditCase, EditRequest, Probe


@dataclass(frozen=True)
class Said:
    text: str
    stopped: bool
    prompt: str


@dataclass(frozen=True)
class Forced:
    answer_ids: tuple[int, ...]
    argmax_ids: tuple[int, ...]
    log_prob: float

    @property
    def token_accuracy(self) -> float:
        equal = sum(one == other for one, other in zip(self.answer_ids, self.argmax_ids, strict=True))
        return equal / len(self.answer_ids)

    @property
    def exact(self) -> bool:
        return self.answer_ids == self.argmax_ids


@dataclass(frozen=True)
class Name:
    name: str = "scripted"


@dataclass
class Scripted:
    """Answers by `script`; `default` where it has no line. Counts what it was asked."""

    script: Mapping[str, str]
    default: str = "unknown"
    unstopped: frozenset[str] = frozenset()
    likelihoods: Mapping[tuple[str, str], float] = field(default_factory=dict)
    model: Name = Name()
    generated: list[tuple[str, int]] = field(default_factory=list)
    scored: list[tuple[str, str]] = field(default_factory=list)
    looked: list[str] = field(default_factory=list)
    activations: int = 0

    def says(self, prompt: str) -> str:
        return self.script.get(prompt, self.default)

    def anew(self) -> Self:
        return self

    def consult(self, prompts: Sequence[str]) -> None:
        """Find nothing."""

    def count_tokens(self, prompts: Sequence[str]) -> int:
        return sum(len(prompt.split()) for prompt in prompts)

    def activate(self) -> None:
        self.activations += 1

    def stored_bytes(self) -> int | None:
        return 24 * len(self.script)

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int = 24, stop: object = None) -> list[Said]:
        self.generated += [(prompt, max_new_tokens) for prompt in prompts]
        return [Said(self.says(prompt), prompt not in self.unstopped, prompt) for prompt in prompts]

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Forced]:
        self.scored += pairs
        found = []
        for prompt, answer in pairs:
            said = self.says(prompt).ljust(len(answer), "\0")
            likely = tuple(map(ord, said[: len(answer)]))
            found.append(Forced(tuple(map(ord, answer)), likely, self.likelihoods.get((prompt, answer), -1.0)))
        return found

    def next_tokens(self, prompts: Sequence[str], k: int = 5) -> list[list[tuple[str, float]]]:
        self.looked += prompts
        return [[(self.says(prompt)[:1], 0.9), ("x", 0.05)][:k] for prompt in prompts]


def moved(subject: str = "Velloria", target: str = "Oskar", previous: str | None = "Tamrin") -> EditRequest:
    return EditRequest(
        prompt="The capital of {} is", subject=subject, target=target, previous=previous, relation="capital"
    )


def case(request: EditRequest | None = None, *probes: Probe) -> EditCase:
    return EditCase(request=request or moved(), probes=probes)


def locality(prompt: str, kind: str = "neighbourhood") -> Probe:
    return Probe(property="locality", kind=kind, prompt=prompt)


def rephrase(prompt: str, answer: str = "Oskar", **more: object) -> Probe:
    return Probe(property="generalization", kind="rephrase", prompt=prompt, answers=(answer,), **more)  # type: ignore[arg-type]
