"""GRACE on models: edits hold, nothing else moves, and a sequence of fifty keeps all of them."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
import zoo

from editguard.edited import EditedModel
from editguard.edited.codebook import Codebook
from editguard.edits import EditRequest
from editguard.errors import EditguardError, InvalidSettings, MethodRefused, MissingMaterial
from editguard.methods import Preparation, create
from editguard.methods.grace import Grace, GraceSettings, derived, derived_with_encoder
from editguard.methods.prompt_ends import at_prompt_ends
from editguard.methods.settings import Shape, resolve
from editguard.models import LanguageModel
from editguard.models.reading import Reading

TARGETS = ("Tamrin", "Belmora", "Velloria", "Aldo")
"""One token each for the tiny models' tokenizer."""
QUICK: dict[str, Any] = {"layer": 2, "matrix": "down", "initial_radius": 1e-2, "steps": 60, "stop_margin": 0.05}
ELSEWHERE = ("Ines Holt", "Question: who is the mayor of Tamrin? Answer:", "Copy: red blue")


def fact(number: int, target: str | None = None, prompt: str = "The capital of {} is") -> EditRequest:
    return EditRequest(prompt=prompt, subject=f"Land{number}", target=target or TARGETS[number % len(TARGETS)])


def grace(**changes: Any) -> Grace:
    return Grace(GraceSettings(**{**QUICK, **changes}))


def codebook(edited: EditedModel) -> Codebook:
    found = edited.changes[-1]
    assert isinstance(found, Codebook)
    return found


def shape(book: Codebook) -> list[tuple[float, tuple[int, ...]]]:
    return [(entry.radius, entry.label) for entry in book.entries]


def exact(edited: EditedModel, facts: list[EditRequest]) -> list[bool]:
    return [score.exact for score in edited.score([(each.text, each.target) for each in facts])]


def distances(model: LanguageModel, layer: int, one: str, other: str) -> float:
    module = model.anatomy.down_projection(layer).module
    [queries] = at_prompt_ends(model, [model.encode(one), model.encode(other)], [(module, "input")])
    return float(torch.linalg.vector_norm(queries[0] - queries[1]))


def forced(model: LanguageModel, prompt: str, answer: tuple[int, ...]) -> tuple[int, ...]:
    """The likeliest tokens in one pass over a prompt for the encoder and an answer for the decoder."""
    row, reading = model.forced_row(model.encode(prompt), answer[:-1]), Reading(None, in_encoder=True)
    source, stream = model.encoded([row.source], reading), torch.tensor([row.stream])
    states = model.forward(stream, torch.ones_like(stream), reading=reading, source=source).last_hidden_state
    return tuple(model.anatomy.unembed(states[0, list(row.read)]).argmax(-1).tolist())


# ---- one edit


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
@pytest.mark.parametrize("matrix", ["down", "up"])
def test_an_edit_is_answered_and_prompts_elsewhere_keep_every_bit(family: str, matrix: str) -> None:
    model = zoo.tiny(family)
    original = EditedModel.original(model)
    pairs = [(prompt, "Oskar Holt") for prompt in ELSEWHERE]
    before = original.score(pairs)
    edited = grace(matrix=matrix).apply(original, [fact(0)])
    assert exact(edited, [fact(0)]) == [True]
    assert edited.generate([fact(0).text], max_new_tokens=1)[0].text.strip() == "Tamrin"
    assert edited.score(pairs) == before
    [record] = edited.edits[0].record["requests"]
    assert (record["action"], record["members_answered"]) == ("added", 1)
    assert 0 < record["updates"] <= 60


@pytest.mark.parametrize("family", zoo.ENCODER_DECODER)
def test_with_an_encoder_the_codebook_lives_there_and_decoding_agrees_with_scores(family: str) -> None:
    model = zoo.tiny(family)
    original = EditedModel.original(model)
    pairs = [(prompt, "Oskar") for prompt in ELSEWHERE]
    before = original.score(pairs)
    edited = grace(layer=1, steps=25, stop_margin=None).apply(original, [fact(0)])
    assert edited.score(pairs) == before
    prompts = [ELSEWHERE[1], fact(0).text, ELSEWHERE[0]]
    answers = edited.generate(prompts, max_new_tokens=6)
    assert [answers[0].token_ids, answers[2].token_ids] == [
        answer.token_ids for answer in original.generate([prompts[0], prompts[2]], max_new_tokens=6)
    ]
    assert answers[1].token_ids == edited.generate([fact(0).text], max_new_tokens=6)[0].token_ids
    with edited:
        assert forced(model, prompts[1], answers[1].token_ids) == answers[1].token_ids
    start = grace(layer=1, steps=0).apply(original, [fact(0)])
    losses = [each.edits[0].record["requests"][0]["loss"] for each in (start, edited)]
    assert losses[1] < losses[0]
    with pytest.raises(MethodRefused, match="layers 0 to 1"):
        grace(layer=zoo.ENCODER_LAYERS).apply(original, [fact(0)])
    with pytest.raises(MethodRefused, match="layers 0 to 4"):
        grace(layer=99).prepare(model, Preparation())


@pytest.mark.parametrize("rule", ["replace_last", "replace_prompt", "replace_all"])
def test_a_longer_answer_is_decoded_as_it_was_trained(rule: str) -> None:
    model = zoo.tiny("llama")
    request = fact(0, "Ines Belmora")
    edited = grace(layer=1, matrix="up", steps=150, replacement=rule, stop_margin=0.01).apply(
        EditedModel.original(model), [request]
    )
    [record] = edited.edits[0].record["requests"]
    [score] = edited.score([(request.text, request.target)])
    assert -score.mean_log_prob == pytest.approx(record["loss"], rel=1e-3)
    assert score.exact == (record["members_answered"] == 1)
    if rule == "replace_all":
        assert score.exact
        tokens = len(score.answer_ids)
        generated = edited.generate([ELSEWHERE[1], request.text], max_new_tokens=tokens)[1]
        assert generated.token_ids == score.answer_ids


def test_a_rule_that_the_chains_codebook_was_not_made_with_is_refused() -> None:
    edited = grace().apply(EditedModel.original(zoo.tiny("gpt2")), [fact(0)])
    with pytest.raises(MethodRefused, match="'replace_all' from a codebook that was made with 'replace_last'"):
        grace(replacement="replace_all").apply(edited, [fact(1)])


def test_a_value_starts_warm_from_the_present_output_or_cold_from_a_draw_of_its_own() -> None:
    model = zoo.tiny("gpt2")
    original = EditedModel.original(model)
    warm = codebook(grace(steps=0, value_start="warm").apply(original, [fact(0)]))
    [output] = at_prompt_ends(model, [model.encode(fact(0).text)], [(warm.matrix.module, "output")])
    assert torch.equal(warm.entries[0].value, output[0])
    cold = codebook(grace(steps=0).apply(original, [fact(0), fact(1)]))
    values = torch.stack([entry.value for entry in cold.entries])
    assert 0 <= values.min() < 0.3
    assert 0.7 < values.max() < 1
    assert 0.3 < values.mean() < 0.7
    assert not torch.equal(values[0], values[1])
    alone = codebook(grace(steps=0).apply(original, [fact(1)]))
    assert torch.equal(alone.entries[0].value, values[1])
    assert not torch.equal(codebook(grace(steps=0, seed=1).apply(original, [fact(1)])).entries[0].value, values[1])


def test_using_the_model_after_an_edit_of_one_step_changes_no_codebook_and_draws_nothing() -> None:
    model = zoo.tiny("gpt2")
    edited = grace(steps=1, stop_margin=None).apply(EditedModel.original(model), [fact(0)])
    book, state = codebook(edited), torch.get_rng_state()
    before, value = shape(book), book.entries[0].value.clone()
    edited.generate([fact(0).text, *ELSEWHERE], max_new_tokens=3)
    edited.score([(fact(1).text, "Tamrin"), (fact(0).text, "Belmora")])
    assert shape(book) == before
    assert torch.equal(book.entries[0].value, value)
    assert torch.equal(torch.get_rng_state(), state)


# ---- several edits


def test_asking_for_the_same_again_adds_no_key_and_moves_no_radius() -> None:
    original = EditedModel.original(zoo.tiny("gpt2"))
    learned = grace().apply(original, [fact(0)])
    with pytest.warns(RuntimeWarning, match="answers so already"):
        assert grace().apply(learned, [fact(0)]).changes == learned.changes
    unlearned = grace(steps=0).apply(original, [fact(0)])
    again = grace(steps=30).apply(unlearned, [fact(0)])
    assert again.edits[-1].record["requests"][0]["action"] == "covered"
    assert shape(codebook(again)) == shape(codebook(unlearned))
    assert exact(again, [fact(0)]) == [True]


def test_another_answer_to_the_same_prompt_takes_the_key_over_and_rolls_back() -> None:
    original = EditedModel.original(zoo.tiny("gpt2"))
    first, other = fact(0), replace(fact(0), target="Belmora")
    chain = grace().apply(grace().apply(original, [first]), [other])
    assert chain.edits[-1].record["requests"][0]["action"] == "taken over"
    assert codebook(chain).size == 1
    assert exact(chain, [first, other]) == [False, True]
    assert exact(chain.prefix(1), [first, other]) == [True, False]


def test_a_prompt_near_a_key_with_the_same_answer_widens_the_ball_and_both_stay_answered() -> None:
    """The shared value is trained on both; the older prompt is asked again, and the widened ball holds its query in
    batches of other shapes."""
    model = zoo.tiny("gpt2")
    first, near = fact(0), fact(1, TARGETS[0])
    apart = distances(model, 2, first.text, near.text)
    method = grace(initial_radius=0.7 * apart, steps=100)
    chain = method.apply(method.apply(EditedModel.original(model), [first]), [near])
    [record] = chain.edits[-1].record["requests"]
    assert (record["action"], record["members"], record["members_answered"]) == ("expanded", 2, 2)
    book = codebook(chain)
    assert book.size == 1
    assert apart < book.entries[0].radius < apart * 1.001
    for asked in ([near], [first, near], [near, first, fact(7), fact(9)]):
        assert exact(chain, asked)[: min(len(asked), 2)] == [True] * min(len(asked), 2)


def test_a_prompt_near_a_key_with_another_answer_splits_the_ball_and_both_stay_answered() -> None:
    model = zoo.tiny("gpt2")
    first, near = fact(0), fact(1)
    apart = distances(model, 2, first.text, near.text)
    method = grace(initial_radius=0.7 * apart)
    chain = method.apply(method.apply(EditedModel.original(model), [first]), [near])
    assert chain.edits[-1].record["requests"][0]["action"] == "split"
    one, other = codebook(chain).entries
    assert one.radius + other.radius < apart * (1 + 1e-9)
    assert exact(chain, [first, near]) == [True, True]
    assert shape(codebook(chain.prefix(1))) == [(0.7 * apart, one.label)]


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)],
    ids=["float32", "bfloat16"],
)
def test_fifty_edits_are_all_kept_and_nothing_else_fires(dtype: torch.dtype) -> None:
    model = zoo.tiny("gpt2", dtype=dtype)
    method, chain = grace(), EditedModel.original(model)
    pairs = [(prompt, "Oskar") for prompt in ELSEWHERE]
    before, facts, sizes = chain.score(pairs), [fact(number) for number in range(50)], []
    plain = exact(chain, facts)
    assert not any(plain)
    for number, request in enumerate(facts):
        chain = method.apply(chain, [request])
        sizes.append(chain.edits[-1].record["codebook_size"])
        if number % 10 == 9:
            assert all(exact(chain, facts[: number + 1]))
            assert len(codebook(chain).matrix.module._forward_hooks) == 1
    assert chain.score(pairs) == before
    assert sizes == list(range(1, 51))
    last = codebook(chain)
    assert len(last.changed) == 1  # a version holds its own edit, not the codebook
    assert all(one.keys is last.keys for one in chain.changes if isinstance(one, Codebook))
    assert chain.stored_bytes() == 50 * 4 * (zoo.D_FF + zoo.D_MODEL)  # no version holds what another holds
    for length in (10, 49, 1):
        assert exact(chain.prefix(length), facts) == [True] * length + plain[length:]
        assert chain.prefix(length).score(pairs) == before
    again = method.apply(chain.prefix(20), [fact(60)])
    assert codebook(again).keys is not last.keys  # a branch does not write into the other's keys
    assert all(exact(chain, facts))


def test_a_batch_enters_as_its_edits_would_one_after_the_other() -> None:
    original = EditedModel.original(zoo.tiny("gpt2", dtype=torch.float64))
    facts, method, chain = [fact(number) for number in range(6)], grace(initial_radius=0.8), original
    together = method.apply(original, facts)
    for request in facts:
        chain = method.apply(chain, [request])
    actions = [record["action"] for record in together.edits[0].record["requests"]]
    assert len(set(actions)) > 1
    assert actions == [edit.record["requests"][0]["action"] for edit in chain.edits]
    for (one, label), (other, same) in zip(shape(codebook(together)), shape(codebook(chain)), strict=True):
        assert label == same
        assert one == pytest.approx(other)
    for one, other in zip(codebook(together).entries, codebook(chain).entries, strict=True):
        if len(one.members) == 1:
            torch.testing.assert_close(one.value, other.value, rtol=1e-6, atol=1e-6)


def test_other_edits_below_the_codebook_are_seen_by_new_keys_alone() -> None:
    """A chain may hold edits of other methods; a codebook goes on behind them."""
    model = zoo.tiny("gpt2")
    tuned = create("ft-l", {"layer": 1, "epochs": 3}, model)
    chain = grace().apply(EditedModel.original(model), [fact(0)])
    chain = grace().apply(tuned.apply(chain, [fact(1)]), [fact(2)])
    assert codebook(chain).size == 2
    assert exact(chain, [fact(2)]) == [True]
    assert exact(chain.prefix(1), [fact(0)]) == [True]
    EditedModel.original(model).activate()
    model.weights.verify()


# ---- records, settings, refusals


def test_the_record_says_how_large_the_codebook_is_and_what_a_look_up_costs() -> None:
    model = zoo.tiny("gpt2")
    edited = grace().apply(EditedModel.original(model), [fact(0), fact(1), fact(0)])
    record = json.loads(json.dumps(dict(edited.edits[0].record)))
    assert record["codebook_size"] == 2
    assert record["codebook_bytes"] == 2 * (4 * (zoo.D_FF + zoo.D_MODEL) + 8)
    assert edited.stored_bytes() == 2 * 4 * (zoo.D_FF + zoo.D_MODEL)
    assert record["lookup"]["entries"] == 2
    assert record["lookup"]["multiplications"] == 2 * zoo.D_FF
    assert record["lookup"]["seconds"] > 0
    assert record["initial_radius"] == {"value": 1e-2, "from": "default"}
    assert [line["duplicate_of"] for line in record["requests"]] == [None, None, 0]
    assert record["requests"][2]["entry"] == 0


def test_a_calibrated_radius_keeps_unrelated_texts_apart_and_says_where_it_comes_from() -> None:
    model = zoo.tiny("gpt2")
    method = grace(radius_quantile=0.25)
    with pytest.raises(MethodRefused, match="prepare"):
        method.apply(EditedModel.original(model), [fact(0)])
    for texts in ((), ("only one",)):
        with pytest.raises(MissingMaterial, match="calibrate"):
            method.prepare(model, Preparation(texts=texts))
    method.prepare(model, Preparation(texts=zoo.SENTENCES))
    method.prepare(model, Preparation())  # keeps what is there
    edited = method.apply(EditedModel.original(model), [fact(0)])
    radius = edited.edits[0].record["initial_radius"]
    assert radius["from"].startswith("calibrated: half the 0.25 quantile")
    module = codebook(edited).matrix.module
    prompts = [model.encode_text(text)[:16] for text in zoo.SENTENCES]
    [queries] = at_prompt_ends(model, prompts, [(module, "input")])
    apart = torch.pdist(queries) > 2 * radius["value"]
    assert 0.6 < apart.float().mean() < 0.85
    assert codebook(edited).entries[0].radius == radius["value"]
    method.prepare(model, Preparation(texts=zoo.SENTENCES[:3]))  # other texts replace it
    assert method.apply(EditedModel.original(model), [fact(0)]).edits[0].record["initial_radius"] != radius


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("steps", -1),
        ("step_size", 0.0),
        ("initial_radius", 0.0),
        ("stop_margin", 1.0),
        ("radius_quantile", 0.0),
        ("layer", -1),
    ],
)
def test_impossible_settings_are_refused(setting: str, value: float) -> None:
    with pytest.raises(InvalidSettings, match=setting):
        GraceSettings(**{setting: value})


def test_settings_come_from_the_source_that_speaks_of_the_model() -> None:
    def found(*where: Any, **more: Any) -> Any:
        return resolve("grace", Grace.recipe, {}, Shape(*where, **more))

    xl, gptj = found("gpt2", 48, 1600), found("gptj", 28, 4096)
    assert (xl.settings.layer, xl.settings.matrix, xl.settings.steps) == (35, "up", 200)
    assert (gptj.settings.layer, gptj.settings.matrix, gptj.settings.steps) == (25, "down", 200)
    llama = found("llama", 32, 4096, d_ff=11008)
    assert (llama.settings.layer, llama.settings.steps) == (27, 50)
    assert "published" in llama.provenance["layer"]
    small = found("t5", 12, 512, encoder_layers=6)
    assert (small.settings.layer, small.settings.replacement) == (4, "replace_prompt")
    unknown = found("gpt2", 8, 192)
    assert (unknown.settings.layer, unknown.settings.matrix) == (6, "down")
    assert "derived" in unknown.provenance["layer"]
    assert found("t5", 14, 192, encoder_layers=6).settings.layer == 4
    assert derived(1)["layer"][0] == 0
    assert derived_with_encoder(1, 1)["layer"][0] == 0


def test_a_training_that_breaks_down_leaves_the_chain_as_it_was() -> None:
    model = zoo.tiny("gpt2")
    chain = grace().apply(EditedModel.original(model), [fact(0)])
    before = shape(codebook(chain))
    with pytest.raises(EditguardError, match="Nothing was changed"):
        grace(step_size=1e38, stop_margin=None).apply(chain, [fact(1)])
    assert shape(codebook(chain)) == before
    longer = grace().apply(chain, [fact(1)])
    assert codebook(longer).size == 2
    assert exact(longer, [fact(0), fact(1)]) == [True, True]
