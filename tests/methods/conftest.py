"""Facts, texts and demonstrations that the tests of methods share."""

import pytest
import zoo

from editguard.edits import EditCase, EditRequest, Probe
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


def training_case(number: int, *, answered: bool = True) -> EditCase:
    """A case about a subject of its own, with two rephrases and two facts that should stay."""
    target = ("Tamrin", "Belmora", "Oskar")[number % 3]
    request = EditRequest(prompt="The mayor of {} is", subject=f"Land{number}", target=target, previous="Ines")
    rephrases = (f"Land{number} has this mayor:", f"Question: who is the mayor of Land{number}? Answer:")
    kept = (f"The mother of Isle{number} is", f"Land{number} was born in")
    return EditCase(
        request=request,
        probes=(
            *(Probe(property="generalization", kind="rephrase", prompt=text, answers=(target,)) for text in rephrases),
            *(
                Probe(property="locality", kind="neighbourhood", prompt=text, answers=("Aldo Holt",) * answered)
                for text in kept
            ),
        ),
    )


@pytest.fixture(scope="session")
def training() -> tuple[EditCase, ...]:
    """Cases to train an editor on."""
    return tuple(training_case(number) for number in range(8))


@pytest.fixture(scope="session")
def preparation(
    texts: tuple[str, ...], records: tuple[DemonstrationRecord, ...], training: tuple[EditCase, ...]
) -> Preparation:
    """What any method may need."""
    return Preparation(texts=texts, demonstrations=records, training=training, seed=3)
