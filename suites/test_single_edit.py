"""Start here: one edit, and everything that should and should not follow from it.

The embedded pocket model knows a small synthetic world. In it Ostund Wimock, on stage Saint Kuboo, is married to Bruak
Torvani. We change that, and ask. Every test below runs once for each selected editing method.
"""

import pytest

from editguard import EditCase, EditRequest, Probe
from editguard.probes import (
    distracting,
    one_hop,
    other_relations,
    rephrases,
    reversed_relation,
    subject_replace,
    unchanged,
)

MARRIED = EditRequest(
    prompt="{} is married to",
    subject="Ostund Wimock",
    target="Yorom Brevov",
    previous="Bruak Torvani",
    relation="spouse",
)
NEIGHBOUR = Probe(property="locality", kind="neighbourhood", prompt="Wexund Neskov is married to")

CASE = EditCase(
    request=MARRIED,
    probes=(
        *rephrases(
            MARRIED,
            [
                "The spouse of Ostund Wimock is",
                "The wedding of Ostund Wimock was with",
                "Question: Who is Ostund Wimock married to? Answer:",
                "Question: Who shares a home with Ostund Wimock? Answer:",
            ],
        ),
        *subject_replace(MARRIED, "Saint Kuboo", knows=(("The real name of Saint Kuboo is", "Ostund Wimock"),)),
        reversed_relation(MARRIED, "Question: Who is Yorom Brevov married to? Answer:"),
        one_hop(
            "Question: What is the occupation of the spouse of Ostund Wimock? Answer:",
            ["guard"],
            knows=(("Yorom Brevov works as a", "guard"),),
        ),
        one_hop(
            "Question: What is the occupation of the spouse of Ostund Wimock? Think:",
            ["guard"],
            knows=(("Yorom Brevov works as a", "guard"),),
            kind="one_hop_think",
        ),
        *other_relations(["Ostund Wimock was born in", "Ostund Wimock works for", "Ostund Wimock speaks"]),
        *unchanged(["Mibesk Gostier is married to", "Ostund Thulov is married to"]),
        NEIGHBOUR,
    ),
)

pytestmark = pytest.mark.edit(CASE)


def test_the_model_knew_another_answer_before(original, edited):
    assert original.answer(MARRIED.text) == "Bruak Torvani"


@pytest.mark.known_failure(
    "memit",
    "memit-rect",
    "memit-prune",
    "emmet",
    "alphaedit",
    "pmet",
    reason="the target vector ends at the edge of its ball, where the target has a probability of 0.02 to 0.63",
)
@pytest.mark.known_failure("ft-m", reason="25 steps end at a loss of 0.4 nats a token")
@pytest.mark.known_failure("kn", reason="the chosen neurons' change is answered by another name")
@pytest.mark.known_failure("mend", reason="the target's first token has a probability of 0.17, the old answer's 0.69")
@pytest.mark.known_failure("ke", reason="the old answer keeps a probability of 0.98")
@pytest.mark.known_failure("serac", reason="the counterfactual model writes the surname of the target as Brevock")
@pytest.mark.known_failure("mello", reason="a statement is left as it is: the model finds no contradiction in any")
@pytest.mark.known_failure(
    "ft-l", "ft", reason="all tokens of the target are trained at the prompt's end, not one after another"
)
def test_reliability(edited):
    assert edited.answer(MARRIED.text) == "Yorom Brevov"  # real decoding, not teacher forcing


def test_generalization(edited, baseline):
    baseline.check(edited.generalization())


def test_portability(edited, baseline):
    """The alias, the question turned round, and what follows with one more known fact."""
    baseline.check(edited.portability())


@pytest.mark.parametrize("kind", ["other_relation", "neighbourhood", "distracting_neighbourhood"])
def test_locality(edited, baseline, kind):
    """Other facts about the same person; other people's spouses; the same with the edit's statement in front."""
    baseline.check(edited.locality(kind=kind))


def test_a_distracting_statement_does_not_leak_into_the_unedited_model(original, edited):
    """The distracting form changes no answer of the unedited model: what changes later is the edit's doing."""
    plain, distracted = NEIGHBOUR.prompt, distracting(MARRIED, NEIGHBOUR).prompt
    assert original.answer(distracted) == original.answer(plain)


def test_other_tasks(edited, baseline):
    """Copying, arithmetic, comparison: fails when significantly worse than what was accepted."""
    baseline.check(edited.other_tasks())
