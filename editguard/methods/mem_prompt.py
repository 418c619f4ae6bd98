"""MemPrompt: remember what people said after a wrong answer, and put it beside similar questions; no weight changes.

Source: Madaan, Tandon, Clark, Yang, "Memory-assisted prompt editing to improve GPT-3 after deployment", EMNLP 2022.
An edit request is remembered as feedback that states the fact. Beside the paper's absolute distance there is one by the
share of letters, because short questions are always within a few letters of each other; feedback is quoted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from editguard.edited import Consulted, EditedModel, EditMemory, MemoryRow, Retrieved, Search
from editguard.edited.searching import Encoder
from editguard.edits.asked import asked
from editguard.errors import InvalidSettings
from editguard.methods.edit_distance import EditDistanceEncoder, Unit
from editguard.methods.memory_method import MemoryMethod
from editguard.methods.protocol import Preparation
from editguard.methods.quoting import PromptTemplate, quoted
from editguard.methods.retrieval import check_encoder
from editguard.methods.settings import Recipe

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel

Lookup = Literal["closest", "semantic"]
QUESTION_SLOTS: Final = ("question", "feedback")
PROMPT_SLOTS: Final = ("feedback", "prompt")


@dataclass(frozen=True, kw_only=True)
class MemPromptSettings:
    """The published values are lookup "closest" with distance "edits" below 6, and "semantic" above 0.9."""

    lookup: Lookup = "semantic"
    """How the nearest question is found: "closest" by letters, "semantic" by the encoder."""
    distance: Unit = "share"
    """Of "closest": letters to change as a share of the longer question, or "edits", their number (the paper)."""
    distance_below: float = 0.1
    """Of "closest": a remembered question is similar when its distance is below this."""
    encoder: str = "tf-idf"
    """Of "semantic": "tf-idf", "mean-pooled" (the model's own states), or "sentences:NAME"."""
    similarity_above: float = 0.7
    """Of "semantic": a remembered question is similar when its cosine is above this."""
    question_template: str = "Question: {question}\nFeedback: {feedback}.\nAnswer:"
    """What is read for a question that is labelled and asks for an answer; "{question} | {feedback}" in the paper."""
    prompt_template: str = "Feedback: {feedback}.\n{prompt}"
    """What is read for any other prompt, whose end stays the end."""
    feedback_characters: int = 300
    """Longer feedback is cut."""
    memory_limit: int | None = None
    """Most rows in the memory."""
    context_limit: int | None = None
    """Tokens that the model may read and write; None = its own context length."""
    answer_tokens: int = 24
    """Tokens kept free for the answer; none behind an encoder, which reads the prompt alone."""

    def __post_init__(self) -> None:
        check_encoder(self.encoder)
        self.templates()
        if self.feedback_characters < 1 or self.distance_below <= 0:
            raise InvalidSettings("feedback_characters is at least 1, and distance_below more than 0.")
        if self.memory_limit is not None and self.memory_limit < 1:
            raise InvalidSettings(f"memory_limit is at least 1; got {self.memory_limit}.")
        if self.answer_tokens < 1 or (self.context_limit is not None and self.context_limit < 1):
            raise InvalidSettings("answer_tokens and context_limit are at least 1.")

    def templates(self) -> tuple[PromptTemplate, PromptTemplate]:
        """The template of questions, and that of other prompts.

        Raises: InvalidSettings: a slot is missing or unknown.
        """
        return (
            PromptTemplate("question_template", self.question_template, QUESTION_SLOTS),
            PromptTemplate("prompt_template", self.prompt_template, PROMPT_SLOTS),
        )


def by_question(row: MemoryRow) -> str:
    """The question that a row answers, without labels, which all questions share."""
    return asked(row.key).text


def identity(row: MemoryRow) -> str:
    """What two rows of one question have in common."""
    return " ".join(by_question(row).casefold().split())


class FeedbackFront:
    """Puts the feedback of the nearest question into a prompt, where one is similar enough."""

    def __init__(self, model: LanguageModel, settings: MemPromptSettings, nearness: Encoder) -> None:
        self.model = model
        self._settings = settings
        self._search = Search(nearness, by_question)
        self._of_questions, self._of_prompts = settings.templates()
        self._special = tuple(model.tokenizer.all_special_tokens)

    def consult(self, memory: EditMemory, prompts: Sequence[str]) -> list[Consulted]:
        """See `Front`."""
        found = memory.nearest(self._search, [asked(prompt).text for prompt in prompts])
        return [self._consulted(prompt, *nearest) for prompt, [nearest] in zip(prompts, found, strict=True)]

    def _consulted(self, prompt: str, row: MemoryRow, similarity: float) -> Consulted:
        retrieved = (Retrieved(row.id, similarity),)
        if not self.similar(similarity):
            return Consulted(prompt=prompt, route="out-of-scope", retrieved=retrieved)
        written = self.written(prompt, row.text)
        if not self._fits(written):
            return Consulted(prompt=prompt, route="out-of-scope", retrieved=retrieved, outcome="too long")
        return Consulted(prompt=written, route="in-scope", retrieved=retrieved)

    def similar(self, similarity: float) -> bool:
        """Whether a remembered question is near enough; at the threshold itself it is not."""
        settings = self._settings
        if settings.lookup == "closest":
            return similarity > 1 - settings.distance_below
        return similarity > settings.similarity_above

    def written(self, prompt: str, feedback: str) -> str:
        """Return the prompt with feedback, quoted, so that it cannot pass for the template or end the line."""
        form = asked(prompt)
        labelled = form.ending == "answer" and not form.begun
        template = self._of_questions if labelled else self._of_prompts
        quotation = quoted(feedback, (*template.structure, *self._special), self._settings.feedback_characters)
        return template.filled(feedback=quotation, **({"question": form.text} if labelled else {"prompt": prompt}))

    def _fits(self, text: str) -> bool:
        settings, tokens = self._settings, len(self.model.encode(text))
        return self.model.fits(tokens, answer=settings.answer_tokens, limit=settings.context_limit)


class MemPrompt(MemoryMethod):
    """MemPrompt: a memory of questions and what people said about their answers."""

    name: ClassVar[str] = "mem-prompt"
    settings_type: ClassVar[type] = MemPromptSettings
    recipe: ClassVar[Recipe] = Recipe(MemPromptSettings)

    settings: MemPromptSettings

    def prepare(self, model: LanguageModel, data: Preparation) -> None:
        """Do nothing: there is nothing to prepare."""

    def front(self, model: LanguageModel) -> FeedbackFront:
        """See `MemoryMethod`."""
        return FeedbackFront(model, self.settings, self.nearness(model))

    def nearness(self, model: LanguageModel) -> Encoder:
        """See `MemoryMethod`; "closest" has one of its own."""
        if self._nearness is None and self.settings.lookup == "closest":
            return EditDistanceEncoder(self.settings.distance)
        return super().nearness(model)

    def added(self, memory: EditMemory, rows: Sequence[MemoryRow]) -> EditMemory:
        """See `MemoryMethod`; what was said about the same question gives way, be it feedback or an edit request."""
        new = {identity(row): row for row in rows}
        same = [row.id for row in memory if identity(row) in new]
        return (memory.withdrawn(same) if same else memory).added(new.values())

    def feedback(self, edited: EditedModel, question: str, correction: str) -> EditedModel:
        """Return `edited` with what a person says after a wrong answer; it replaces what was said about it before.

        Args:
            question: the prompt as it was asked.
            correction: what was meant, in words: "The capital of Meleria is Abmere".

        Raises: InvalidEdit: one of them is empty. MemoryFull: the memory's limit does not allow for it.
        """
        return self.remember(edited, [MemoryRow(key=question, text=correction)])
