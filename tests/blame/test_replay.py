"""Parts of a chain of edits in force: of recorded updates exactly these, else what the method makes of them."""

from collections.abc import Sequence

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from editguard.blame import Replay, nearest_pairs
from editguard.blame.nearest import cosines
from editguard.blame.search import OutOfTime
from editguard.edited import AppliedEdit, EditedModel, WeightDelta
from editguard.edits import EditRequest
from editguard.models import LanguageModel
from editguard.models.weights import Dense, LowRank, Total

SUBJECTS = ("Velloria", "Oskaria", "Tamrin", "Belmora", "Aldo", "Odalys")
REQUESTS = tuple(EditRequest(prompt="The capital of {} is", subject=name, target="Ines") for name in SUBJECTS)


def one(model: LanguageModel, request: EditRequest, before: int) -> AppliedEdit:
    """A low-rank update that depends on the request, and on how many edits were there before it."""
    seed = SUBJECTS.index(request.subject) + 100 * before
    generator = torch.Generator().manual_seed(seed)
    matrix = model.anatomy.down_projection(1 + seed % 2)
    left, right = (torch.randn(width, 1, generator=generator) * 0.1 for width in matrix.shape)
    return AppliedEdit("toy", (request,), (WeightDelta({matrix.name: LowRank(left, right)}),))


def apply(edited: EditedModel, requests: Sequence[EditRequest]) -> EditedModel:
    for request in requests:
        edited = edited.extended(one(edited.model, request, len(edited.edits)))
    return edited


def digest(edited: EditedModel) -> str:
    with edited:
        return edited.model.weights.digest()


def replay(model: LanguageModel) -> tuple[EditedModel, Replay]:
    chain = apply(EditedModel.original(model), REQUESTS)
    return chain, Replay(chain, REQUESTS, apply, together=False)


SUBSETS = st.sets(st.integers(0, len(REQUESTS) - 1)).map(lambda places: tuple(sorted(places)))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@settings(max_examples=10, deadline=None)
@given(subset=SUBSETS)
def test_recorded_updates_are_those_of_the_chain_without_the_others(family: str, subset: tuple[int, ...]) -> None:
    model = zoo.tiny(family)
    chain, parts = replay(model)
    pristine = digest(EditedModel.original(model))
    assert parts.recorded
    assert digest(parts.model(subset)) == digest(EditedModel(model, [chain.edits[place] for place in subset]))
    assert (digest(parts.model(subset)) == pristine) is (not subset)


@settings(max_examples=10, deadline=None)
@given(subset=SUBSETS)
def test_applied_anew_an_edit_knows_nothing_of_those_left_out(subset: tuple[int, ...]) -> None:
    model = zoo.tiny("gpt2")
    chain, parts = replay(model)
    anew = parts.anew(subset)
    assert anew.requests == tuple(REQUESTS[place] for place in subset)
    expected = apply(EditedModel.original(model), [REQUESTS[place] for place in subset])
    assert digest(anew) == digest(expected)
    assert not model.installed
    prefix = subset == tuple(range(len(subset)))
    assert (digest(anew) == digest(parts.model(subset))) is prefix
    assert digest(chain) == digest(parts.model(range(len(REQUESTS))))


@pytest.mark.parametrize("case", ["a sum", "a batch", "merged"])
def test_changes_that_need_those_before_them_are_applied_anew(case: str) -> None:
    model = zoo.tiny("gpt2")
    name = model.anatomy.down_projection(1).name
    shape = model.anatomy.down_projection(1).shape
    if case == "a batch":
        edits = [AppliedEdit("toy", REQUESTS, (WeightDelta({name: Dense(torch.zeros(shape))}),))]
    else:
        delta = Total(torch.zeros(shape)) if case == "a sum" else Dense(torch.zeros(shape))
        requests = REQUESTS if case == "a sum" else REQUESTS[:-1]
        edits = [AppliedEdit("toy", (request,), (WeightDelta({name: delta}),)) for request in requests]
        if case == "merged":
            edits[-1] = AppliedEdit("toy", REQUESTS[-2:], edits[-1].changes)
    parts = Replay(EditedModel(model, edits), REQUESTS, apply, together=case == "a batch")
    assert not parts.recorded
    assert digest(parts.model((0, 3))) == digest(parts.anew((0, 3)))


def test_an_edits_own_prompt_has_its_key_and_stands_behind_the_others() -> None:
    model = zoo.tiny("gpt2")
    chain, _ = replay(model)
    own = REQUESTS[0].text
    pairs = nearest_pairs(model, chain, {1: REQUESTS[0]}, [own, REQUESTS[1].text], own={(1, own)})
    assert [pair.prompt for pair in pairs] == [REQUESTS[1].text, own]
    assert pairs[1].similarity == pytest.approx(1.0, abs=1e-3)
    assert pairs[1].token.strip()
    assert pairs[1].own
    assert not model.installed


@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_without_a_changed_down_projection_of_a_decoder_there_are_no_pairs(family: str) -> None:
    model = zoo.tiny(family)
    name = model.anatomy.down_projection(model.anatomy.layers - 1).name if family == "t5" else "none"
    edited = EditedModel(model, [AppliedEdit("toy", REQUESTS[:1], (WeightDelta({name: Dense(torch.zeros(1))}),))])
    assert nearest_pairs(model, edited, {1: REQUESTS[0]}, [REQUESTS[0].text]) == ()


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_cosines_are_those_of_the_rows(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(3, 5, generator=generator), torch.randn(2, 5, generator=generator)
    found = cosines(left, right * 7)
    for row in range(3):
        for column in range(2):
            expected = torch.nn.functional.cosine_similarity(left[row], right[column], dim=0)
            assert found[row, column].item() == pytest.approx(expected.item(), abs=1e-5)


def test_applying_anew_can_be_ended_between_two_edits_and_leaves_no_edit_behind() -> None:
    model = zoo.tiny("gpt2")
    _, parts = replay(model)
    calls: list[int] = []

    def late() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise OutOfTime

    with pytest.raises(OutOfTime):
        parts.anew(range(len(REQUESTS)), late)
    assert len(calls) == 3
    assert not model.installed
