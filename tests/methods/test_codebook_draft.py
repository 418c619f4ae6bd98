"""Where edits go in a codebook: the truth table of the algorithm, and what holds after any sequence of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from editguard.edited.codebook import Codebook
from editguard.methods.codebook_draft import SPLIT_SLACK, Draft, placement

A, B = (5, 6), (6, 5)
"""Two answers: other tokens in another order, with the same mean."""


@pytest.mark.parametrize(
    ("query", "same", "action", "nearest", "new"),
    [
        (3.0, False, "added", 1.0, 1.0),
        (3.0, True, "added", 1.0, 1.0),
        (2.0, True, "expanded", 2.0, None),
        (1.5, True, "expanded", 1.5, None),
        (1.0, True, "covered", 1.0, None),
        (0.0, True, "covered", 1.0, None),
        (2.0, False, "split", 1.0 * (1 - SPLIT_SLACK), 1.0),
        (1.5, False, "split", 0.75 * (1 - SPLIT_SLACK), 0.75),
        (0.0, False, "taken over", 1.0, None),
    ],
)
def test_the_truth_table_beside_a_key_at_zero_with_radius_one(
    query: float, same: bool, action: str, nearest: float, new: float | None
) -> None:
    found = placement(query, 1.0, same_label=same, initial_radius=1.0)
    assert (found.action, found.nearest_radius, found.new_radius) == (action, nearest, new)


def test_a_split_never_lets_the_older_ball_grow() -> None:
    found = placement(0.9, 0.1, same_label=False, initial_radius=1.0)
    assert (found.nearest_radius, found.new_radius) == (0.1, 0.45)


@pytest.mark.parametrize("distance", [1e-3, 1.0, 2000.0, 1e6])
def test_the_slack_of_a_split_survives_rounding_at_any_distance(distance: float) -> None:
    found = placement(distance, distance, same_label=False, initial_radius=1.0)
    assert found.nearest_radius is not None
    assert found.new_radius is not None
    radii = torch.tensor([found.nearest_radius, found.new_radius])  # float32
    assert radii[0] < radii[1]
    assert radii.sum() < torch.tensor(distance)


def test_a_widened_ball_holds_its_query_by_more_than_rounding_and_keys_so_close_are_one() -> None:
    assert placement(1.5, 1.0, same_label=True, initial_radius=1.0, rounding=0.01).nearest_radius == 1.51
    assert placement(0.01, 1.0, same_label=False, initial_radius=1.0, rounding=0.01).action == "taken over"
    assert placement(0.02, 1.0, same_label=False, initial_radius=1.0, rounding=0.01).action == "split"


# ---- sequences of edits, without a model


@dataclass
class Sequence:
    """Edits one after another: each is a point, an answer and a prompt of its own."""

    initial_radius: float = 1.0
    codebook: Codebook | None = None
    versions: list[Codebook] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)

    def edit(self, *edits: tuple[Tensor, tuple[int, ...], tuple[int, ...]]) -> None:
        draft = Draft(self.codebook, self.initial_radius)
        for query, label, prompt in edits:
            draft.place(query, prompt, label, torch.full((2,), float(len(self.records))), 0.0)
        self.records += draft.records
        self.codebook = draft.codebook(MATRIX, "replace_last")
        self.versions.append(self.codebook)


MATRIX = zoo.tiny("gpt2").anatomy.down_projection(0)


@st.composite
def points(draw: Callable[..., Any]) -> list[tuple[Tensor, tuple[int, ...], tuple[int, ...]]]:
    """Points on a coarse grid in one or three dimensions, so that some coincide and many are near."""
    width = draw(st.sampled_from([1, 3]))
    edits = []
    for _ in range(draw(st.integers(1, 25))):
        place = tuple(draw(st.integers(-8, 8)) for _ in range(width))
        label = draw(st.sampled_from([A, B, (5,)]))
        edits.append((torch.tensor(place) * 0.4, label, (*place, *label)))
    return edits


@given(points(), st.booleans())
@settings(deadline=None, max_examples=80)
def test_after_any_sequence_balls_of_other_answers_are_apart_and_every_edit_fires(
    edits: list[tuple[Tensor, tuple[int, ...], tuple[int, ...]]], together: bool
) -> None:
    sequence = Sequence()
    if together:
        sequence.edit(*edits)
    else:
        for number, edit in enumerate(edits):
            sequence.edit(edit)
            assert sequence.codebook is not None
            assert sequence.codebook.size <= number + 1
            record, entries = sequence.records[-1], sequence.codebook.entries
            assert all(entry.radius > 0 for entry in entries)
            [distance], [nearest] = sequence.codebook.keys.nearest(sequence.codebook.size, edit[0][None])
            assert nearest == record["entry"]
            assert entries[nearest].label == edit[1]
            assert distance <= entries[nearest].radius  # the edit just made is the one that answers
            if record["action"] == "split":
                keys = sequence.codebook.keys.rows(sequence.codebook.size)
                others = torch.linalg.vector_norm(keys[:-1] - edit[0], dim=1)
                older = entries[int(others.argmin())]
                assert older.radius + entries[-1].radius < float(others.min())
    assert sequence.codebook is not None
    one_by_one = Sequence()
    for edit in edits:
        one_by_one.edit(edit)
    assert one_by_one.codebook is not None
    assert [(entry.radius, entry.label, entry.members) for entry in one_by_one.codebook.entries] == [
        (entry.radius, entry.label, entry.members) for entry in sequence.codebook.entries
    ]


@given(points())
@settings(deadline=None, max_examples=30)
def test_every_version_stays_what_it_was_and_asking_again_adds_nothing(
    edits: list[tuple[Tensor, tuple[int, ...], tuple[int, ...]]],
) -> None:
    sequence, states = Sequence(), []
    for edit in edits:
        sequence.edit(edit)
        assert sequence.codebook is not None
        states.append(list(sequence.codebook.entries))
        before = sequence.codebook
        sequence.edit(edit)
        assert sequence.codebook.size == before.size
        assert [entry.radius for entry in sequence.codebook.entries] == [entry.radius for entry in before.entries]
        sequence.codebook = before
        sequence.versions.pop()
    for version, entries in zip(sequence.versions, states, strict=True):
        assert all(one is other for one, other in zip(version.entries, entries, strict=True))


def test_an_edit_touches_no_entry_but_its_own_and_the_one_that_it_splits() -> None:
    sequence = Sequence()
    for place, label in ((0.0, A), (10.0, B), (20.0, A), (30.0, B)):
        sequence.edit((torch.tensor([place]), label, (int(place),)))
    assert sequence.codebook is not None
    before = list(sequence.codebook.entries)
    sequence.edit((torch.tensor([10.8]), A, (99,)))
    after = sequence.codebook.entries
    assert [old is new for old, new in zip(before, after, strict=False)] == [True, False, True, True]
    assert after[1].value is before[1].value
    assert sequence.codebook.changed.keys() == {1, 4}


def test_answers_match_by_their_tokens_alone() -> None:
    """Not by a mean of token ids, and whatever the length of the prompt."""
    sequence = Sequence()
    sequence.edit((torch.tensor([0.0]), A, (1, 2, 3)))
    sequence.edit((torch.tensor([1.5]), A, (1, 2, 3, 4, 5, 6)))
    sequence.edit((torch.tensor([1.4]), B, (7,)))
    assert [record["action"] for record in sequence.records] == ["added", "expanded", "split"]


def test_prompts_that_a_narrowed_or_reassigned_entry_no_longer_answers_are_counted() -> None:
    sequence = Sequence()
    sequence.edit((torch.tensor([0.0]), A, (1,)))
    sequence.edit((torch.tensor([1.5]), A, (2,)), (torch.tensor([-0.5]), A, (3,)))
    assert sequence.codebook is not None
    assert [member.prompt for member in sequence.codebook.entries[0].members] == [(1,), (2,), (3,)]
    sequence.edit((torch.tensor([2.0]), B, (4,)))
    assert (sequence.records[-1]["action"], sequence.records[-1]["left_out"]) == ("split", 1)
    assert [member.prompt for member in sequence.codebook.entries[0].members] == [(1,), (3,)]
    sequence.edit((torch.tensor([0.0]), B, (1,)))
    assert (sequence.records[-1]["action"], sequence.records[-1]["left_out"]) == ("taken over", 1)
    assert sequence.codebook.size == 2
    assert [member.prompt for member in sequence.codebook.entries[0].members] == [(1,)]
