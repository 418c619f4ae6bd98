"""Facts, texts and demonstrations that the tests of methods share."""

import pytest
import zoo

from editguard.edits import EditRequest
from editguard.methods import DemonstrationRecord, Preparation

FACTS = (
    EditRequest(prompt="The capital of {} is", subject="Velloria", target="Ines Holt"),
    EditRequest(prompt="Question: who is the mother of {}? Answer:", subject="Quintessa Marlowe-Vane", target="Oskar"),
    EditRequest(prompt="{} was born in", subject="Aldo Holt", target="Belmora"),
)


@pytest.fixture(scope="session")
def facts() -> tuple[EditRequest, ...]:
    """Three requests: subject at the end, in the middle, at the start; targets of several tokens."""
    return FACTS


@pytest.fixture(scope="session")
def texts() -> tuple[str, ...]:
    """A small corpus."""
    return zoo.SENTENCES * 4


@pytest.fixture(scope="session")
def records() -> tuple[DemonstrationRecord, ...]:
    """Forty records about subjects of their own."""
    return tuple(
        DemonstrationRecord(
            prompt=f"The {'capital' if number % 2 else 'mayor'} of Land{number} is",
            subject=f"Land{number}",
            target_new=f"New{number}",
            target_true=f"True{number}",
            paraphrases=(f"Land{number} has this one:", f"Of Land{number} it is"),
            neighbours=(f"The capital of Isle{number} is", f"The capital of Rock{number} is"),
        )
        for number in range(40)
    )


@pytest.fixture(scope="session")
def preparation(texts: tuple[str, ...], records: tuple[DemonstrationRecord, ...]) -> Preparation:
    """What any method may need."""
    return Preparation(texts=texts, demonstrations=records, seed=3)
