"""IKE: prompts from a memory, weights untouched."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from editguard.edited import EditedModel, EditMemory, MemoryRow, PromptMemory, Search
from editguard.edited.edit_memory import by_key, by_text
from editguard.edits import EditRequest
from editguard.errors import ConflictingEdits, InvalidEdit, MemoryFull, MethodRefused, PromptTooLong
from editguard.methods import DemonstrationRecord, Preparation
from editguard.methods.in_context import InContextEditing, InContextFront, InContextSettings, Written, nearest_edits
from editguard.methods.retrieval import encoder
from editguard.models import LanguageModel

ROOMY = 100_000


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    """A model that reads as much as one likes."""
    made = zoo.tiny("bloom")
    assert made.context_length is None
    return made


def prepared(model: LanguageModel, records: tuple[DemonstrationRecord, ...], **changes: Any) -> InContextEditing:
    method = InContextEditing(InContextSettings(**changes))
    method.prepare(model, Preparation(demonstrations=records))
    return method


def memory(edited: EditedModel) -> PromptMemory:
    change = edited.changes[-1]
    assert isinstance(change, PromptMemory)
    return change


def written(edited: EditedModel, prompt: str) -> Written:
    front = memory(edited).front
    assert isinstance(front, InContextFront)
    [(_, _, found)] = front.written(memory(edited).memory, [prompt])
    assert found is not None
    return found


def sent(edited: EditedModel, prompts: Sequence[str]) -> list[str]:
    return [consulted.prompt for consulted in edited.consult(prompts)]


def test_the_prompt_is_demonstrations_the_edits_copy_and_the_query_byte_for_byte(
    model: LanguageModel, records: tuple[DemonstrationRecord, ...], facts: tuple[EditRequest, ...]
) -> None:
    edited = prepared(model, records).apply(EditedModel.original(model), facts[:1])
    probe = "Velloria has its capital in "
    [text] = sent(edited, [probe])
    found = written(edited, probe)
    statement = "The capital of Velloria is Ines Holt"
    copy = f"New Fact: {statement}\nPrompt: {statement}\n\n"
    query = f"New Fact: {statement}\nPrompt: Velloria has its capital in"
    assert text == found.text == "".join(one.text for one in found.demonstrations) + query
    assert text.endswith(copy + query)
    assert [one.record is None for one in found.demonstrations] == [False] * 32 + [True]
    similarities = [one.similarity for one in found.demonstrations[:-1]]
    assert similarities == sorted(similarities)
    assert similarities[0] < similarities[-1]
    assert text.count("New Fact: ") == 34
    assert found.dropped == 0

    plain = prepared(model, records, copies_edit=False).apply(EditedModel.original(model), facts[:1])
    assert sent(plain, [probe])[0] == text.replace(copy, "")


def test_weights_and_hooks_stay_as_they_are_and_no_request_means_no_change(
    model: LanguageModel, records: tuple[DemonstrationRecord, ...], facts: tuple[EditRequest, ...]
) -> None:
    method = prepared(model, records)
    original = EditedModel.original(model)
    before = model.weights.digest()
    with method.apply(original, facts):
        assert model.weights.digest() == before
        assert not any(module._forward_hooks for module in model.module.modules())
    assert method.apply(original, ()) is original


@pytest.mark.parametrize("order", ["spread", "shuffled"])
def test_every_prompt_fits_the_context_and_dropping_is_monotone(
    order: str, model: LanguageModel, records: tuple[DemonstrationRecord, ...], facts: tuple[EditRequest, ...]
) -> None:
    before: Written | None = None
    for limit in (*range(80, 1400, 120), ROOMY):
        method = prepared(model, records, context_limit=limit, type_order=order)
        edited = method.apply(EditedModel.original(model), facts[:1])
        found = written(edited, facts[0].text)
        assert found.tokens == len(model.encode(found.text)) <= limit - 24
        own = [one for one in found.demonstrations if one.record is not None]
        assert len(own) + found.dropped == 32
        assert edited.edits[0].record["demonstrations_dropped"] == [found.dropped]
        if before is not None:
            assert {one.text for one in before.demonstrations} <= {one.text for one in found.demonstrations}
        before = found
    assert before is not None
    assert before.dropped == 0


def test_the_most_demonstrations_that_fit_are_kept(
    model: LanguageModel, records: tuple[DemonstrationRecord, ...], facts: tuple[EditRequest, ...]
) -> None:
    """One token less than a prompt needs costs exactly one demonstration."""

    def at(limit: int) -> Written:
        method = prepared(model, records, context_limit=limit)
        return written(method.apply(EditedModel.original(model), facts[:1]), facts[0].text)

    whole = at(ROOMY)
    assert at(whole.tokens + 24).dropped == 0
    less = at(whole.tokens + 23)
    assert less.dropped == 1
    assert at(less.tokens + 24).dropped == 1
    assert at(less.tokens + 23).dropped == 2


def test_the_models_own_context_is_a_limit(
    records: tuple[DemonstrationRecord, ...], facts: tuple[EditRequest, ...]
) -> None:
    small = zoo.tiny("gpt2")
    edited = prepared(small, records).apply(EditedModel.original(small), facts[:1])
    found = written(edited, facts[0].text)
    assert found.tokens + 24 <= zoo.CONTEXT
    assert 0 < found.dropped < 32
    assert [answer.prompt for answer in edited.generate([facts[0].text], max_new_tokens=24)] == [found.text]


def test_a_prompt_is_answered_with_the_nearest_request_as_the_new_fact(
    model: LanguageModel, records: tuple[DemonstrationRecord, ...], facts: tuple[EditRequest, ...]
) -> None:
    for kind in ("tf-idf", "mean-pooled"):
        method = prepared(model, records, encoder=kind)
        edited = method.apply(EditedModel.original(model), facts)
        for fact, text in zip(facts, sent(edited, [fact.text for fact in facts]), strict=True):
            assert f"New Fact: {fact.statement}\nPrompt: {fact.text}" in text
    unrelated = sent(edited, ["Copy: red blue"])[0]
    assert unrelated.count("\nPrompt: Copy: red blue") == 1
    assert unrelated.startswith("New Fact: ")


def test_a_sequence_remembers_every_request_and_a_later_one_replaces(
    model: LanguageModel, records: tuple[DemonstrationRecord, ...], facts: tuple[EditRequest, ...]
) -> None:
    method = prepared(model, records)
    chain = EditedModel.original(model)
    for fact in facts:
        chain = method.apply(chain, [fact])
    at_once = method.apply(EditedModel.original(model), facts)
    probes = [fact.text for fact in facts]
    assert sent(chain, probes) == sent(at_once, probes)
    assert sent(chain.prefix(1), probes[:1])[0].endswith("Prompt: The capital of Velloria is")
    backwards = method.apply(EditedModel.original(model), facts[::-1])
    assert sent(backwards, probes) == sent(at_once, probes)

    again = EditRequest(prompt=facts[0].prompt, subject=facts[0].subject, target="Belmora")
    changed = method.apply(chain, [again])
    assert len(memory(changed).memory) == len(facts)
    assert "Ines Holt" not in sent(changed, probes[:1])[0]
    assert "The capital of Velloria is Belmora" in sent(changed, probes[:1])[0]


@given(order=st.permutations(range(4)))
@settings(max_examples=5, deadline=None)
def test_prompts_do_not_depend_on_the_batch_they_are_in(
    order: list[int], model: LanguageModel, records: tuple[DemonstrationRecord, ...], facts: tuple[EditRequest, ...]
) -> None:
    edited = prepared(model, records, demonstrations=4).apply(EditedModel.original(model), facts)
    probes = [*(fact.text for fact in facts), "Copy: red"]
    alone = [sent(edited, [probe])[0] for probe in probes]
    assert sent(edited, [probes[place] for place in order]) == [alone[place] for place in order]


def test_scores_and_answers_go_through_the_same_prompt(
    model: LanguageModel, records: tuple[DemonstrationRecord, ...], facts: tuple[EditRequest, ...]
) -> None:
    edited = prepared(model, records, demonstrations=3).apply(EditedModel.original(model), facts[:1])
    [text] = sent(edited, [facts[0].text])
    assert edited.score([(facts[0].text, "Oskar")]) == model.score([(text, "Oskar")])
    [answer], [plain] = edited.generate([facts[0].text], max_new_tokens=3), model.generate([text], max_new_tokens=3)
    assert (answer.token_ids, answer.prompt) == (plain.token_ids, text)
    assert answer.tokens == len(model.encode(text)) + len(plain.token_ids)


def test_the_fact_alone_needs_no_records(model: LanguageModel, facts: tuple[EditRequest, ...]) -> None:
    method = prepared(model, (), demonstrations=0, copies_edit=False)
    edited = method.apply(EditedModel.original(model), facts[:1])
    assert sent(edited, ["x is"]) == [f"New Fact: {facts[0].statement}\nPrompt: x is"]


def test_without_records_or_preparation_ike_says_what_to_give(
    model: LanguageModel, facts: tuple[EditRequest, ...]
) -> None:
    with pytest.raises(MethodRefused, match=r"Preparation\(demonstrations="):
        InContextEditing().prepare(model, Preparation())
    with pytest.raises(MethodRefused, match="not prepared"):
        InContextEditing().apply(EditedModel.original(model), facts)
    other = EditRequest(prompt=facts[0].prompt, subject=facts[0].subject, target="Belmora")
    with pytest.raises(ConflictingEdits):
        prepared(model, (), demonstrations=0).apply(EditedModel.original(model), (facts[0], other))


def test_no_global_random_state_is_changed(
    model: LanguageModel, records: tuple[DemonstrationRecord, ...], facts: tuple[EditRequest, ...]
) -> None:
    state = torch.get_rng_state()
    sent(prepared(model, records, type_order="shuffled").apply(EditedModel.original(model), facts), ["x"])
    assert torch.equal(state, torch.get_rng_state())


def test_what_was_prepared_before_does_not_matter(
    model: LanguageModel, records: tuple[DemonstrationRecord, ...], facts: tuple[EditRequest, ...]
) -> None:
    fresh, used = prepared(model, records[::2]), prepared(model, records)
    earlier = used.apply(EditedModel.original(model), facts[:1])
    before = sent(earlier, [facts[0].text])
    used.prepare(model, Preparation(demonstrations=records[::2]))
    original = EditedModel.original(model)
    wanted = sent(fresh.apply(original, facts[:1]), [facts[0].text])
    assert sent(used.apply(original, facts[:1]), [facts[0].text]) == wanted != before
    assert sent(earlier, [facts[0].text]) == before


# ---- behind an encoder


def test_the_encoder_reads_demonstrations_new_fact_and_probe_and_the_decoder_the_answer_alone(
    records: tuple[DemonstrationRecord, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("t5")
    edited = prepared(model, records, demonstrations=4).apply(EditedModel.original(model), facts[:1])
    probe = "The capital of Velloria is"
    read: dict[int, list[list[int]]] = {0: [], zoo.ENCODER_LAYERS: []}
    stacks = {0: model.module.encoder, zoo.ENCODER_LAYERS: model.module.decoder}
    for layer, stack in stacks.items():
        stack.register_forward_pre_hook(
            lambda _, __, more, layer=layer: read[layer].append(more["input_ids"][0].tolist()), with_kwargs=True
        )
    edited.score([(probe, "Tamrin")])
    text = written(edited, probe).text
    assert text.count("New Fact: ") == 6
    assert text.endswith(probe)
    assert read[0] == [model.tokenizer(text)["input_ids"]]
    own = model.tokenizer("Tamrin", add_special_tokens=False)["input_ids"]
    assert read[zoo.ENCODER_LAYERS] == [[*model.opening, *own[:-1]]]


def test_no_room_is_kept_for_an_answer_that_the_decoder_writes(
    records: tuple[DemonstrationRecord, ...], facts: tuple[EditRequest, ...]
) -> None:
    model = zoo.tiny("bart")
    found = []
    for answer_tokens in (1, 200):
        method = prepared(model, records, answer_tokens=answer_tokens)
        found.append(written(method.apply(EditedModel.original(model), facts[:1]), "Who?"))
        assert found[-1].tokens <= zoo.CONTEXT
    assert found[0] == found[1]
    assert 0 < found[0].dropped < 32


# ---- the memory

MAYOR = EditRequest(prompt="The mayor of {} is", subject="Tamrin", target="Ines Holt")
CAPITAL = EditRequest(prompt="The capital of {} is", subject="Velloria", target="Oskar")
REVERSED = "Ines Holt governs"


def found(edited: EditedModel, prompt: str) -> tuple[str, str]:
    """The id of the edit that a prompt was answered with, and the route."""
    [consulted] = edited.consult([prompt])
    [retrieved] = consulted.retrieved
    return retrieved.row, consulted.route


@pytest.mark.parametrize("order", [(CAPITAL, MAYOR), (MAYOR, CAPITAL)])
def test_a_question_that_names_the_target_finds_its_edit_by_the_statement_and_not_by_the_prompt(
    order: tuple[EditRequest, ...], model: LanguageModel
) -> None:
    original = EditedModel.original(model)
    by = {
        name: prepared(model, (), demonstrations=0, searched_by=name).apply(original, order)
        for name in ("statement", "prompt", "either")
    }
    assert found(by["statement"], REVERSED)[0] == found(by["either"], REVERSED)[0] == MAYOR.id
    assert found(by["prompt"], REVERSED)[0] == order[0].id  # nothing in common with either: the older one
    for edited in by.values():
        assert found(edited, "Who is the mayor of Tamrin?")[0] == MAYOR.id
    for name in ("statement", "either"):
        assert sent(by[name], [REVERSED])[0].endswith(f"\n\nNew Fact: {MAYOR.statement}\nPrompt: {REVERSED}")


def test_by_either_the_nearer_text_of_an_edit_decides(model: LanguageModel) -> None:
    memory = EditMemory(map(MemoryRow.of, (CAPITAL, MAYOR)))
    near = encoder("tf-idf", model)
    searches = [Search(near, text) for text in (by_key, by_text)]
    asked = [REVERSED, MAYOR.text, CAPITAL.text, CAPITAL.statement, "###"]
    for (row, similarity), *single in zip(
        nearest_edits(memory, searches, asked),
        *(nearest_edits(memory, [search], asked) for search in searches),
        strict=True,
    ):
        assert similarity == max(other for _, other in single)
        assert (row, similarity) in single
    assert nearest_edits(memory, searches, asked[-1:]) == [(MemoryRow.of(CAPITAL), 0.0)]


def test_prompts_less_similar_than_the_scope_are_answered_as_they_are(model: LanguageModel) -> None:
    original = EditedModel.original(model)
    near, far = "The mayor of Tamrin is", "Copy: red blue"
    always = prepared(model, (), demonstrations=0).apply(original, (MAYOR, CAPITAL))
    [one, other] = [consulted.retrieved[0].similarity for consulted in always.consult([near, far])]
    assert 1 > one > other
    assert found(always, far)[1] == "in-scope"
    for scope, routes in (
        (one, ("in-scope", "out-of-scope")),
        (one + 1e-6, ("out-of-scope", "out-of-scope")),
        (other, ("in-scope", "in-scope")),
    ):
        edited = prepared(model, (), demonstrations=0, scope=scope).apply(original, (MAYOR, CAPITAL))
        assert (found(edited, near)[1], found(edited, far)[1]) == routes
        for prompt, route in zip((near, far), routes, strict=True):
            assert (sent(edited, [prompt]) == [prompt]) == (route == "out-of-scope")
    assert edited.score([(far, "Oskar")]) != model.score([(far, "Oskar")])
    selective = prepared(model, (), demonstrations=0, scope=one).apply(original, (MAYOR, CAPITAL))
    mixed = selective.score([(near, "Oskar"), (far, "Oskar")])
    assert mixed[1].log_prob == pytest.approx(model.score([(far, "Oskar")])[0].log_prob, abs=1e-5)


def test_withdrawn_edits_are_gone_and_a_restored_memory_brings_them_back(
    model: LanguageModel, records: tuple[DemonstrationRecord, ...], facts: tuple[EditRequest, ...], tmp_path: Path
) -> None:
    method = prepared(model, records, demonstrations=2)
    original = EditedModel.original(model)
    edited = method.apply(original, facts)
    probes = [fact.text for fact in facts]
    wanted = sent(edited, probes)
    without = method.withdraw(edited, [facts[0], facts[1].id])
    assert memory(without).memory.rows == memory(method.apply(original, facts[2:])).memory.rows
    assert sent(without, probes) == sent(method.apply(original, facts[2:]), probes)
    assert without.edits[-1].record["withdrawn"] == [facts[0].id, facts[1].id]
    assert sent(edited, probes) == wanted
    assert sent(method.withdraw(without, [facts[2]]), probes) == probes
    with pytest.raises(InvalidEdit, match="no row"):
        method.withdraw(without, [facts[0]])

    memory(edited).memory.save(tmp_path / "edits.json")
    restored = method.restore(original, EditMemory.load(tmp_path / "edits.json"))
    assert sent(restored, probes) == wanted
    assert set(restored.requests) == set(facts)
    assert sent(method.restore(without, memory(edited).memory), probes) == wanted


def test_the_limit_of_the_settings_holds_for_whatever_is_put_into_the_memory(
    model: LanguageModel, facts: tuple[EditRequest, ...]
) -> None:
    method = prepared(model, (), demonstrations=0, memory_limit=2)
    edited = method.apply(EditedModel.original(model), facts[:2])
    again = EditRequest(prompt=facts[0].prompt, subject=facts[0].subject, target="Belmora")
    assert len(memory(method.apply(edited, [again])).memory) == 2
    for attempt in (
        lambda: method.apply(edited, facts[2:]),
        lambda: method.remember(edited, [MemoryRow(key="a", text="b")]),
        lambda: method.restore(edited, EditMemory(map(MemoryRow.of, facts))),
    ):
        with pytest.raises(MemoryFull, match="limit"):
            attempt()
    assert len(memory(method.apply(method.withdraw(edited, facts[:1]), facts[2:])).memory) == 2


def test_a_remembered_row_without_a_request_is_put_before_the_question_it_is_near_to(model: LanguageModel) -> None:
    method = prepared(model, (), demonstrations=0)
    edited = method.apply(EditedModel.original(model), [CAPITAL])
    told = method.remember(edited, [MemoryRow(key="Who governs Tamrin?", text="Governs means is the mayor of")])
    assert sent(told, ["Who governs Tamrin?"]) == [
        "New Fact: Governs means is the mayor of\nPrompt: Who governs Tamrin?"
    ]
    assert told.requests == (CAPITAL,)


@pytest.mark.parametrize("encoder", ["tf-idf", "mean-pooled"])
@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_a_prompt_longer_than_the_context_is_one_clear_error(
    family: str, encoder: str, records: tuple[DemonstrationRecord, ...]
) -> None:
    small = zoo.tiny(family)
    edited = prepared(small, records, encoder=encoder).apply(EditedModel.original(small), [CAPITAL])
    long = "red blue green " * zoo.CONTEXT + "and Tamrin is"
    for ask in (lambda: edited.generate([long]), lambda: edited.score([(long, "Oskar")])):
        with pytest.raises(
            PromptTooLong, match=rf"'New Fact: The capital.*and Tamrin is'.*context of {zoo.CONTEXT}: sh"
        ):
            ask()
