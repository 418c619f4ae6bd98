"""Networks of SERAC small enough for tests, and stand-ins for a classifier whose scores are known."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from editguard.edited import EditedModel, Search
from editguard.edited.edit_memory import by_text
from editguard.edited.searching import Numbers
from editguard.edits import EditRequest
from editguard.methods.counterfactual_model import as_language_model, untrained
from editguard.methods.scope_classifier import ScopeEncoder
from editguard.methods.serac import Serac, SeracFront, SeracSettings
from editguard.models import LanguageModel

QUICK: dict[str, Any] = {
    "steps": 4,
    "edits_per_step": 2,
    "edits_per_pass": 2,
    "validation_edits": 2,
    "validate_every": 2,
    "classifier_layers": 1,
    "classifier_width": 8,
}
FAR = 20.0


class Points:
    """A classifier whose vectors are given: of a text that is not among them, a place far from all others."""

    form = "embedding"

    def __init__(self, places: Mapping[str, Sequence[float]]) -> None:
        self.places = {text: list(place) for text, place in places.items()}
        self.asked: list[str] = []

    def measured(self, texts: Sequence[tuple[str, ...]]) -> Numbers:
        self.asked += [text for (text,) in texts]
        rows = [self.places.setdefault(text, [FAR * (1 + len(self.places)), 0.0]) for (text,) in texts]
        return np.array(rows, dtype=np.float64).reshape(len(rows), 2)


def counterfactual(model: LanguageModel, seed: int = 5) -> LanguageModel:
    """A random counterfactual model."""
    module = untrained(model, None, None, seed)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(20)  # its own small weights answer all prompts alike
    return as_language_model(module, model.tokenizer, model.name, model.batch_size)


class Known(Serac):
    """SERAC with a classifier of points, and a random model that answers."""

    def __init__(self, points: Points, answering: LanguageModel, threshold: float = 0.5) -> None:
        super().__init__(SeracSettings(), provenance={})
        self.known = SeracFront(Search(ScopeEncoder("points", points), by_text), answering, threshold)  # type: ignore[arg-type]

    def front(self, model: LanguageModel) -> SeracFront:
        return self.known


def known(
    model: LanguageModel, facts: Sequence[EditRequest], *, near: float = 0.5, threshold: float = 0.5
) -> tuple[Known, Points]:
    """SERAC in whose eyes each fact's own prompt is in its scope, and nothing else is; `near` is the distance."""
    places: dict[str, Sequence[float]] = {}
    for number, fact in enumerate(facts):
        places[fact.statement] = (0.0, -FAR * (1 + number))
        places[fact.text] = (near, -FAR * (1 + number))
    points = Points(places)
    return Known(points, counterfactual(model), threshold), points


def seen(edited: EditedModel, prompts: Sequence[str], answer: str = "Oskar") -> list[tuple[Any, ...]]:
    """All that can be seen of the answers to prompts, to the last bit."""
    scores = edited.score([(prompt, answer) for prompt in prompts])
    tops = edited.next_tokens(prompts, 3)
    said = edited.generate(prompts, max_new_tokens=4)
    return [(a.log_probs, tuple(b), c.text) for a, b, c in zip(scores, tops, said, strict=True)]
