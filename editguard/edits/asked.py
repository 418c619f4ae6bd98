"""How a prompt asks: a question with labels, a bare one, or the beginning of a statement."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

REASONED_ENDING: Final = "Think:"
"""A prompt with this ending is continued by sentences, the last of which begins with the mark of the answer."""
ANSWER_MARK: Final = "Answer:"

_FORMS: Final = tuple(
    re.compile(rf"\s*{head}\s*(?:\b(?P<ending>{endings}):\s*(?P<begun>.*))?", re.DOTALL)
    for head, endings in (
        (r"Question:\s*(?P<text>.*?)", "Answer|Think"),
        (r"Q:\s*(?P<text>.*?)", "A"),
        (r"(?P<text>.*?\?)", "Answer|Think"),
    )
)
_ENDINGS: Final[dict[str, Literal["answer", "think"]]] = {"Answer": "answer", "A": "answer", "Think": "think"}


@dataclass(frozen=True)
class Asked:
    """A prompt taken apart.

    Attributes:
        text: the question, or the beginning of the statement, without labels and white space around it.
        kind: a question is labelled as one, or ends with a question mark.
        ending: "answer" and "think" where a label asks for an answer, or for sentences before it; "" without a label.
        begun: what stands behind that label already.
    """

    text: str
    kind: Literal["question", "statement"]
    ending: Literal["answer", "think", ""] = ""
    begun: str = ""


def asked(prompt: str) -> Asked:
    """Return the prompt taken apart; the labels are "Question:" or "Q:", and "Answer:", "A:" or "Think:"."""
    for form in _FORMS:
        if found := form.fullmatch(prompt):
            ending: Literal["answer", "think", ""] = "" if found["ending"] is None else _ENDINGS[found["ending"]]
            return Asked(found["text"], "question", ending, (found["begun"] or "").strip())
    return Asked(prompt.strip(), "statement")
