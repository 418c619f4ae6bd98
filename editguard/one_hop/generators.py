"""Who proposes facts: a language model of our own, one behind a URL, or the embedded model's world itself."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from editguard.edits import EditRequest
from editguard.errors import ConfigurationError, PromptTooLong, closest
from editguard.models.generation import StopRule
from editguard.one_hop.endpoint import Endpoint
from editguard.one_hop.proposal import Proposal

if TYPE_CHECKING:
    from editguard.models.language_model import LanguageModel
    from editguard.pocket.world import World

PACKAGED_PROMPT: Final = Path(__file__).parent / "data" / "prompt.txt"
PLACES: Final = ("statement", "subject", "target")
"""What the prompt may name in braces; {statement} or both others are needed, for a generator must see the edit."""
PROPOSAL_STOP: Final = StopRule(re.compile(r"\n[^\S\n]*\n"))
"""A model that goes on with further examples ends its own at a blank line, as those of the prompt end."""
MOST_TOKENS: Final = 256
_PLACE: Final = re.compile(r"\{(\w+)\}")


class Generator(Protocol):
    """Writes one proposal for each edit."""

    @property
    def name(self) -> str:
        """Who writes, for the review file."""

    def write(self, requests: Sequence[EditRequest]) -> list[str | None]:
        """Return a text for each request, meant to be one JSON object; None where there is nothing to propose."""


@dataclass(frozen=True)
class Prompt:
    """What a model is asked for each edit: a text with places for the edit's parts."""

    text: str

    def filled(self, request: EditRequest) -> str:
        """Return the prompt for one edit; what is put in is not searched for places again."""
        parts = {"statement": request.statement, "subject": request.subject.strip(), "target": request.target.strip()}
        return _PLACE.sub(lambda place: parts[place[1]], self.text)


def read_prompt(path: Path | None = None) -> Prompt:
    """Read the prompt from a text file; the packaged one by default.

    Raises: ConfigurationError: the file cannot be read, names an unknown place, or does not show the edit.
    """
    path = path or PACKAGED_PROMPT
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as failure:
        raise ConfigurationError(
            f"cannot read the prompt {path}: {getattr(failure, 'strerror', None) or failure}. "
            f"Name a text file in the form of {PACKAGED_PROMPT}."
        ) from failure
    found = set(_PLACE.findall(text))
    if unknown := sorted(found - set(PLACES)):
        raise ConfigurationError(
            f"the prompt {path} has the place {{{unknown[0]}}}; known are "
            f"{', '.join(f'{{{name}}}' for name in PLACES)}.{closest(unknown[0], PLACES)}"
        )
    if "statement" not in found and not {"subject", "target"} <= found:
        raise ConfigurationError(
            f"the prompt {path} does not show the edit: put {{statement}}, or {{subject}} and {{target}}, where it "
            f"should stand, as in {PACKAGED_PROMPT}."
        )
    return Prompt(text)


@dataclass(frozen=True)
class ModelGenerator:
    """A language model, causal or instruction-tuned; a chat template is used where there is one."""

    model: LanguageModel
    prompt: Prompt
    tokens: int = MOST_TOKENS

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.name

    def write(self, requests: Sequence[EditRequest]) -> list[str | None]:
        """See `Generator`.

        Raises: ConfigurationError: a prompt leaves no room for the proposal in the model's context.
        """
        try:
            made = self.model.generate(
                [self.prompt.filled(request) for request in requests], max_new_tokens=self.tokens, stop=PROPOSAL_STOP
            )
        except PromptTooLong as failure:
            raise ConfigurationError(f"the generator {self.name}: {failure} Or write a shorter --prompt.") from failure
        return [each.text for each in made]


@dataclass(frozen=True)
class EndpointGenerator:
    """A model behind an OpenAI-compatible endpoint."""

    endpoint: Endpoint
    prompt: Prompt
    tokens: int = MOST_TOKENS

    @property
    def name(self) -> str:
        """The model's name at the endpoint."""
        return self.endpoint.model

    def write(self, requests: Sequence[EditRequest]) -> list[str | None]:
        """See `Generator`. Raises: EndpointFailed: see `Endpoint.ask`."""
        return [self.endpoint.ask(self.prompt.filled(request), max_tokens=self.tokens) for request in requests]


@dataclass(frozen=True)
class WorldGenerator:
    """The embedded model's world, which knows the second fact of every composed question."""

    world: World
    name: str = "pocket world"

    def write(self, requests: Sequence[EditRequest]) -> list[str | None]:
        """See `Generator`."""
        return [self._one(request) for request in requests]

    def _one(self, request: EditRequest) -> str | None:
        """One of the questions of two hops that begin with the edited relation; always the same one for an edit."""
        from editguard.pocket.splits import stream

        changed = {(request.subject, request.relation or ""): request.target}
        found = [
            question
            for question in self.world.compositions(request.subject, edited=changed)
            if question.kind.path[0] == request.relation and len(question.hops) == 2
        ]
        if not found:
            return None
        question = stream("one hop", request.id).choice(found)
        second = question.hops[1]
        proposal = Proposal(
            object=request.target,
            relation=second.fact.relation,
            answer=question.answer,
            recall=second.question,
            question=question.texts[0],
        )
        return json.dumps(asdict(proposal), ensure_ascii=False)
