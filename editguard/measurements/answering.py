"""What a measurement needs of a model: three questions, and nothing about how an edit works."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, Protocol, Self, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from editguard.models.generation import StopRule
    from editguard.models.language_model import LanguageModel

ANSWER_TOKENS: Final = 24
"""Limit of new tokens of an answer; longer gold answers raise it for their own probe."""


class Generated(Protocol):
    """One generated answer."""

    @property
    def text(self) -> str:
        """Generated text after the stop rule."""

    @property
    def stopped(self) -> bool:
        """Whether the model ended the answer, rather than the limit of tokens."""

    @property
    def prompt(self) -> str:
        """The text that the model was given."""


class Scored(Protocol):
    """One answer scored by teacher forcing."""

    @property
    def answer_ids(self) -> Sequence[int]:
        """Token ids of the answer."""

    @property
    def argmax_ids(self) -> Sequence[int]:
        """The most likely token at each position of the answer, given the answer's tokens before it."""

    @property
    def log_prob(self) -> float:
        """Log-probability of the whole answer, in nats."""

    @property
    def token_accuracy(self) -> float:
        """Share of positions where both ids are equal."""


@runtime_checkable
class Spelled(Protocol):
    """A score that tells the answer's tokens one by one; one that was kept may not."""

    @property
    def tokens(self) -> Sequence[tuple[str, float]]:
        """Each token's text and probability, the answer's earlier tokens being given."""


class Answering(Protocol):
    """A model that answers, edited or not."""

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int = ..., stop: StopRule = ...
    ) -> Sequence[Generated]:
        """Decode one answer to each prompt, greedily, up to the end of its first sentence or line, or by `stop`."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> Sequence[Scored]:
        """Score each (prompt, answer) by teacher forcing."""

    def next_tokens(self, prompts: Sequence[str], k: int = ...) -> Sequence[Sequence[tuple[str, float]]]:
        """The k most likely next tokens of each prompt, with their probabilities."""


class Ledger(Protocol):
    """What knows the bytes of a model's weights."""

    def digest(self) -> str:
        """SHA-256 over all parameters and buffers as they are now."""


class Physical(Protocol):
    """The physical model: a name, and weights."""

    @property
    def name(self) -> str:
        """The name."""

    @property
    def weights(self) -> Ledger:
        """The ledger of its weights."""


class Switchable(Answering, Protocol):
    """A model that answers, and can be brought into force."""

    @property
    def model(self) -> Physical:
        """The physical model."""

    def anew(self) -> Self:
        """The same model, which has not looked up any prompt yet."""

    def activate(self) -> None:
        """Bring the physical model to this one's edits."""

    def consult(self, prompts: Sequence[str]) -> object:
        """Find what is read in place of each prompt."""

    def count_tokens(self, prompts: Sequence[str]) -> int:
        """How many tokens the prompts have together, as they are asked."""

    def stored_bytes(self) -> int | None:
        """Bytes of the numbers that the edits left behind; None where one of them does not tell."""


class Read(Protocol):
    """A state of a model that tells who reads a prompt, and what in its place."""

    def by_model(self, prompts: Sequence[str]) -> list[tuple[LanguageModel, list[int], list[str]]]:
        """See `EditedModel.by_model`."""


_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class Remembered:
    """A model whose every question is asked once, in batches: for the unedited model, which never changes.

    Whoever holds one must make sure that the model behind it stays the same. It answers like the model itself.
    """

    def __init__(self, model: Answering) -> None:
        self.model = model
        self._generated: dict[tuple[str, int, StopRule | None], Generated] = {}
        self._scored: dict[tuple[str, str], Scored] = {}
        self._next: dict[tuple[str, int], Sequence[tuple[str, float]]] = {}

    def over(self, model: Answering, *, anew: Collection[str]) -> Remembered:
        """All that is known here as another model's answers, except to the prompts `anew`, which that one is asked."""
        other = Remembered(model)
        other._generated = {key: value for key, value in self._generated.items() if key[0] not in anew}
        other._scored = {key: value for key, value in self._scored.items() if key[0] not in anew}
        other._next = {key: value for key, value in self._next.items() if key[0] not in anew}
        return other

    def prompts(self) -> frozenset[str]:
        """All prompts that were asked."""
        return frozenset(key[0] for known in (self._generated, self._scored, self._next) for key in known)

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int = ANSWER_TOKENS, stop: StopRule | None = None
    ) -> list[Generated]:
        """See `Answering`; `stop` is the model's own rule by default."""

        def ask(keys: list[tuple[str, int, StopRule | None]]) -> Iterable[Generated]:
            asked = [prompt for prompt, _, _ in keys]
            if stop is None:
                return self.model.generate(asked, max_new_tokens=max_new_tokens)
            return self.model.generate(asked, max_new_tokens=max_new_tokens, stop=stop)

        return _remember(self._generated, [(prompt, max_new_tokens, stop) for prompt in prompts], ask)

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Scored]:
        """See `Answering`."""
        return _remember(self._scored, list(pairs), self.model.score)

    def next_tokens(self, prompts: Sequence[str], k: int = 5) -> list[Sequence[tuple[str, float]]]:
        """See `Answering`."""
        return _remember(
            self._next,
            [(prompt, k) for prompt in prompts],
            lambda keys: self.model.next_tokens([prompt for prompt, _ in keys], k),
        )


def _remember(
    known: dict[_Key, _Value], keys: list[_Key], ask: Callable[[list[_Key]], Iterable[_Value]]
) -> list[_Value]:
    """Values of all keys, asking once, together, for those that are not known yet."""
    missing = [key for key in dict.fromkeys(keys) if key not in known]
    if missing:
        known.update(zip(missing, ask(missing), strict=True))
    return [known[key] for key in keys]
