"""Weaknesses that the methods are known for, declared instead of hidden.

A `known_failure` names the methods and the reason. The test is expected to fail for them; the day it passes it turns
red, so that the declaration is removed and the better behaviour is kept. For every other method the test must pass.
"""

import pytest

from editguard.probes.pocket import pocket_case

CASE = pocket_case("Lumell Praxov", "works_for", "Oporo Labs")
EDIT = CASE.request
ALIAS = "Count Galulu"
OTHERS = (
    "ft-l",
    "ft",
    "ft-m",
    "kn",
    "r-rome",
    "memit",
    "memit-rect",
    "memit-prune",
    "pmet",
    "emmet",
    "alphaedit",
    "ke",
    "mend",
)
BESIDE_THE_WEIGHTS = ("t-patcher", "grace", "wise")

pytestmark = pytest.mark.edit(CASE)


@pytest.mark.known_failure(
    "rome",
    reason="the stage name's answer stays the old one: at its key the update has 12 % of its strength at the name's",
)
@pytest.mark.known_failure(*OTHERS, "ike", reason="the stage name's answer does not become the target")
@pytest.mark.known_failure(*BESIDE_THE_WEIGHTS, reason="a prompt with the stage name is none that they answer")
@pytest.mark.known_failure("lora", reason="the target's name is repeated without an end")
@pytest.mark.known_failure("mem-prompt", "serac", reason="a prompt with the stage name is not taken for the edit's")
@pytest.mark.known_failure("mello", reason="a statement is left as it is: the model finds no contradiction in any")
def test_the_edit_reaches_the_alias(edited):
    assert edited.answer(EDIT.prompt.replace("{}", ALIAS)) == EDIT.target


@pytest.mark.known_failure(
    "rome",
    "ike",
    *OTHERS,
    *BESIDE_THE_WEIGHTS,
    "lora",
    "calinet",
    "serac",
    "mem-prompt",
    "mello",
    reason="the model without any edit answers one in ten such questions, asked without steps in between",
)
def test_a_question_over_two_facts_follows_the_edit(edited):
    assert edited.portability(kind="one_hop").mean == 1.0
