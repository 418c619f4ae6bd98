"""Free continuations: seeded per prompt, of a fixed length, among the likeliest tokens."""

import pytest
import torch
import zoo

from editguard.models.sampling import continued_freely

PROMPTS = ("The capital of Velloria is", "Ines Holt", "Question: who is the mayor of Tamrin? Answer:", "Ines was")


def drawn(model, prompts=PROMPTS, **options):
    return continued_freely(model, prompts, **{"tokens": 12, **options})


@pytest.mark.parametrize("family", [*zoo.REPRESENTATIVE, *zoo.PAIRED])
def test_a_continuation_depends_on_its_prompt_and_the_seed_alone(family):
    together = drawn(zoo.tiny(family))
    alone = [drawn(zoo.tiny(family, batch_size=1), [prompt])[0] for prompt in reversed(PROMPTS)]
    assert together == alone[::-1]
    assert drawn(zoo.tiny(family), seed=1) != together


def test_the_likeliest_token_alone_is_greedy_and_more_are_not():
    model = zoo.tiny("gpt2")
    [ids] = [model.encode(PROMPTS[0])]
    for _ in range(5):
        ids.append(int(model.logits(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))[0, -1].argmax()))
    assert drawn(model, PROMPTS[:1], tokens=5, top=1) == [model.decode(ids[-5:])]
    assert drawn(model, tokens=12, top=5) != drawn(model, tokens=12, top=1)


@pytest.mark.parametrize("family", zoo.PAIRED)
def test_behind_an_encoder_the_likeliest_tokens_alone_are_its_greedy_answer(family):
    model = zoo.tiny(family)
    for prompt in PROMPTS:
        [answer] = model.generate([prompt], max_new_tokens=5)
        assert drawn(model, [prompt], tokens=5, top=1) == [model.decode(answer.token_ids)]


def test_no_text_ends_early():
    model = zoo.tiny("gpt2")
    [end] = model.end_ids
    with torch.no_grad():
        model.anatomy.embedding.weight[end] = 50 * model.anatomy.embedding.weight.mean(0)
    made = []
    model.decode = lambda ids: made.append(list(ids)) or ""
    drawn(model)
    assert {len(ids) for ids in made} == {12}
    assert all(end not in ids for ids in made)


@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_the_context_is_never_left(family):
    model = zoo.tiny(family)
    made = []
    model.decode = lambda ids: made.append(list(ids)) or ""
    drawn(model, ["Who? " * 60], tokens=500)
    assert 0 < len(made[0]) <= zoo.CONTEXT


def test_prompts_have_draws_of_their_own(monkeypatch):
    model = zoo.tiny("gpt2")
    alike = torch.linspace(0, 1, len(model.tokenizer))  # every prompt has the same chances
    monkeypatch.setattr(type(model.anatomy), "unembed", lambda _, states: alike.repeat(len(states), 1))
    assert len(set(drawn(model))) == len(PROMPTS)


def test_no_global_random_state_is_touched():
    before = torch.get_rng_state()
    drawn(zoo.tiny("gpt2"))
    assert torch.equal(before, torch.get_rng_state())
