"""A stand-in for a language model that takes questions apart exactly as it is told to, for tests of MeLLo."""

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from editguard.edits import EditRequest
from editguard.models.generation import DEFAULT_STOP, Generation, StopRule
from editguard.models.language_model import LanguageModel

NEXT = {"Arl": "Bree", "Bree": "Cyl", "Cyl": "Dorn", "Dorn": "Emm", "Quor": "Rast", "Rast": "Sorv", "Sorv": "Tamb"}
"""The one relation of its world: what comes next."""

Judge = Callable[[str, str, str, str], bool]
"""Whether a retrieved fact (subject, object) contradicts the generated answer (subject, object)."""


def honest(subject: str, found: str, about: str, answer: str) -> bool:
    """Contradicts what is about the same subject with another object."""
    return subject == about and found != answer


def stubborn(subject: str, found: str, about: str, answer: str) -> bool:
    """Never contradicts."""
    return False


def gullible(subject: str, found: str, about: str, answer: str) -> bool:
    """Takes every fact."""
    return True


def moved(subject: str, target: str) -> EditRequest:
    return EditRequest(prompt="Next of {} is", subject=subject, target=target)


def question(hops: int, start: str = "Arl") -> str:
    return f"Question: What is {hops} steps from {start}? Answer:"


class Reasoner:
    """Answers transcripts of sub-questions; `says` replaces what it would write in a step."""

    def __init__(self, judge: Judge = honest, *, says: str | None = None, context: int | None = None) -> None:
        self.judge, self.says, self.context_length = judge, says, context
        self.chat = False
        self.tokenizer = SimpleNamespace(all_special_tokens=["</s>"])
        self.anatomy = SimpleNamespace(encoder_layers=0)
        self.fits = partial(LanguageModel.fits, self)  # type: ignore[arg-type]
        self.asked: list[list[str]] = []
        self.made: list[Generation] = []

    def encode(self, prompt: str) -> list[int]:
        return [0] * len(prompt.split())

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int = 24, stop: StopRule = DEFAULT_STOP
    ) -> list[Generation]:
        self.asked.append(list(prompts))
        found = [self._generated(prompt, max_new_tokens, stop) for prompt in prompts]
        self.made += found
        return found

    def answer(self, prompt: str) -> str:
        """What follows a prompt in the end."""
        return self._generated(prompt, 24, DEFAULT_STOP).text

    def _generated(self, prompt: str, limit: int, stop: StopRule) -> Generation:
        said = self.says if self.says is not None and not prompt.endswith("Final answer:") else self.written(prompt)
        text, stopped = stop.cut(said)
        words = text.split(" ")
        stopped = (stopped or text == said.strip()) and len(words) <= limit
        return Generation(
            " ".join(words[:limit]), tuple(range(len(words[:limit]))), stopped, prompt, len(prompt.split())
        )

    def written(self, prompt: str) -> str:
        lines = prompt[max(0, prompt.rfind("Question: ")) :].strip().split("\n")
        if len(lines) == 1 and lines[0].startswith("Next of"):
            return NEXT[lines[0].split()[2]] + "."
        asked = lines[0].split()  # "Question: What is 2 steps from Arl?", or a statement, which is one step
        hops, entity = (int(asked[3]), asked[-1].rstrip("?")) if asked[1] == "What" else (1, asked[3])
        done, generated, text = 0, "", ""
        for line in lines[1:]:
            last = line.rsplit(" ", 1)[-1].rstrip(".")
            if line.startswith("Generated answer:"):
                generated = last
            elif "intermediate answer" in line:
                entity, done = last, done + 1
        if lines[-1] == "Final answer:":
            return f"{entity}\n"
        if lines[-1].startswith("Retrieved fact:"):
            subject, found = lines[-1].split()[4], lines[-1].rsplit(" ", 1)[-1].rstrip(".")
            contradicts = self.judge(subject, found, entity, generated)
            entity, done = found if contradicts else generated, done + 1
            verb = "contradicts" if contradicts else "does not contradict"
            text = f"Retrieved fact {verb} to generated answer, so the intermediate answer is: {entity}\n"
        if done == hops:
            return f"{text}Final answer: {entity}\n\nQuestion: Who is it?\nFinal answer: nobody"
        known = NEXT.get(entity, "Nowhere")
        return (
            f"{text}Subquestion: Next of {entity} is what?\nGenerated answer: Next of {entity} is {known}.\n"
            "Retrieved fact: an invention of the model."
        )

    def as_model(self) -> Any:
        return self
