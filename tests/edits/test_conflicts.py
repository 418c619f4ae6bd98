"""Requests of a batch may not contradict each other; those of a sequence supersede each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editguard.edits import EditRequest, refuse_conflicts, superseded
from editguard.errors import ConflictingEdits


def moved(subject: str, target: str, prompt: str = "The capital of {} is") -> EditRequest:
    return EditRequest(prompt=prompt, subject=subject, target=target, relation="capital")


requests = st.lists(st.builds(moved, st.sampled_from("ABCD"), st.sampled_from("xyz")), max_size=8)


@given(requests)
def test_a_batch_is_refused_exactly_when_one_subject_gets_two_targets(
    batch: list[EditRequest],
) -> None:
    targets: dict[str, set[str]] = {}
    for request in batch:
        targets.setdefault(request.subject, set()).add(request.target)
    if all(len(wanted) == 1 for wanted in targets.values()):
        refuse_conflicts(batch)
    else:
        with pytest.raises(ConflictingEdits, match="contradict each other"):
            refuse_conflicts(batch)


@given(requests)
def test_in_a_sequence_exactly_the_last_request_on_a_fact_stays(sequence: list[EditRequest]) -> None:
    gone = superseded(sequence)
    staying = [request.subject for i, request in enumerate(sequence) if i not in gone]
    assert sorted(staying) == sorted({request.subject for request in sequence})
    for position in gone:
        assert sequence[position].subject in {r.subject for r in sequence[position + 1 :]}


def test_other_wordings_of_one_relation_speak_of_the_same_fact() -> None:
    with pytest.raises(ConflictingEdits):
        refuse_conflicts([moved("A", "x"), moved("A", "y", prompt="{}'s capital is")])


def test_without_a_relation_the_prompt_decides() -> None:
    first = EditRequest(prompt="The capital of {} is", subject="A", target="x")
    second = EditRequest(prompt="The mayor of {} is", subject="A", target="y")
    refuse_conflicts([first, second])
