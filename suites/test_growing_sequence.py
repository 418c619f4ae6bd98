"""Sixty edits, one after another, looked at after 1, 10, 30 and 60: what is left of the first ones, and of the rest?

The sequence grows in place: the tenth edit is made on the model that holds nine, and each checkpoint asks *all* edits
so far again (retention), not only the newest. Locality is always relative to the model without any edit.
"""

import pytest

from editguard import EditCase, EditRequest
from editguard.probes.pocket import pocket_cases

EDITS = pocket_cases(59, seed=2, neighbours=1)
FIRST = EDITS[0].request
# The last edit states the first one's fact anew: in a sequence the later request supersedes the earlier.
AGAIN = EditCase(
    request=EditRequest(
        prompt=FIRST.prompt,
        subject=FIRST.subject,
        target=EDITS[6].request.target,
        relation=FIRST.relation,
    )
)

pytestmark = pytest.mark.edit_sequence([*EDITS, AGAIN], checkpoints=(1, 10, 30, 60))


def test_earlier_edits_survive(edited, baseline):
    baseline.check(edited.reliability())


def test_rephrases_survive(edited, baseline):
    baseline.check(edited.generalization(kind="question"))


@pytest.mark.parametrize("kind", ["other_relation", "neighbourhood"])
def test_locality_survives(edited, baseline, kind):
    baseline.check(edited.locality(kind=kind))


def test_other_tasks_survive(edited, baseline):
    baseline.check(edited.other_tasks())


def test_a_superseded_edit_is_counted_and_not_asked_for(edited):
    measured = edited.reliability()
    assert measured.superseded == (1 if edited.edits == 60 else 0)
    assert measured.n == edited.edits - measured.superseded
