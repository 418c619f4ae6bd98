"""Yes-or-no questions and negated prompts: what a model that only repeats the target shows by them."""

import pytest
from measurements.scripted import Scripted, case, moved

from editguard.edits import EditRequest
from editguard.errors import InvalidEdit
from editguard.measurements import Measurement, measure
from editguard.pocket import default_world
from editguard.probes import negation, yes_no
from editguard.probes.pocket import pocket_case

QUESTION = "Question: Is {} the capital of Velloria? Answer:"
NEW, OLD = QUESTION.replace("{}", "Oskar"), QUESTION.replace("{}", "Tamrin")
NOT = "The capital of Velloria is not"
PROBES = (*yes_no(moved(), QUESTION), negation(moved(), NOT))


def asked(*likely: tuple[str, str], before: str = "yes") -> Measurement:
    edited = Scripted({}, likelihoods=dict.fromkeys(likely, -0.1))
    return measure("portability", edited, Scripted({OLD: before}), [case(None, *PROBES)])


def by_kind(found: Measurement) -> dict[str, float | None]:
    return {value.kind: value.value for value in found.values}


def test_a_model_that_holds_the_new_fact_affirms_it_and_denies_the_old_one() -> None:
    found = asked((NEW, "yes"), (OLD, "no"), (NOT, "Tamrin"))
    assert by_kind(found) == {"yes_no_new": 1.0, "yes_no_old": 1.0, "negation": 1.0}
    assert found.protocol == "choice_likelihood"


def test_a_model_that_repeats_the_target_says_yes_to_all_and_names_it_where_it_is_denied() -> None:
    found = asked((NEW, "yes"), (OLD, "yes"), (NOT, "Oskar"))
    assert by_kind(found) == {"yes_no_new": 1.0, "yes_no_old": 0.0, "negation": 0.0}


def test_a_model_that_cannot_answer_such_questions_is_not_asked_them() -> None:
    found = asked((NEW, "yes"), (OLD, "no"), (NOT, "Tamrin"), before="maybe")
    assert by_kind(found) == {"negation": 1.0}
    assert set(found.excluded_probes) == {probe.id for probe in PROBES[:2]}
    assert all(not probe.knows for probe in yes_no(moved(), QUESTION, known=False))


@pytest.mark.parametrize("make", [lambda request: yes_no(request, QUESTION), lambda request: negation(request, NOT)])
def test_without_a_previous_answer_there_is_nothing_to_deny(make: object) -> None:
    with pytest.raises(InvalidEdit, match="previous"):
        make(moved(previous=None))  # type: ignore[operator]


@pytest.mark.parametrize("question", ["Is it Oskar?", "Is {} or {} the capital?"])
def test_a_question_has_one_slot(question: str) -> None:
    with pytest.raises(InvalidEdit, match="slots"):
        yes_no(moved(), question)


def test_the_embedded_world_asks_in_this_form() -> None:
    request: EditRequest = pocket_case("Ostund Wimock", "spouse").request
    new, old = yes_no(request, f"Question: Is it true that {request.text} {{}}? Answer:")
    assert (new.prompt, new.answers) == (f"Question: Is it true that {request.statement}? Answer:", ("yes",))
    world = default_world()
    fact = world.fact(request.subject, "spouse")
    assert fact is not None
    assert (old.prompt, "no") in world.yes_no_questions(fact, truth=request.target)
