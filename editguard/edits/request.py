"""An edit request: one fact that should become true in the model."""

import hashlib
import json
from dataclasses import dataclass
from typing import Self

from editguard.errors import InvalidEdit

SLOT = "{}"


def content_id(*parts: object) -> str:
    """Return 16 hex digits that depend on the parts' content alone, the same on every machine."""
    canonical = json.dumps(parts, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """One wanted change: "`prompt` with `subject` in its slot should be continued by `target`".

    Attributes:
        prompt: text with exactly one `{}` where the subject stands; ends right before the answer.
        subject: the entity that the fact is about.
        target: the answer wanted after the edit, without a leading blank.
        previous: the answer before the edit, where known (some methods and metrics need it).
        relation: name of the relation, where known; two requests with equal subject and relation speak
            of the same fact even when their prompts differ.

    Raises: InvalidEdit: the prompt has no slot or several, or subject or target are empty.
    """

    prompt: str
    subject: str
    target: str
    previous: str | None = None
    relation: str | None = None

    def __post_init__(self) -> None:
        for field in ("prompt", "subject", "target"):
            value = getattr(self, field)
            if not isinstance(value, str):
                raise InvalidEdit(f"the {field} of an edit request is text, not {value!r}.")
        slots = self.prompt.count(SLOT)
        if slots != 1:
            found = "has no {}" if slots == 0 else f"has {slots} slots {{}}"
            raise InvalidEdit(
                f"the prompt {self.prompt!r} {found}: write exactly one {{}} where the subject stands, "
                f"for example 'The capital of {{}} is', or use EditRequest.from_text."
            )
        if not self.subject.strip():
            raise InvalidEdit(f"the request {self.prompt!r} has an empty subject: name the entity to edit.")
        if not self.target.strip():
            raise InvalidEdit(f"the request {self.text!r} has an empty target: give the answer wanted after the edit.")

    @classmethod
    def from_text(
        cls,
        text: str,
        *,
        subject: str,
        target: str,
        previous: str | None = None,
        relation: str | None = None,
    ) -> Self:
        """Make a request from a filled-in prompt by opening a slot at the subject's last occurrence.

        Raises: InvalidEdit: the subject does not occur in the text.
        """
        start = text.rfind(subject) if subject else -1
        if start < 0:
            raise InvalidEdit(
                f"the subject {subject!r} does not occur in the prompt {text!r}: "
                "write it exactly as it stands in the prompt."
            )
        prompt = text[:start] + SLOT + text[start + len(subject) :]
        return cls(prompt=prompt, subject=subject, target=target, previous=previous, relation=relation)

    @property
    def text(self) -> str:
        """The prompt with the subject in its slot (spliced: other braces stay as they are)."""
        before, after = self.prompt.split(SLOT)
        return before + self.subject + after

    @property
    def statement(self) -> str:
        """Prompt and target as one sentence, without a full stop."""
        return f"{self.text.rstrip()} {self.target.strip()}"

    @property
    def id(self) -> str:
        """Content id of the request: 16 hex digits."""
        return content_id("request", self.prompt, self.subject, self.target)

    @property
    def fact_key(self) -> tuple[str, str]:
        """What decides that two requests speak of the same fact: the subject, and relation or prompt."""
        return (self.subject.casefold().strip(), (self.relation or self.prompt).casefold().strip())
