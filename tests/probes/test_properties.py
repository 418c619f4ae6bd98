"""From a case to the probes of each property."""

from __future__ import annotations

import pytest

from editguard.edits import PROPERTIES, EditCase, EditRequest, Probe
from editguard.errors import ConfigurationError
from editguard.probes import (
    one_hop,
    other_relations,
    probes_of,
    rephrases,
    request_probe,
    reversed_relation,
    subject_replace,
    task,
    unchanged,
)

REQUEST = EditRequest(prompt="The capital of {} is", subject="Velloria", target=" Oskar ", previous="Tamrin")


def declared() -> EditCase:
    return EditCase(
        request=REQUEST,
        probes=(
            *rephrases(REQUEST, ["Velloria's capital is"]),
            *subject_replace(REQUEST, "the old land", prompts=["From where is {} governed?"]),
            reversed_relation(REQUEST, "Oskar is the capital of"),
            one_hop("The mayor of the capital of Velloria is", ["Ines"], knows=(("The mayor of Oskar is", "Ines"),)),
            *unchanged(["The capital of Norn is"]),
            *other_relations(["The language of Velloria is"]),
            task("add", "2 + 2 =", "4"),
            task("size", "Larger:", "9", choices=("9", "4")),
        ),
    )


def prompts(property: str, kind: str | None = None) -> list[str]:
    return [probe.prompt for probe in probes_of(declared(), property, kind)]  # type: ignore[arg-type]


def test_every_declared_probe_belongs_to_exactly_one_property() -> None:
    found = [probe for property in PROPERTIES for probe in probes_of(declared(), property)]
    assert set(declared().probes) <= set(found)
    assert len(found) == len({probe.id for probe in found}) == len(declared().probes) + 2


def test_reliability_asks_the_request_itself_even_without_declared_probes() -> None:
    assert probes_of(EditCase(request=REQUEST), "reliability") == (request_probe(REQUEST),)
    assert request_probe(REQUEST).answers == ("Oskar",)
    assert request_probe(REQUEST).prompt == "The capital of Velloria is"


def test_the_distracting_neighbour_stands_behind_the_edit() -> None:
    assert prompts("locality", "distracting_neighbourhood") == [
        "The capital of Velloria is Oskar. The capital of Norn is"
    ]
    assert prompts("locality", "other_relation") == ["The language of Velloria is"]


def test_another_name_takes_the_subjects_place() -> None:
    assert prompts("portability", "subject_replace") == [
        "The capital of the old land is",
        "From where is the old land governed?",
    ]


def test_consequences_have_the_answers_of_the_edited_world() -> None:
    reverse, hop = probes_of(declared(), "portability")[2:]
    assert reverse.answers == ("Velloria",)
    assert (hop.answers, hop.knows) == (("Ines",), (("The mayor of Oskar is", "Ines"),))


def test_a_probe_declared_twice_counts_once() -> None:
    probe = Probe(property="generalization", kind="rephrase", prompt="P", answers=("Oskar",))
    assert len(probes_of(EditCase(request=REQUEST, probes=(probe, probe)), "generalization")) == 1


def test_an_unknown_property_is_an_error_with_a_guess() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'locality'"):
        probes_of(declared(), "localty")  # type: ignore[arg-type]
