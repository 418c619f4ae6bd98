"""A model as lm-eval (EleutherAI's evaluation harness) asks it; needs the package.

Everything goes through `Answering`, so that an edited model is asked as it is used: with changed weights, routed, or
behind a memory that rewrites prompts. Prompts that do not fit the model are an error, and never cut.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from lm_eval.api.model import LM

from editguard.errors import ConfigurationError
from editguard.measurements.answering import Answering
from editguard.models.generation import StopRule

MOST_TOKENS: Final = 256
"""Of an answer whose task names no limit, as lm-eval has it for models of its own."""
_NEVER: Final = r"(?!)"


class AnsweringLM(LM):  # type: ignore[misc]  # the package is optional
    """An `Answering` in the form that lm-eval's tasks ask."""

    def __init__(self, model: Answering) -> None:
        super().__init__()
        self.model = model

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation behind its context, in nats, and whether all its tokens are likeliest.

        Raises: ConfigurationError: there is no context, or context and continuation are not parted by one white space,
            as an answer follows a prompt.
        """
        pairs = [request.args for request in requests]
        for context, continuation in pairs:
            _check_parted(context, continuation)
        scores = self.model.score(pairs)
        return [(score.log_prob, tuple(score.argmax_ids) == tuple(score.answer_ids)) for score in scores]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:  # noqa: ARG002
        """Refuse: an edited model answers prompts, and running text has none that a memory could look at.

        Raises: ConfigurationError: always.
        """
        raise ConfigurationError(
            "the task asks for the likelihood of running text (loglikelihood_rolling), which an edited model with a "
            "memory or a routing by prompts does not have: ask edited.perplexity(texts) instead."
        )

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Greedy text of each context up to one of its stop sequences; white space around it is taken off.

        Raises: ConfigurationError: the task asks for sampled text.
        """
        groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(_options(request.args[1]), []).append(place)
        found: dict[int, str] = {}
        for (limit, until), places in groups.items():
            prompts = [requests[place].args[0] for place in places]
            made = self.model.generate(prompts, max_new_tokens=limit, stop=stop_at(until))
            found.update((place, each.text) for place, each in zip(places, made, strict=True))
        return [found[place] for place in range(len(requests))]


def stop_at(until: Sequence[str]) -> StopRule:
    """The rule by which an answer ends at the first of some texts; without any it goes on to its limit."""
    return StopRule(re.compile("|".join(re.escape(text) for text in until if text) or _NEVER))


def _options(given: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
    """Most tokens, and the stop sequences, of a task's generation options."""
    if given.get("do_sample") and given.get("temperature", 1.0) != 0:
        raise ConfigurationError("the task asks for sampled text (do_sample), and edited models answer greedily.")
    until = given.get("until") or ()
    limit = given.get("max_gen_toks", given.get("max_new_tokens", MOST_TOKENS))
    return int(limit), (until,) if isinstance(until, str) else tuple(until)


def _check_parted(context: str, continuation: str) -> None:
    if not context.strip():
        raise ConfigurationError(
            "the task asks for a likelihood without a context, and an edited model needs a prompt."
        )
    bare = continuation.lstrip()
    between = context[len(context.rstrip()) :] + continuation[: len(continuation) - len(bare)]
    if not bare or len(between) != 1 or (between != " " and not context[-1].isspace()):
        raise ConfigurationError(
            f"the task's context and continuation are parted by {between!r}, and an answer follows a prompt after one "
            f"blank (here: {context[-20:]!r}, {continuation[:20]!r}); such scores would be of another text."
        )
