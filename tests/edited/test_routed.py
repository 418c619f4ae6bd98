"""Changes that decide on a prompt: one hook however many there are, and nothing where there is no prompt."""

import pytest
import torch
import zoo
from torch import Tensor

from editguard.edited import AppliedEdit, EditedModel
from editguard.edited.routed import RoutedChange, newest
from editguard.edits import EditRequest
from editguard.models import LanguageModel
from editguard.models.anatomy import Matrix
from editguard.models.reading import Reading

FACT = EditRequest(prompt="The capital of {} is", subject="Velloria", target="Oskar")
LAYER = 2
SHORT, LONG = "Ines Holt", "Question: who is the mayor of Tamrin? Answer:"


class Adding(RoutedChange):
    """Adds to every token of the prompts that are long enough."""

    def __init__(self, matrix: Matrix, amount: float, longer_than: int = 0) -> None:
        super().__init__(matrix)
        self.amount, self.longer_than = amount, longer_than
        self.decisions: list[list[int]] = []

    def decide(self, entering: Tensor, reading: Reading) -> list[int]:
        assert reading.prompts is not None
        assert entering.shape == (*reading.prompts.shape, self.matrix.d_in)
        self.decisions.append([0 if length > self.longer_than else -1 for length in reading.prompts.sum(1).tolist()])
        return self.decisions[-1]

    def act(self, entering: Tensor, output: Tensor, decided: Tensor, reading: Reading) -> Tensor | None:
        vector = self.amount * torch.randn(output.shape[-1], generator=torch.Generator().manual_seed(0))
        return torch.where((decided >= 0)[:, None, None], output + vector, output)


class Other(RoutedChange):
    """Of another type."""

    decide = Adding.decide
    act = Adding.act


def edit(change: RoutedChange) -> AppliedEdit:
    return AppliedEdit("toy", (FACT,), (change,))


def scores(edited: EditedModel) -> list[tuple[float, ...]]:
    return [score.log_probs for score in edited.score([(prompt, "Tamrin Belmora") for prompt in (SHORT, LONG)])]


@pytest.fixture(params=["gpt2", "opt"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return zoo.tiny(request.param)


@pytest.fixture
def matrix(model: LanguageModel) -> Matrix:
    return model.anatomy.down_projection(LAYER)


def hooks(matrix: Matrix) -> int:
    return len(matrix.module._forward_hooks)


def test_a_sequence_has_one_hook_and_every_prefix_acts_as_it_did(model: LanguageModel, matrix: Matrix) -> None:
    chain = EditedModel.original(model)
    states = [scores(chain)]
    for amount in (0.5, -0.5, 1.0):
        chain = chain.extended(edit(Adding(matrix, amount)))
        states.append(scores(chain))
        assert hooks(matrix) == 1
    assert len({str(state) for state in states}) == 4
    alone = EditedModel.original(model).extended(edit(Adding(matrix, 1.0)))
    assert scores(alone) == states[3]
    for length in (2, 0, 3, 1):
        assert scores(chain.prefix(length)) == states[length]
        assert hooks(matrix) == min(length, 1)
    EditedModel.original(model).activate()
    assert hooks(matrix) == 0


def test_changes_of_two_types_on_one_matrix_act_one_after_the_other_in_their_order(
    model: LanguageModel, matrix: Matrix
) -> None:
    order: list[str] = []

    class First(Adding):
        def act(self, *parts: object) -> None:
            order.append(f"first {self.amount}")

    class Second(Adding):
        def act(self, *parts: object) -> None:
            order.append(f"second {self.amount}")

    chain = EditedModel.original(model)
    for change in (First(matrix, 1), Second(matrix, 1), First(matrix, 2), First(matrix, 3)):
        chain = chain.extended(edit(change))
    for length, wanted in ((4, ["first 1", "second 1", "first 3"]), (2, ["first 1", "second 1"])):
        del order[:]
        chain.prefix(length).next_tokens([SHORT])
        assert order == wanted
    EditedModel.original(model).activate()


def test_the_newest_of_a_type_is_found_unless_another_type_came_onto_the_matrix(
    model: LanguageModel, matrix: Matrix
) -> None:
    elsewhere = model.anatomy.down_projection(0)
    one, two = Adding(matrix, 1), Adding(matrix, 2)
    assert newest([], Adding, matrix) is None
    assert newest([one, two, Other(elsewhere)], Adding, matrix) is two
    assert newest([one, Other(matrix)], Adding, matrix) is None
    assert newest([one], Adding, elsewhere) is None


def test_running_text_goes_through_the_module_as_if_nothing_were_there(model: LanguageModel, matrix: Matrix) -> None:
    ids = torch.tensor([model.encode(LONG)])
    before = model.logits(ids, torch.ones_like(ids))
    with EditedModel.original(model).extended(edit(Adding(matrix, 1.0))):
        assert torch.equal(model.logits(ids, torch.ones_like(ids)), before)


def test_one_decision_per_sequence_holds_for_all_tokens_that_follow(model: LanguageModel, matrix: Matrix) -> None:
    """A decoding decides once, though rows leave it; what it says is what teacher forcing says of its answers."""
    length = len(model.encode(SHORT))
    change = Adding(matrix, 3.0, longer_than=length)
    edited = EditedModel.original(model).extended(edit(change))
    answers = edited.generate([SHORT, LONG], max_new_tokens=6)
    [decision] = change.decisions
    assert sorted(decision) == [-1, 0]
    for prompt, answer in zip((SHORT, LONG), answers, strict=True):
        alone = edited.generate([prompt], max_new_tokens=6)[0]
        assert alone.token_ids == answer.token_ids
        ids = torch.tensor([[*model.encode(prompt), *answer.token_ids]])
        reading = Reading(torch.arange(ids.shape[1])[None] < len(model.encode(prompt)))
        with edited:
            states = model.forward(ids, torch.ones_like(ids), reading=reading).last_hidden_state
        predicted = model.anatomy.unembed(states)[0, len(model.encode(prompt)) - 1 : -1].argmax(-1)
        assert tuple(predicted.tolist()) == answer.token_ids
    plain = EditedModel.original(model).generate([SHORT, LONG], max_new_tokens=6)
    assert answers[0].token_ids == plain[0].token_ids
    assert answers[1].token_ids != plain[1].token_ids
