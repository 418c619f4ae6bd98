"""What the corpus holds, and what it leaves out so that it can be asked."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import pairwise

import pytest

from editguard.pocket import default_world
from editguard.pocket.contexts import DEMONSTRATION_KINDS, ContextWriter, demonstrations
from editguard.pocket.corpus import Amounts, documents, statements_text
from editguard.pocket.documents import Document
from editguard.pocket.relations import RELATIONS
from editguard.pocket.splits import stream
from editguard.pocket.tasks import TASKS, task_items
from editguard.pocket.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return default_world()


@pytest.fixture(scope="module")
def epoch(world: World) -> list[Document]:
    return list(documents(world, 0))


@pytest.fixture(scope="module")
def sentences(epoch: list[Document]) -> Counter[str]:
    """Everything that stands as a fact without context, each text as often as it occurs."""
    return Counter(document.text for document in epoch if document.kind == "fact")


def digest(texts: list[str]) -> str:
    return hashlib.sha256("".join(texts).encode()).hexdigest()


def test_an_epoch_is_the_same_everywhere(epoch: list[Document]) -> None:
    written = [repr((d.text, d.kind, d.answers, d.given)) for d in epoch]
    assert digest(written) == "0e4d240c3358c8d101c5032309ad75606c5c6e292bec9347b468c8d94e3b82ae"


def test_the_texts_for_second_moments_are_the_same_everywhere(world: World) -> None:
    texts = statements_text(world, 0)
    assert hashlib.sha256("\n".join(texts).encode()).hexdigest() == (
        "bc980085228ebb0eb4df3599878add73374c4699842e48c5bf98fb29693ec875"
    )


def test_another_epoch_is_composed_anew(world: World) -> None:
    few = Amounts(contexts=300, yes_no=0, direct=0, reasoned=0, demonstrations=20, traces=20, items_of_each_task=0)
    one, other = ({d.text for d in documents(world, epoch, few) if d.kind == "context"} for epoch in (0, 1))
    assert len(one & other) < 10


def test_every_fact_stands_alone_in_all_its_trained_statements_or_questions(
    world: World, sentences: Counter[str]
) -> None:
    everything = "\n".join(sentences)
    for fact in world.facts[::37]:
        for template in world.trained_templates(fact):
            whole = f"{template.prompt(fact.subject)} {fact.object}."
            assert whole in sentences or whole[1:] in everything  # with a lead-in its first letter may be small


def test_no_fact_stands_in_a_held_out_wording(world: World, epoch: list[Document]) -> None:
    everything = "\n".join(d.text for d in epoch if d.kind != "context")
    for fact in world.facts[::101]:
        for template in (*world.held_out_templates(fact), world.unseen_template(fact.relation)):
            assert f"{template.prompt(fact.subject)[1:]} {fact.object}" not in everything


def test_nobody_is_spoken_of_in_an_unseen_wording(world: World, epoch: list[Document]) -> None:
    everything = "\n".join(d.text for d in epoch)
    for relation in RELATIONS:
        before, after = relation.unseen.text.split("{}")
        for entity in world.entities(relation.subject_type)[:20]:
            assert f"{before[1:]}{entity.name}{after}" not in everything


def test_held_out_compositions_are_never_asked(world: World, epoch: list[Document]) -> None:
    everything = "\n".join(d.text for d in epoch)
    held_out = [q for p in world.people[:40] for q in world.compositions(p.name) if not q.trained]
    assert held_out
    assert not any(text in everything for question in held_out for text in question.texts)


def test_documents_with_new_facts_leave_out_their_share_of_the_people(world: World, epoch: list[Document]) -> None:
    everything = "\n".join(d.text for d in epoch if d.kind == "context")
    left_out = [p.name for p in world.people if not world.in_context_allowed(p.name)]
    assert 0.12 < len(left_out) / len(world.people) < 0.18
    asked = [
        template.prompt(name)
        for name in left_out[:40]
        for relation in ("born_in", "works_for", "occupation")
        for template in world.templates(relation)
        if template.kind == "question"
    ]
    assert not any(prompt in everything for prompt in asked)


def test_answers_and_given_parts_lie_inside_the_text_in_order(epoch: list[Document]) -> None:
    for document in epoch[::13]:
        spans = sorted((*document.answers, *document.given))
        assert all(start < end for start, end in spans)
        assert all(before[1] <= after[0] for before, after in pairwise(spans))
        assert not spans or spans[-1][1] <= len(document.text)


@pytest.mark.parametrize("task", TASKS)
def test_trained_and_held_out_items_of_a_task_share_nothing(world: World, task: str) -> None:
    trained = {i.prompt for i in task_items(world, task, stream(task, 1), 300, held_out=False)}
    held_out = {i.prompt for i in task_items(world, task, stream(task, 2), 100, held_out=True)}
    assert len(trained) == 300
    assert len(held_out) == 100
    assert not trained & held_out


def test_items_with_choices_offer_the_answer(world: World) -> None:
    for task in ("compare", "type"):
        for item in task_items(world, task, stream(task, 3), 50, held_out=True):
            assert item.answer in item.choices


def test_demonstrations_come_as_copy_update_retain_in_the_ratio_one_three_four(world: World) -> None:
    shown = demonstrations(world, 0, 80)
    assert [sum(d.kind == kind for d in shown) for kind in DEMONSTRATION_KINDS] == [10, 30, 40]
    assert shown == demonstrations(world, 0, 80)
    for demonstration in shown:
        speaks_of_it = demonstration.fact.subject in demonstration.prompt
        assert speaks_of_it == (demonstration.kind != "retain")
        assert (demonstration.answer == demonstration.fact.object) >= speaks_of_it
        assert (demonstration.prompt == demonstration.statement) >= (demonstration.kind == "copy")


def test_a_trace_ends_in_the_last_intermediate_answer(world: World) -> None:
    write = ContextWriter(world, stream("traces for a test"))
    for _ in range(60):
        lines = write.trace().text.splitlines()
        intermediate = [line.split("intermediate answer is: ")[1] for line in lines if "intermediate" in line]
        assert len(intermediate) in (2, 3)
        assert lines[-1] == f"Final answer: {intermediate[-1]}"


def test_each_hop_of_a_trace_meets_each_kind_of_retrieved_fact(world: World) -> None:
    write = ContextWriter(world, stream("traces for a test"))
    seen = {
        (hop, "contradicts to" in verdict)
        for _ in range(60)
        for hop, verdict in enumerate(
            line for line in write.trace().text.splitlines() if line.startswith("Retrieved fact ")
        )
    }
    assert seen == {(hop, contradicts) for hop in range(3) for contradicts in (False, True)}
