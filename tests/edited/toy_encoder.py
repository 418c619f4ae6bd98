"""An encoder whose vectors can be told by looking at a text, and that writes down what it is asked to encode."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from editguard.edited.searching import Numbers
from editguard.methods.retrieval import DenseEncoder

LETTERS = "abcde"


@dataclass(frozen=True)
class LetterEncoder(DenseEncoder):
    """How often a text has the letters a to e: whole numbers, so that products are exact and often equal."""

    letters: str = LETTERS
    encoded: list[str] = field(default_factory=list, compare=False)

    @property
    def identity(self) -> str:
        return "letters"

    def vectors(self, texts: Sequence[str]) -> Numbers:
        self.encoded.extend(texts)
        found = [[text.count(letter) for letter in self.letters] for text in texts]
        return np.array(found, dtype=np.float32).reshape(len(texts), len(self.letters))


@dataclass(frozen=True)
class CentredEncoder(LetterEncoder):
    """The same, compared after the mean is taken off."""

    centred: ClassVar[bool] = True

    @property
    def identity(self) -> str:
        return "centred letters"
