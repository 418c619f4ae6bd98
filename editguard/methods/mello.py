"""MeLLo: take a question apart, check each intermediate answer against the nearest edit; no weight changes.

Source: Zhong, Wu, Manning, Potts, Chen, "MQuAKE: Assessing Knowledge Editing in Language Models via Multi-Hop
Questions",
EMNLP 2023, sec. 5. What differs from the released code: questions of `max_hops` hops can be finished (it stops one
generation short), a blank line ends a generation, and the transcript is closed where the final answer begins, so that
decoding and scoring answer behind the same text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from editguard.edited import Consulted, EditMemory, Retrieved, Search
from editguard.edited.edit_memory import by_text
from editguard.edited.searching import Encoder
from editguard.edits import EditRequest, content_id
from editguard.edits.asked import asked
from editguard.errors import InvalidSettings
from editguard.methods.memory_method import MemoryMethod
from editguard.methods.protocol import Preparation
from editguard.methods.quoting import quoted
from editguard.methods.retrieval import check_encoder
from editguard.methods.settings import Recipe
from editguard.models.generation import Generation, StopRule

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel

QUESTION: Final = "Question:"
SUBQUESTION: Final = "Subquestion:"
GENERATED: Final = "Generated answer:"
RETRIEVED: Final = "Retrieved fact:"
FINAL: Final = "Final answer:"
LABELS: Final = (QUESTION, SUBQUESTION, GENERATED, RETRIEVED, FINAL)

STEP_STOP: Final = StopRule(re.compile(rf"\n[^\S\n]*\n|(?<={RETRIEVED})|(?<={FINAL})"))
"""A generation ends behind one of these labels, which stays part of it, or at a blank line."""

PACKAGED: Final = "packaged"
PACKAGED_FILE: Final = Path(__file__).parent / "data" / "mello_examples.txt"

Outcome = Literal["answered", "malformed", "capped", "too long", "not asked"]


@dataclass(frozen=True, kw_only=True)
class MelloSettings:
    """Defaults are the paper's, but for the encoder and for one generation more."""

    max_hops: int = 4
    """Most sub-questions; R = max_hops + 1 generations, the last of which reaches the final answer."""
    examples: str | None = PACKAGED
    """Text that shows how questions are taken apart: "packaged" (four examples), the path of a file, or None."""
    chat_instruction: str = "Go on with the last text in the format of the texts before it, from where it ends."
    """Stands in front of the examples where the model has a chat template."""
    statements: Literal["checked", "asked", "plain"] = "checked"
    """A prompt that is no question: "checked" takes it for its own sub-question, whose answer the model completes;
    "asked" asks it like a question; "plain" leaves it alone."""
    fallback: Literal["plain", "fact"] = "plain"
    """What is read where the loop fails: the prompt alone, or with the nearest fact in front."""
    encoder: str = "tf-idf"
    """What measures the nearness of texts: "tf-idf", "mean-pooled" (the model's own states), or "sentences:NAME"."""
    step_tokens: int = 256
    """Most tokens of one generation."""
    fact_characters: int = 300
    """Longer facts are cut."""
    memory_limit: int | None = None
    """Most edits in the memory."""
    context_limit: int | None = None
    """Tokens that the model may read and write; None = its own context length."""
    answer_tokens: int = 24
    """Tokens kept free for the answer; none behind an encoder, which reads the prompt alone."""

    def __post_init__(self) -> None:
        check_encoder(self.encoder)
        for name in ("max_hops", "step_tokens", "fact_characters", "answer_tokens"):
            if getattr(self, name) < 1:
                raise InvalidSettings(f"{name} is at least 1; got {getattr(self, name)}.")
        for name in ("memory_limit", "context_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidSettings(f"{name} is at least 1; got {value}.")


def read_examples(examples: str | None) -> str:
    """Return the text of the setting `examples`, "" for None.

    Raises: InvalidSettings: the file cannot be read, or has no example that reaches its final answer.
    """
    if examples is None:
        return ""
    path = PACKAGED_FILE if examples == PACKAGED else Path(examples)
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as failure:
        raise InvalidSettings(
            f"cannot read the examples {examples!r} of mello: {getattr(failure, 'strerror', None) or failure}. "
            f"Name a text file, {PACKAGED!r}, or none."
        ) from failure
    if missing := [label for label in LABELS if label not in text]:
        raise InvalidSettings(
            f"the examples {examples!r} of mello have no {missing[0]!r}: each example has the lines "
            f"{', '.join(LABELS)} in the form of {PACKAGED_FILE}."
        )
    return text


@dataclass
class Chain:
    """One prompt on its way to a final answer.

    Attributes:
        text: the transcript so far; it only grows.
        looked_up: what the nearest fact is wanted for next, "" for nothing.
        outcome: None while it goes on.
    """

    prompt: str
    text: str
    looked_up: str = ""
    outcome: Outcome | None = None
    calls: int = 0
    read: int = 0
    written: int = 0
    retrieved: list[Retrieved] = field(default_factory=list)

    def count(self, made: Generation) -> None:
        """Add one generation to the costs."""
        self.calls += 1
        self.read += made.prompt_tokens
        self.written += len(made.token_ids)

    def go_on(self, made: Generation) -> None:
        """Append what the model wrote: it has the final answer, or a sub-question with its answer, or has failed."""
        self.count(made)
        if made.text.endswith(FINAL):
            self.text += made.text
            self.outcome = "answered"
            return
        lines = made.text.removesuffix(RETRIEVED).rstrip().split("\n")
        question, answer = lines[-2:] if len(lines) > 1 else ("", "")
        self.looked_up = question.removeprefix(SUBQUESTION).strip() if question.startswith(SUBQUESTION) else ""
        if not made.stopped or not self.looked_up or not answer.startswith(GENERATED):
            self.looked_up, self.outcome = "", "malformed"
            return
        self.text += "\n".join(lines) + "\n"


class MelloFront:
    """Runs the loop for many prompts at a time: one batch of generations for each step."""

    def __init__(self, model: LanguageModel, settings: MelloSettings, nearness: Encoder) -> None:
        """Raises: InvalidSettings: the file of examples cannot be used."""
        self.model = model
        self.examples = read_examples(settings.examples)
        self._settings = settings
        self._search = Search(nearness, by_text)
        self._structure = (*LABELS, *model.tokenizer.all_special_tokens)
        instruction = settings.chat_instruction if model.chat else ""
        self._opening = "".join(f"{part}\n\n" for part in (instruction, self.examples) if part)

    def consult(self, memory: EditMemory, prompts: Sequence[str]) -> list[Consulted]:
        """See `Front`."""
        chains = [self._opened(prompt) for prompt in prompts]
        self._complete_statements([chain for chain in chains if chain.outcome is None], memory)
        while going := [chain for chain in chains if self._goes_on(chain)]:
            for chain, made in zip(going, self._generate(going), strict=True):
                chain.go_on(made)
            self._look_up(going, memory)
        for chain in chains:
            if chain.outcome == "answered" and not self._fits(chain.text):
                chain.outcome = "too long"
        return [self._closed(chain, memory) for chain in chains]

    def _opened(self, prompt: str) -> Chain:
        form = asked(prompt)
        chain = Chain(prompt, f"{self._opening}{QUESTION} {' '.join(form.text.split())}\n")
        if form.begun or not form.text or (form.kind == "statement" and self._settings.statements == "plain"):
            chain.outcome = "not asked"  # an answer that has begun goes on as it began
        return chain

    def _complete_statements(self, chains: Sequence[Chain], memory: EditMemory) -> None:
        """Make of each statement the first sub-question, and of what the model completes it by the generated answer."""
        if self._settings.statements != "checked":
            return
        stated = [chain for chain in chains if asked(chain.prompt).kind == "statement"]
        stated = [chain for chain in stated if self._fits(chain.prompt)]
        if not stated:
            return
        completed = self.model.generate([chain.prompt for chain in stated], max_new_tokens=self._settings.answer_tokens)
        for chain, made in zip(stated, completed, strict=True):
            chain.count(made)
            statement = " ".join(asked(chain.prompt).text.split())
            answer = " ".join(made.text.split())
            chain.text += f"{SUBQUESTION} {statement}\n{GENERATED} {statement} {answer}.\n"
            chain.looked_up = statement
        self._look_up(stated, memory)

    def _goes_on(self, chain: Chain) -> bool:
        if chain.outcome is None and not self._fits(chain.text):
            chain.outcome = "too long"
        if chain.outcome is None and chain.calls > self._settings.max_hops:
            chain.outcome = "capped"
        return chain.outcome is None

    def _generate(self, chains: Sequence[Chain]) -> list[Generation]:
        texts = [chain.text for chain in chains]
        return self.model.generate(texts, max_new_tokens=self._settings.step_tokens, stop=STEP_STOP)

    def _look_up(self, chains: Sequence[Chain], memory: EditMemory) -> None:
        """Write the nearest fact of the memory behind each answer that waits for one."""
        waiting = [chain for chain in chains if chain.looked_up]
        nearest = memory.nearest(self._search, [chain.looked_up for chain in waiting])
        for chain, [(row, similarity)] in zip(waiting, nearest, strict=True):
            chain.retrieved.append(Retrieved(row.id, similarity))
            chain.text += f"{RETRIEVED} {self._fact(row.text)}.\n"
            chain.looked_up = ""

    def _fact(self, text: str) -> str:
        return quoted(text, self._structure, self._settings.fact_characters).removesuffix(".")

    def _closed(self, chain: Chain, memory: EditMemory) -> Consulted:
        text = chain.text
        if chain.outcome != "answered":
            text = chain.prompt
            if self._settings.fallback == "fact":
                [[(row, similarity)]] = memory.nearest(self._search, [asked(chain.prompt).text])
                with_fact = f"{RETRIEVED} {self._fact(row.text)}.\n{chain.prompt}"
                if self._fits(with_fact):
                    text = with_fact
                    chain.retrieved.append(Retrieved(row.id, similarity))
        return Consulted(
            prompt=text,
            route="out-of-scope" if text == chain.prompt else "in-scope",
            retrieved=tuple(chain.retrieved),
            outcome=chain.outcome or "",
            calls=chain.calls,
            read=chain.read,
            written=chain.written,
        )

    def _fits(self, text: str) -> bool:
        settings, tokens = self._settings, len(self.model.encode(text))
        return self.model.fits(tokens, answer=settings.answer_tokens, limit=settings.context_limit)


class Mello(MemoryMethod):
    """MeLLo: a memory of facts, looked up for every sub-question that the model asks itself."""

    name: ClassVar[str] = "mello"
    settings_type: ClassVar[type] = MelloSettings
    recipe: ClassVar[Recipe] = Recipe(MelloSettings)

    settings: MelloSettings

    def prepare(self, model: LanguageModel, data: Preparation) -> None:
        """Do nothing: there is nothing to prepare."""

    def front(self, model: LanguageModel) -> MelloFront:
        """See `MemoryMethod`.

        Raises: InvalidSettings: the file of examples cannot be used.
        """
        return MelloFront(model, self.settings, self.nearness(model))

    def recorded(self, front: Any, memory: EditMemory, requests: Sequence[EditRequest]) -> Mapping[str, Any]:
        """Which examples were shown, so that another text under the same name is told apart."""
        del memory, requests
        return {"examples_digest": content_id("examples", front.examples)}
