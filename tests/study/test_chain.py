"""What a stopped sequence goes on from."""

import pytest
import zoo

from editguard.edited import EditedModel
from editguard.measurements import phase
from editguard.study.chain import Chain, saved_chain


@pytest.mark.parametrize(
    ("at_checkpoint", "first", "costs"),
    [(False, 10, 1), (False, 5, 1), (True, 5, 1), (True, 10, 0)],
    ids=["between checkpoints", "between, asked for here", "asked for again", "asked for already"],
)
def test_costs_come_back_where_the_checkpoint_they_belong_to_is_still_to_come(tmp_path, at_checkpoint, first, costs):
    model = zoo.tiny("gpt2")
    with phase("rome", "edit", edits=1) as cost:
        pass
    chain = Chain(
        EditedModel.original(model), 5, [0, 1, 2, 4], [{"case": "x", "reason": "refused", "message": "m"}], [cost]
    )
    assert chain.save(tmp_path / "c.json", at_checkpoint=at_checkpoint)
    found = saved_chain(tmp_path / "c.json", model, first=first)
    assert found is not None
    assert (found.done, found.standing, found.failures) == (5, chain.standing, chain.failures)
    assert len(found.costs) == costs
    assert saved_chain(tmp_path / "c.json", model, first=4) is None
