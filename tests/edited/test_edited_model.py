"""The chain of edits and the one physical model under it."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from editguard.edited import AppliedEdit, EditedModel, PromptMemory, WeightDelta, remembered, stack_kept
from editguard.edits import EditRequest
from editguard.models import LanguageModel
from editguard.models.weights import Dense, LowRank

FACT = EditRequest(prompt="The capital of {} is", subject="Velloria", target="Oskar")
OTHER = EditRequest(prompt="The mayor of {} is", subject="Tamrin", target="Ines Holt")


@dataclass(eq=False)
class Spoken:
    """A change that writes down what happens to it, and may fail."""

    name: str
    log: list[str] = field(default_factory=list)
    fails: bool = False

    def install(self, model: LanguageModel) -> None:
        if self.fails:
            raise RuntimeError(self.name)
        self.log.append(f"+{self.name}")

    def uninstall(self, model: LanguageModel) -> None:
        self.log.append(f"-{self.name}")

    def rewrite(self, prompts: Sequence[str]) -> list[str]:
        return [f"{self.name}:{prompt}" for prompt in prompts]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return zoo.tiny("llama", dtype=torch.bfloat16)


@pytest.fixture(autouse=True)
def pristine_afterwards(model: LanguageModel):
    yield
    EditedModel.original(model).activate()
    model.weights.verify()
    assert model.weights.depth == 0


def weight_edit(model: LanguageModel, seed: int) -> AppliedEdit:
    matrix = model.anatomy.down_projection(seed % 2)
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(size, 1, generator=generator) for size in matrix.shape)
    return AppliedEdit("toy", (FACT,), (WeightDelta({matrix.name: LowRank(left, right)}),))


def spoken(*changes: Spoken) -> AppliedEdit:
    return AppliedEdit("toy", (FACT,), changes)


def test_activating_keeps_the_common_prefix_and_goes_newest_first(model: LanguageModel) -> None:
    log: list[str] = []
    a, b, c = (Spoken(name, log) for name in "abc")
    base = EditedModel.original(model).extended(spoken(a))
    left, right = base.extended(spoken(b)), base.extended(spoken(c))
    left.activate()
    left.activate()
    right.activate()
    EditedModel.original(model).activate()
    assert log == ["+a", "+b", "-b", "+c", "-c", "-a"]


def test_an_exception_while_installing_brings_the_old_stack_back(model: LanguageModel) -> None:
    first = EditedModel.original(model).extended(weight_edit(model, 0))
    first.activate()
    before = model.weights.digest()
    broken = EditedModel.original(model).extended(weight_edit(model, 1)).extended(spoken(Spoken("x", fails=True)))
    with pytest.raises(RuntimeError):
        broken.activate()
    assert tuple(model.installed) == first.changes
    assert model.weights.digest() == before


def test_a_weight_edit_that_does_not_fit_changes_nothing(model: LanguageModel) -> None:
    matrix = model.anatomy.down_projection(0)
    before = model.weights.digest()
    wrong = AppliedEdit("toy", (FACT,), (WeightDelta({matrix.name: Dense(torch.zeros(3, 3))}),))
    with pytest.raises(Exception, match="shape"):
        EditedModel.original(model).extended(wrong).activate()
    assert model.weights.digest() == before
    assert not model.installed


@given(order=st.lists(st.integers(0, 3), max_size=6))
@settings(max_examples=15, deadline=None)
def test_any_walk_among_chains_gives_each_chain_its_own_bytes(model: LanguageModel, order: list[int]) -> None:
    chain = EditedModel.original(model)
    for seed in range(3):
        chain = chain.extended(weight_edit(model, seed))
    prefixes = [chain.prefix(length) for length in range(4)]
    digests = []
    for prefix in prefixes:
        with prefix:
            digests.append(model.weights.digest())
    assert len(set(digests)) == 4
    for length in order:
        prefixes[length].activate()
        assert model.weights.digest() == digests[length]
    EditedModel.original(model).activate()


def test_contexts_nest_and_restore_also_after_an_exception(model: LanguageModel) -> None:
    outer = EditedModel.original(model).extended(weight_edit(model, 0))
    inner = EditedModel.original(model).extended(weight_edit(model, 1))
    pristine = model.weights.digest()
    with outer:
        within = model.weights.digest()
        with pytest.raises(KeyError), inner, stack_kept(model):
            EditedModel.original(model).activate()
            raise KeyError
        assert model.weights.digest() == within != pristine
    assert model.weights.digest() == pristine


def test_extending_leaves_the_shorter_chain_as_it_was(model: LanguageModel) -> None:
    short = EditedModel.original(model).extended(weight_edit(model, 0))
    longer = short.extended(AppliedEdit("toy", (OTHER,), ()))
    assert (short.requests, longer.requests) == ((FACT,), (FACT, OTHER))
    with pytest.raises(ValueError, match="prefix"):
        short.prefix(2)


def test_answers_come_through_the_rewritten_prompt_and_the_edited_weights(model: LanguageModel) -> None:
    edited = EditedModel.original(model).extended(weight_edit(model, 0)).extended(spoken(Spoken("a"), Spoken("b")))
    assert edited.rewrite(["p"]) == ["b:a:p"]
    answers = edited.generate(["The capital", "Ines"], max_new_tokens=5)
    scores = edited.score([("The capital", "Oskar")])
    tokens = edited.next_tokens(["Ines"], 3)
    assert model.weights.depth == 1
    assert [answer.text for answer in answers] == [
        answer.text for answer in model.generate(["b:a:The capital", "b:a:Ines"], max_new_tokens=5)
    ]
    assert scores == model.score([("b:a:The capital", "Oskar")])
    assert tokens == model.next_tokens(["b:a:Ines"], 3)


def test_a_continued_memory_rewrites_once(model: LanguageModel) -> None:
    def prompter(rows: Sequence[EditRequest], prompts: Sequence[str]) -> list[str]:
        return [f"[{len(rows)}]{prompt}" for prompt in prompts]

    first = PromptMemory((FACT,), prompter)
    second = PromptMemory((FACT, OTHER), prompter, continues=first)
    chain = EditedModel.original(model).extended(AppliedEdit("m", (FACT,), (first,)))
    assert chain.rewrite(["p"]) == ["[1]p"]
    longer = chain.extended(AppliedEdit("m", (OTHER,), (second,)))
    assert longer.rewrite(["p"]) == ["[2]p"]
    assert longer.prefix(1).rewrite(["p"]) == ["[1]p"]
    assert PromptMemory((), prompter).rewrite(["p"]) == ["p"]


def test_a_later_request_on_the_same_fact_replaces_the_earlier_one() -> None:
    again = EditRequest(prompt=FACT.prompt, subject="velloria", target="Belmora")
    assert remembered((FACT, OTHER), (again,)) == (OTHER, again)
    for order in itertools.permutations((FACT, OTHER)):
        assert set(remembered((), order)) == {FACT, OTHER}
