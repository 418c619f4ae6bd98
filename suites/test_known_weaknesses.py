"""Weaknesses that the methods are known for, declared instead of hidden.

A `known_failure` names the methods and the reason. The test is expected to fail for them; the day it passes it turns
red, so that the declaration is removed and the better behaviour is kept. For every other method the test must pass.
"""

import pytest

from editguard.probes.pocket import pocket_case

CASE = pocket_case("Lumell Praxov", "works_for", "Oporo Labs")
EDIT = CASE.request
ALIAS = "Count Galulu"

pytestmark = pytest.mark.edit(CASE)


@pytest.mark.known_failure(
    "rome",
    "ft-l",
    reason="one matrix changes at the keys of this name; the stage name of the same person has other keys",
)
@pytest.mark.known_failure(
    "ike", reason="the model copies a new fact for the name that states it, not for another name"
)
def test_the_edit_reaches_the_alias(edited):
    assert edited.answer(EDIT.prompt.replace("{}", ALIAS)) == EDIT.target


@pytest.mark.known_failure(
    "rome",
    "ft-l",
    reason="the model reads the old employer's city off the person, not off the new employer",
)
@pytest.mark.known_failure("ike", reason="the model does not compose a new fact with one that it remembers")
def test_a_question_over_two_facts_follows_the_edit(edited):
    assert edited.portability(kind="one_hop").mean == 1.0
