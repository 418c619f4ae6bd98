"""Teacher-forced scores: how likely given answers are, token by token."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """How a model takes one given answer after one prompt.

    Attributes:
        log_probs: natural log-probability of each answer token, the answer's earlier tokens being
            fed.
        argmax_ids: the model's most likely token at each of these positions.
        answer_ids: the answer's tokens.
        texts: the text of each of them, where it was told.
    """

    log_probs: tuple[float, ...]
    argmax_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    texts: tuple[str, ...] = ()

    @property
    def tokens(self) -> tuple[tuple[str, float], ...]:
        """Each token's text and probability, the answer's earlier tokens being fed; none without texts."""
        return tuple((text, math.exp(log_prob)) for text, log_prob in zip(self.texts, self.log_probs, strict=False))

    @property
    def log_prob(self) -> float:
        """Log-probability of the whole answer, unit: nats."""
        return math.fsum(self.log_probs)

    @property
    def probability(self) -> float:
        """Probability of the whole answer."""
        return math.exp(self.log_prob)

    @property
    def mean_log_prob(self) -> float:
        """Log-probability per token, unit: nats."""
        return self.log_prob / len(self.log_probs)

    @property
    def token_accuracy(self) -> float:
        """Fraction of the answer's tokens that are the most likely ones."""
        pairs = zip(self.argmax_ids, self.answer_ids, strict=True)
        right = sum(top == wanted for top, wanted in pairs)
        return right / len(self.answer_ids)

    @property
    def exact(self) -> bool:
        """Every token of the answer is the most likely one."""
        return self.argmax_ids == self.answer_ids
