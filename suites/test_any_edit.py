"""Properties instead of examples: hypothesis draws the edits and the wordings.

`editor` applies edits that are drawn while the test runs: `with editor(request) as edited:`; behind the block the
model has its own bytes again. A counterexample is shrunk to the simplest edit that shows it.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from editguard import EditRequest
from editguard.pocket import default_world
from editguard.probes.pocket import PEOPLE_RELATIONS, pocket_case

WORLD = default_world()
PEOPLE = [person.name for person in WORLD.people]
ONE = pocket_case("Lumell Praxov", "educated_at")

few = settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@st.composite
def requests(draw: st.DrawFn) -> EditRequest:
    """Any person, any relation of people, in any of its wordings, with any other target."""
    relation = draw(st.sampled_from(PEOPLE_RELATIONS))
    subject = draw(st.sampled_from(PEOPLE))
    wording = draw(st.sampled_from([t for t in WORLD.templates(relation) if t.kind == "statement"]))
    fact = WORLD.fact(subject, relation)
    targets = [name for name in WORLD.objects(relation) if fact is None or name != fact.object]
    return EditRequest(prompt=wording.text, subject=subject, target=draw(st.sampled_from(targets)), relation=relation)


@few
@given(request=requests())
def test_any_edit_rolled_back_leaves_identical_bytes(editor, original, request):
    before = original.digest()
    with editor(request) as edited:
        edited.answer(request.text)
    assert original.digest() == before


@few
@given(first=requests(), second=requests())
def test_taking_one_of_two_edits_back_gives_the_answers_of_the_other(editor, first, second):
    with editor(first) as edited:
        alone = edited.answer(first.text)
    with editor(first) as outer:
        with editor(second, on=outer):
            pass
        assert outer.answer(first.text) == alone


@pytest.mark.edit(ONE)
@pytest.mark.known_failure(
    "ft-l", reason="inside its ball the change answers the prompt it was trained on, and few others"
)
@pytest.mark.known_failure(
    "ft", "kn", "pmet", "memit-prune", "ke", reason="the answer is another school, or a part of the name"
)
@pytest.mark.known_failure(
    "t-patcher",
    "grace",
    "wise",
    reason="a question is none of the prompts that the neuron, the key or the memory answers",
)
@pytest.mark.known_failure("mello", reason="statements are left as they are: the model finds no contradiction in any")
@settings(max_examples=20, deadline=None, derandomize=True)
@given(wording=st.sampled_from(WORLD.trained_templates(WORLD.fact("Lumell Praxov", "educated_at"))))
def test_any_rephrase_drawn_from_the_templates_is_answered_by_the_target(edited, wording):
    assert edited.answer(WORLD.statement(wording, ONE.request.subject)) == ONE.request.target


@pytest.mark.edit(ONE)
@pytest.mark.known_failure("kn", reason="the change of shared neurons reaches some facts of another kind")
@pytest.mark.known_failure("lora", reason="countries are asked for, and the new school is answered")
@settings(max_examples=30, deadline=None, derandomize=True)
@given(fact=st.sampled_from(WORLD.of_relation("capital")))
def test_no_country_has_moved_its_capital(edited, original, fact):
    """Facts of another kind altogether stay what they were for the unedited model."""
    prompt = WORLD.statement(WORLD.templates("capital")[0], fact.subject)
    assert edited.answer(prompt) == original.answer(prompt)
