"""The chain of edits and the one physical model under it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from editguard.edited import (
    AppliedEdit,
    Consulted,
    EditedModel,
    EditMemory,
    MemoryRow,
    PromptMemory,
    Retrieved,
    WeightDelta,
    stack_kept,
)
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


@dataclass
class Named:
    """A front that puts its name and the number of rows before a prompt, or lets another model answer."""

    name: str
    answered_by: LanguageModel | None = None
    asked: list[str] = field(default_factory=list)

    def consult(self, memory: EditMemory, prompts: Sequence[str]) -> list[Consulted]:
        self.asked += prompts
        return [
            Consulted(
                prompt=f"{self.name}{len(memory)}:{prompt}",
                route="in-scope",
                retrieved=(Retrieved(self.name, 0.5),),
                calls=1,
                read=10,
                written=2,
                answered_by=self.answered_by,
            )
            for prompt in prompts
        ]


def fronted(front: Named, *requests: EditRequest, continues: PromptMemory | None = None) -> AppliedEdit:
    memory = EditMemory(map(MemoryRow.of, requests))
    return AppliedEdit(front.name, requests, (PromptMemory(front.name, memory, front, continues),))


def sent(edited: EditedModel, *prompts: str) -> list[str]:
    return [consulted.prompt for consulted in edited.consult(prompts)]


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


def test_answers_come_through_the_prompts_of_the_memories_and_the_edited_weights(model: LanguageModel) -> None:
    edited = EditedModel.original(model).extended(weight_edit(model, 0))
    edited = edited.extended(fronted(Named("a"), FACT)).extended(fronted(Named("b"), FACT, OTHER))
    assert sent(edited, "p") == ["b2:a1:p"]
    [consulted] = edited.consult(["p"])
    assert (consulted.calls, consulted.read, consulted.written) == (2, 20, 4)
    assert [found.row for found in consulted.retrieved] == ["a", "b"]
    answers = edited.generate(["The capital", "Ines"], max_new_tokens=5)
    scores = edited.score([("The capital", "Oskar")])
    tokens = edited.next_tokens(["Ines"], 3)
    assert model.weights.depth == 1
    plain = model.generate(["b2:a1:The capital", "b2:a1:Ines"], max_new_tokens=5)
    assert [(answer.text, answer.prompt) for answer in answers] == [(answer.text, answer.prompt) for answer in plain]
    assert [answer.tokens for answer in answers] == [
        20 + 4 + len(model.encode(answer.prompt)) + len(answer.token_ids) for answer in plain
    ]
    assert scores == model.score([("b2:a1:The capital", "Oskar")])
    assert tokens == model.next_tokens(["b2:a1:Ines"], 3)


def test_a_continued_memory_is_asked_in_place_of_the_one_before_and_each_prompt_once(model: LanguageModel) -> None:
    front = Named("m")
    first = fronted(front, FACT)
    second = fronted(front, FACT, OTHER, continues=first.changes[0])
    chain = EditedModel.original(model).extended(first)
    assert sent(chain, "p", "p", "q") == ["m1:p", "m1:p", "m1:q"]
    longer = chain.extended(second)
    assert sent(longer, "p") == ["m2:p"]
    assert longer.memory() is second.changes[0].memory
    assert (longer.memory("m"), longer.memory("another")) == (longer.memory(), None)
    assert sent(longer.prefix(1), "p") == ["m1:p"]
    assert front.asked == ["p", "q", "p", "p"]
    longer.generate(["p"], max_new_tokens=1)
    longer.score([("p", "Oskar")])
    assert front.asked == ["p", "q", "p", "p"]


def test_an_empty_memory_is_not_asked(model: LanguageModel) -> None:
    front = Named("m")
    edited = EditedModel.original(model).extended(fronted(front))
    assert edited.consult(["p"]) == [Consulted(prompt="p")]
    assert not front.asked


def test_each_model_answers_its_own_prompts_and_the_order_stays(model: LanguageModel) -> None:
    other = zoo.tiny("gpt2")
    pair = Named("m", answered_by=other)
    following = Named("n")

    class Parity:
        """Every second prompt goes to the other model."""

        def consult(self, memory: EditMemory, prompts: Sequence[str]) -> list[Consulted]:
            known = pair.consult(memory, prompts)
            return [
                known[place] if len(prompt) % 2 else Consulted(prompt=prompt) for place, prompt in enumerate(prompts)
            ]

    memory = EditMemory([MemoryRow.of(FACT)])
    alone = EditedModel.original(model).extended(AppliedEdit("m", (FACT,), (PromptMemory("m", memory, Parity()),)))
    prompts = ["odd", "even", "Ines", "Holt."]
    answers = alone.generate(prompts, max_new_tokens=3)
    there = other.generate(["m1:odd", "m1:Holt."], max_new_tokens=3)
    here = model.generate(["even", "Ines"], max_new_tokens=3)
    assert [answer.token_ids for answer in answers] == [
        each.token_ids for each in (there[0], here[0], here[1], there[1])
    ]
    scores = alone.score([(prompt, "Oskar") for prompt in prompts])
    assert scores[1:3] == model.score([("even", "Oskar"), ("Ines", "Oskar")])
    assert scores[3] == other.score([("m1:Holt.", "Oskar")])[0]
    assert alone.next_tokens(prompts, 1)[0][0][0] == other.next_tokens(["m1:odd"], 1)[0][0][0]
    stacked = alone.extended(fronted(following, OTHER))
    assert sent(stacked, *prompts) == ["m1:odd", "n1:even", "n1:Ines", "m1:Holt."]
    assert [model is other for model, _, _ in stacked.by_model(prompts)] == [True, False]
