"""Probes and cases refuse what cannot be asked; what a suite declares becomes a tuple of cases."""

import pytest

from editguard.edits import EditCase, EditRequest, Probe, as_cases
from editguard.errors import InvalidEdit

REQUEST = EditRequest(prompt="The capital of {} is", subject="Velloria", target="Oskar")
REPHRASE = Probe(property="generalization", kind="rephrase", prompt="Velloria's capital is", answers=("Oskar",))


def test_one_request_one_case_or_a_mixture_become_cases_in_their_order() -> None:
    case = EditCase(request=REQUEST, probes=(REPHRASE,))
    assert as_cases(REQUEST) == (EditCase(request=REQUEST),)
    assert as_cases([case, REQUEST]) == (case, EditCase(request=REQUEST))


@pytest.mark.parametrize("nothing", [(), [], iter(())])
def test_declaring_no_edit_is_refused(nothing: object) -> None:
    with pytest.raises(InvalidEdit, match="no edit was declared"):
        as_cases(nothing)  # type: ignore[arg-type]


def test_something_else_than_an_edit_is_refused_by_name() -> None:
    with pytest.raises(InvalidEdit, match="not 'Velloria'"):
        as_cases(["Velloria"])  # type: ignore[list-item]


def test_only_locality_probes_may_leave_the_answer_to_the_unedited_model() -> None:
    Probe(property="locality", kind="neighbourhood", prompt="The capital of Tamrin is")
    with pytest.raises(InvalidEdit, match="needs at least one accepted answer"):
        Probe(property="generalization", kind="rephrase", prompt="Velloria's capital is")


def test_an_unknown_property_is_refused() -> None:
    with pytest.raises(InvalidEdit, match="one of reliability"):
        Probe(property="efficacy", kind="x", prompt="x", answers=("y",))  # type: ignore[arg-type]


def test_probes_do_not_make_another_edit_of_a_case() -> None:
    assert EditCase(request=REQUEST, probes=(REPHRASE,)).id == EditCase(request=REQUEST).id


def test_probe_ids_tell_probes_apart() -> None:
    other = Probe(property="generalization", kind="rephrase", prompt="Velloria's capital is", answers=("Ona",))
    assert REPHRASE.id != other.id
