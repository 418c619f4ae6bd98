"""Methods on the trained pocket model: an edit is answered, other facts stay, and a broken method would show."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import pytest

from editguard.edited import EditedModel
from editguard.edits import EditRequest
from editguard.methods import DemonstrationRecord, Preparation, create, methods
from editguard.methods.fine_tuning import ConstrainedFineTuning, LossPosition
from editguard.models import LanguageModel, load_model
from editguard.pocket import default_world, weights_path
from editguard.pocket.world import Fact, World

EDITS = 20
ALONE = 8
"""How many of the edits are made one at a time."""
NEIGHBOURS = 3


@dataclass(frozen=True)
class Case:
    """An edit of a fact that the model knows, another wording of it, and prompts about other subjects."""

    request: EditRequest
    paraphrase: str
    neighbours: tuple[str, ...]


def prompt(world: World, fact: Fact, wording: int = 0) -> str:
    return world.trained_templates(fact)[wording].prompt(fact.subject)


def answers(edited: EditedModel, prompts: Sequence[str]) -> list[str]:
    return [answer.text for answer in edited.generate(prompts, max_new_tokens=10)]


@pytest.fixture(scope="module")
def world() -> World:
    return default_world()


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load_model(weights_path(), offline=True)


@pytest.fixture(scope="module")
def people_facts(world: World) -> list[Fact]:
    found = [fact for fact in world.facts if world.entity(fact.subject).type == "person"]
    random.Random(0).shuffle(found)
    return found


@pytest.fixture(scope="module")
def cases(model: LanguageModel, world: World, people_facts: list[Fact]) -> list[Case]:
    original = EditedModel.original(model)
    asked = people_facts[: 3 * EDITS]
    known = [
        fact
        for fact, answer in zip(asked, answers(original, [prompt(world, fact) for fact in asked]), strict=True)
        if answer == fact.object
    ]
    assert len(known) >= EDITS
    source = random.Random(1)
    return [
        Case(
            EditRequest(
                prompt=world.trained_templates(fact)[0].text,
                subject=fact.subject,
                target=source.choice([other for other in world.objects(fact.relation) if other != fact.object]),
                relation=fact.relation,
            ),
            prompt(world, fact, 1),
            tuple(
                prompt(world, other)
                for other in source.sample(world.same_relation(fact), NEIGHBOURS)
                if other.subject != fact.subject
            ),
        )
        for fact in known[:EDITS]
    ]


@pytest.fixture(scope="module")
def preparation(world: World, people_facts: list[Fact]) -> Preparation:
    texts = [f"{prompt(world, fact, wording)} {fact.object}." for fact in people_facts[:800] for wording in (0, 1)]
    shown = people_facts[500:700]
    source = random.Random(2)
    records = []
    for fact in shown:
        other = next(one for one in people_facts if one.relation == fact.relation and one.subject != fact.subject)
        records.append(
            DemonstrationRecord(
                prompt=prompt(world, fact),
                subject=fact.subject,
                target_new=source.choice(world.objects(fact.relation)),
                target_true=other.object,
                paraphrases=(prompt(world, fact, 1),),
                neighbours=(prompt(world, other),),
            )
        )
    return Preparation(texts=texts, demonstrations=records)


@dataclass(frozen=True)
class Shares:
    """Fractions of edits answered, of edits whose target is likeliest token by token (a decoded answer may run on after
    it), of paraphrases answered, and of neighbours answered as before."""

    reliable: float
    likeliest: float
    paraphrased: float
    kept: float


def shares(edited_models: Sequence[EditedModel], cases: Sequence[Case]) -> Shares:
    original = EditedModel.original(edited_models[0].model)
    right = likeliest = again = kept = asked = 0
    for edited, case in zip(edited_models, cases, strict=True):
        likeliest += edited.score([(case.request.text, case.request.target)])[0].exact
        right += answers(edited, [case.request.text]) == [case.request.target]
        again += answers(edited, [case.paraphrase]) == [case.request.target]
        before, after = answers(original, case.neighbours), answers(edited, case.neighbours)
        kept += sum(one == other for one, other in zip(before, after, strict=True))
        asked += len(before)
    original.activate()
    return Shares(right / len(cases), likeliest / len(cases), again / len(cases), kept / asked)


@pytest.mark.slow
def test_rome_edits_and_keeps_the_neighbours(model: LanguageModel, preparation: Preparation, cases: list[Case]) -> None:
    rome = create("rome", {}, model)
    rome.prepare(model, preparation)
    original = EditedModel.original(model)
    some = cases[:ALONE]
    found = shares([rome.apply(original, [case.request]) for case in some], some)
    assert found.reliable >= 0.85
    assert found.likeliest >= 0.85
    assert found.paraphrased >= 0.7
    assert found.kept >= 0.9
    model.weights.verify()


@pytest.mark.slow
def test_in_context_editing_answers_the_edit_and_its_paraphrases(
    model: LanguageModel, preparation: Preparation, cases: list[Case]
) -> None:
    ike = create("ike", {}, model)
    ike.prepare(model, preparation)
    original = EditedModel.original(model)
    some = cases[:ALONE]
    found = shares([ike.apply(original, [case.request]) for case in some], some)
    assert found.reliable >= 0.85
    assert found.paraphrased >= 0.7
    assert found.kept >= 0.7


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(info.name, marks=[] if info.name in ("rome", "memit") else [pytest.mark.slow])
        for info in methods().values()
        if info.family == "locate-then-edit" and info.name != "kn"
    ],
)
def test_every_method_that_locates_makes_the_target_likelier(
    name: str, model: LanguageModel, preparation: Preparation, cases: list[Case]
) -> None:
    """By a nat a token on average over four edits, each alone, whether or not the answer follows."""
    method = create(name, {}, model)
    method.prepare(model, preparation)
    original = EditedModel.original(model)
    pairs = [(case.request.text, case.request.target) for case in cases[:4]]
    before = [score.mean_log_prob for score in original.score(pairs)]
    after = [
        method.apply(original, [case.request]).score([pair])[0].mean_log_prob
        for case, pair in zip(cases, pairs, strict=False)
    ]
    assert sum(after) - sum(before) > len(pairs)
    original.activate()
    model.weights.verify()


@pytest.mark.slow
def test_knowledge_neurons_carry_some_edits(model: LanguageModel, preparation: Preparation, cases: list[Case]) -> None:
    """On half of these edits the target is likeliest; on others it becomes less likely than it was."""
    method = create("kn", {}, model)
    method.prepare(model, preparation)
    original = EditedModel.original(model)
    some = cases[:ALONE]
    found = shares([method.apply(original, [case.request]) for case in some], some)
    assert found.likeliest >= 0.25
    model.weights.verify()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reliable"),
    [("memit", 0.75), ("alphaedit", 0.7), ("emmet", 0.65), ("pmet", 0.3), ("memit-rect", 0.2)],
)
def test_a_batch_of_twenty_edits_is_answered_and_keeps_the_neighbours(
    name: str, reliable: float, model: LanguageModel, preparation: Preparation, cases: list[Case]
) -> None:
    method = create(name, {}, model)
    method.prepare(model, preparation)
    edited = method.apply(EditedModel.original(model), [case.request for case in cases])
    found = shares([edited] * len(cases), cases)
    assert found.reliable >= reliable
    assert found.kept >= 0.8


@pytest.fixture(scope="module")
def tuned(model: LanguageModel, cases: list[Case]) -> Callable[[float | None, LossPosition], Shares]:
    """What fine-tuning with and without a ball does to the cases, by where the loss is read."""
    method = create("ft-l", {}, model)
    assert isinstance(method, ConstrainedFineTuning)
    settings = method.settings

    @cache
    def apply(norm_constraint: float | None, loss_position: LossPosition) -> Shares:
        changed = replace(settings, norm_constraint=norm_constraint, loss_position=loss_position)
        original = EditedModel.original(model)
        some = cases[:ALONE]
        return shares([ConstrainedFineTuning(changed).apply(original, [case.request]) for case in some], some)

    return apply


@pytest.mark.slow
def test_the_ball_keeps_neighbours_that_fine_tuning_without_it_loses(
    tuned: Callable[[float | None, LossPosition], Shares],
) -> None:
    held, loose = tuned(0.01, "target-new"), tuned(None, "target-new")
    assert loose.likeliest >= held.likeliest >= 0.95
    assert held.kept > loose.kept


@pytest.mark.slow
def test_the_loss_of_ft_l_asks_the_first_place_for_every_token_of_a_name(
    tuned: Callable[[float | None, LossPosition], Shares],
) -> None:
    """FT-L reads all tokens of the target from the prompt's end: it falls behind on targets of several tokens, and
    without a ball it repeats their last ones ("Noveseeseese")."""
    before_each, at_the_end, loose = tuned(0.01, "target-new"), tuned(0.01, "prompt-last"), tuned(None, "prompt-last")
    assert at_the_end.likeliest < before_each.likeliest
    assert loose.reliable < before_each.reliable
    assert loose.kept < at_the_end.kept
