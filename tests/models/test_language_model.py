"""Answers and scores depend on the prompt alone: not on the batch, its order, its padding or the tokenizer."""

import random
import re
import warnings

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from editguard.errors import ConfigurationError, PromptTooLong, UnsupportedModel
from editguard.models.answer_passes import whole_answer_passes
from editguard.models.generation import StopRule
from editguard.models.language_model import LanguageModel

every_family = pytest.mark.parametrize("family", zoo.EVERY)
every_decoder = pytest.mark.parametrize("family", zoo.FAMILIES)
every_pair = pytest.mark.parametrize("family", zoo.PAIRED)

PROMPTS = (
    "The capital of Velloria is",
    "Who",
    "The mayor of the capital of Oskaria is Ines Holt, and her brother is called",
    "Question: where was Ines Holt born? Answer:",
    "Copy: red blue green. Result:",
    "Ines",
)
PAIRS = tuple((prompt, answer) for prompt in PROMPTS[:4] for answer in ("Tamrin", " Aldo Holt, of Belmora"))


def log_probs(scores) -> torch.Tensor:
    return torch.tensor([value for score in scores for value in score.log_probs])


@every_family
def test_answers_are_those_of_the_librarys_own_greedy_decoding_of_each_prompt_alone(family):
    model = zoo.tiny(family)
    made = model.generate(PROMPTS, max_new_tokens=8)
    for prompt, answer in zip(PROMPTS, made, strict=True):
        ids = torch.tensor([model.encode(prompt)])
        paired = family in zoo.ENCODER_DECODER
        forced = int(family == "bart")  # the library counts the token that it must write first
        own = model.module.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=8 + forced,
            do_sample=False,
            pad_token_id=2,
            forced_eos_token_id=None,
            use_cache=not paired,  # the library's own fits no decoder that is deeper than its encoder
        )
        expected = own[0, len(model.opening) if paired else ids.shape[1] :].tolist()
        assert list(answer.token_ids) == expected[: len(answer.token_ids)]
        assert len(answer.token_ids) in (8, len(expected), len(expected) - 1) or answer.stopped


@every_family
def test_answers_and_scores_do_not_depend_on_the_batch(family):
    model = zoo.tiny(family)
    answers, scores = model.generate(PROMPTS, max_new_tokens=8), model.score(PAIRS)
    for batch_size in (1, 2, 5):
        model.batch_size = batch_size
        order = random.Random(batch_size).sample(range(len(PROMPTS)), len(PROMPTS))
        again = model.generate([PROMPTS[index] for index in order], max_new_tokens=8)
        assert again == [answers[index] for index in order]
        torch.testing.assert_close(log_probs(model.score(PAIRS)), log_probs(scores), rtol=1e-4, atol=1e-4)


@every_family
def test_scores_are_the_log_probabilities_of_the_librarys_own_forward_pass(family):
    model = zoo.tiny(family)
    for (prompt, answer), score in zip(PAIRS, model.score(PAIRS), strict=True):
        before, after = model.encode_answer(prompt, answer)
        with torch.no_grad():
            if family in zoo.ENCODER_DECODER:
                labels = torch.tensor([[*model.opening[1:], *after]])
                logits = model.module(input_ids=torch.tensor([before]), labels=labels).logits[0]
                after = after[: -len(model.closing)]
                own = logits[len(model.opening) - 1 : -1].log_softmax(-1)
            else:
                logits = model.module(input_ids=torch.tensor([[*before, *after]])).logits[0]
                own = logits[len(before) - 1 : -1].log_softmax(-1)
        assert score.answer_ids == tuple(after)
        assert score.argmax_ids == tuple(own.argmax(-1).tolist())
        picked = own[range(len(after)), after]
        torch.testing.assert_close(torch.tensor(score.log_probs), picked, rtol=1e-4, atol=1e-4)


@every_decoder
def test_padding_changes_no_state_of_a_real_token(family):
    model = zoo.tiny(family)
    row = model.encode(PROMPTS[0])
    alone = model.logits(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.long))[0]
    for left, right in ((7, 0), (0, 7)):
        ids = torch.tensor([[5] * left + row + [5] * right])
        mask = torch.tensor([[0] * left + [1] * len(row) + [0] * right])
        padded = model.logits(ids, mask)[0, left : left + len(row)]
        torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20), max_size=5))
def test_any_texts_are_answered_alike_alone_and_together(prompts):
    model = zoo.tiny("gpt2", dtype=torch.float64)
    together = model.generate(prompts, max_new_tokens=4)
    assert together == [model.generate([prompt], max_new_tokens=4)[0] for prompt in prompts]


def test_the_tokenizers_pad_token_and_settings_are_neither_needed_nor_changed():
    reference = zoo.tiny("gpt2").generate(PROMPTS, max_new_tokens=6)
    for pad, side in (("</s>", "right"), ("<pad>", "left"), (None, "left")):
        words = zoo.tokenizer("gpt2")
        words.pad_token, words.padding_side = pad, side
        model = LanguageModel(zoo.module("gpt2"), words, name="padded")
        assert model.generate(PROMPTS, max_new_tokens=6) == reference
        model.score(PAIRS)
        assert (words.pad_token, words.padding_side) == (pad, side)


def test_an_end_of_text_token_within_a_prompt_is_a_token_like_any_other():
    words = zoo.tokenizer("gpt2")
    words.pad_token = "</s>"
    model = LanguageModel(zoo.module("gpt2", dtype=torch.float64), words, name="padded with eos")
    with_end = "The capital.</s> The mayor is"
    assert words.eos_token_id in model.encode(with_end)
    alone = model.score([(with_end, "Tamrin")])[0]
    batched = model.score([(with_end, "Tamrin"), (PROMPTS[2], "Aldo Holt")])[0]
    torch.testing.assert_close(log_probs([alone]), log_probs([batched]), rtol=1e-9, atol=1e-9)


def test_what_else_a_tokenizer_returns_never_reaches_the_model():
    reference = zoo.tiny("gpt2").score(PAIRS)
    words = zoo.tokenizer("gpt2")
    words.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    assert "token_type_ids" in words("Who")
    assert LanguageModel(zoo.module("gpt2"), words, name="typed").score(PAIRS) == reference


def test_an_answer_ends_at_an_end_of_text_token_of_the_model_settings():
    model = zoo.tiny("gpt2")
    [free] = model.generate(PROMPTS[:1], max_new_tokens=6)
    end = free.token_ids[2]
    ending = zoo.module("gpt2")
    ending.generation_config.eos_token_id = [end, 1]
    [cut] = LanguageModel(ending, zoo.tokenizer("gpt2"), name="ending").generate(PROMPTS[:1], max_new_tokens=6)
    assert cut.token_ids == free.token_ids[: free.token_ids.index(end)]
    assert cut.stopped


def test_sampling_settings_that_come_with_a_model_do_not_touch_greedy_answers():
    reference = zoo.tiny("llama").generate(PROMPTS, max_new_tokens=6)
    module = zoo.module("llama")
    module.generation_config.repetition_penalty = 1.8
    module.generation_config.do_sample = True
    module.generation_config.temperature = 1.5
    assert LanguageModel(module, zoo.tokenizer("llama"), name="chatty").generate(PROMPTS, max_new_tokens=6) == reference


def test_rows_that_end_early_leave_the_others_as_they_are():
    model = zoo.tiny("mistral")
    whole = model.generate(PROMPTS, max_new_tokens=10)
    module = zoo.module("mistral")
    module.generation_config.eos_token_id = [whole[0].token_ids[1], whole[2].token_ids[4], whole[3].token_ids[0]]
    ending = LanguageModel(module, zoo.tokenizer("mistral"), name="ending")
    together = ending.generate(PROMPTS, max_new_tokens=10)
    assert len({len(answer.token_ids) for answer in together}) >= 3
    assert together == [ending.generate([prompt], max_new_tokens=10)[0] for prompt in PROMPTS]
    for cut, full in zip(together, whole, strict=True):
        assert cut.token_ids == full.token_ids[: len(cut.token_ids)]


@pytest.mark.parametrize("family", ["gemma2", "bloom", "gptj"])
def test_double_precision_where_attention_code_leaves_masked_rows_undefined_is_answered_too(family):
    model = zoo.tiny(family, dtype=torch.float64)
    together = model.generate(PROMPTS, max_new_tokens=5)
    assert together == [model.generate([prompt], max_new_tokens=5)[0] for prompt in PROMPTS]
    assert [each.text for each in together] == [
        each.text for each in zoo.tiny(family).generate(PROMPTS, max_new_tokens=5)
    ]


def test_a_model_wrecked_by_an_edit_still_answers():
    model = zoo.tiny("gpt2")
    model.anatomy.down_projection(1).parameter.fill_(float("nan"))
    assert len(model.generate(PROMPTS, max_new_tokens=2)) == len(PROMPTS)


def test_equal_prompts_are_answered_once_and_returned_each_time():
    model = zoo.tiny("gpt2")
    calls = []
    handle = model.anatomy.block(0).register_forward_pre_hook(lambda _, args: calls.append(args[0].shape[0]))
    answers = model.generate(["Who"] * 5 + ["Where"], max_new_tokens=3)
    handle.remove()
    assert len(answers) == 6
    assert len(set(answers)) == 2
    assert max(calls) == 2


def test_next_tokens_are_the_most_likely_ones_with_their_probabilities():
    model = zoo.tiny("gpt2")
    [tops] = model.next_tokens([PROMPTS[0]], k=340)
    assert sum(probability for _, probability in tops) == pytest.approx(1, abs=1e-5)
    assert [p for _, p in tops] == sorted((p for _, p in tops), reverse=True)
    [answer] = model.generate([PROMPTS[0]], max_new_tokens=1)
    assert tops[0][0] == model.tokenizer.decode([answer.token_ids[0]])
    for prompt, together in zip(PROMPTS, model.next_tokens(PROMPTS, k=3), strict=True):
        [alone] = model.next_tokens([prompt], k=3)
        assert [text for text, _ in together] == [text for text, _ in alone]
        assert [p for _, p in together] == pytest.approx([p for _, p in alone], abs=1e-5)


def test_nothing_in_gives_nothing_out():
    model = zoo.tiny("gpt2")
    assert model.generate([]) == []
    assert model.score([]) == []
    assert model.next_tokens([]) == []


@pytest.mark.parametrize("family", ["gpt2", "opt", "bloom"])
def test_a_prompt_beyond_the_context_is_refused_and_one_that_fills_it_is_not(family):
    model = zoo.tiny(family)
    word = "Q"
    assert len(model.encode(word)) - len(model.encode("")) == 1
    filling = word * (zoo.CONTEXT - len(model.encode("")))
    if family == "bloom":
        assert model.context_length is None
        assert model.next_tokens([filling + word])
        return
    assert len(model.generate([filling], max_new_tokens=5)[0].token_ids) <= 1
    for ask in (
        lambda: model.generate([filling + word]),
        lambda: model.score([(filling, "Tamrin is nice")]),
        lambda: model.next_tokens([filling + word]),
    ):
        with pytest.raises(PromptTooLong, match=r"257 tokens|2\d\d tokens.*context of 256"):
            ask()


def test_behind_an_encoder_prompt_and_answer_have_a_context_each():
    model = zoo.tiny("bart")
    filling = "Q" * (zoo.CONTEXT - len(model.encode("")))
    assert len(model.encode(filling)) == zoo.CONTEXT == model.context_length
    assert len(model.generate([filling], max_new_tokens=6)[0].token_ids) == 6
    assert len(model.score([(filling, "Tamrin is nice")])[0].log_probs) > 3
    for ask in (lambda: model.generate([filling + "Q"]), lambda: model.next_tokens([filling + "Q"])):
        with pytest.raises(PromptTooLong, match="257 tokens"):
            ask()
    longest = "Q" * (zoo.CONTEXT - len(model.opening) + 1)
    assert len(model.score([("Who", longest)])[0].log_probs) == len(longest)
    with pytest.raises(PromptTooLong, match="257 tokens"):
        model.score([("Who", longest + "Q")])
    model._end_ids, stop = frozenset(), StopRule(re.compile("(?!)"))
    whole = model.generate(["Who"], max_new_tokens=999, stop=stop)[0]
    assert len(whole.token_ids) == zoo.CONTEXT - len(model.opening) + 1


@pytest.mark.parametrize(("family", "beside"), [("gpt2", 5), ("bart", 0)])
def test_what_fits_leaves_room_for_the_answer_unless_a_decoder_writes_it_apart(family, beside):
    model = zoo.tiny(family)
    assert model.fits(zoo.CONTEXT - beside, answer=5)
    assert not model.fits(zoo.CONTEXT - beside + 1, answer=5)
    assert model.fits(20 - beside, answer=5, limit=20)
    assert not model.fits(21 - beside, answer=5, limit=20)
    assert not model.fits(zoo.CONTEXT + 1, answer=5, limit=2 * zoo.CONTEXT)
    assert zoo.tiny("bloom").fits(10**6, answer=5)


def test_a_prompt_without_tokens_is_refused():
    model = zoo.tiny("gpt2")
    for ask in (model.generate, model.next_tokens, lambda prompts: model.score([(prompts[0], "Tamrin")])):
        with pytest.raises(PromptTooLong, match="no tokens"):
            ask([""])


def test_a_short_memory_halves_the_batch_with_a_warning_and_changes_no_answer():
    reference = zoo.tiny("gpt2").generate(PROMPTS, max_new_tokens=4)
    model = zoo.tiny("gpt2")

    def short_of_memory(_, args):
        if args[0].shape[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = model.anatomy.block(1).register_forward_pre_hook(short_of_memory)
    with pytest.warns(RuntimeWarning, match="does not hold 6 rows at a time; going on with 3"):
        assert model.generate(PROMPTS, max_new_tokens=4) == reference
    handle.remove()
    assert model.batch_size <= 2


def test_memory_that_does_not_hold_one_row_is_an_error_not_a_loop():
    model = zoo.tiny("gpt2", batch_size=1)

    def no_memory(*_):
        raise torch.OutOfMemoryError

    model.anatomy.block(0).register_forward_pre_hook(no_memory)
    with warnings.catch_warnings(), pytest.raises(torch.OutOfMemoryError):
        warnings.simplefilter("error")
        model.generate(["Who"])


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"chat": True}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigurationError):
        zoo.tiny("gpt2", **options)


def test_an_answer_of_no_tokens_cannot_be_asked_for():
    with pytest.raises(ConfigurationError, match="at least one token"):
        zoo.tiny("gpt2").generate(["Who"], max_new_tokens=0)


def test_using_a_model_leaves_no_trace():
    model = zoo.tiny("llama")
    random_state, digest = torch.random.get_rng_state(), model.weights.digest()
    flags = [parameter.requires_grad for parameter in model.module.parameters()]
    model.generate(PROMPTS, max_new_tokens=3)
    model.score(PAIRS)
    model.next_tokens(PROMPTS)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert model.weights.digest() == digest
    assert [parameter.requires_grad for parameter in model.module.parameters()] == flags
    assert not model.module.training
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.module.modules())


def test_dropout_is_off_also_for_a_model_that_comes_in_training_mode():
    module = zoo.module("gpt2")
    module.train()
    model = LanguageModel(module, zoo.tokenizer("gpt2"), name="training")
    assert model.score(PAIRS) == zoo.tiny("gpt2").score(PAIRS)


@pytest.mark.parametrize("family", [*zoo.REPRESENTATIVE, *zoo.PAIRED])
def test_half_precision_models_answer_and_score(family):
    model = zoo.tiny(family, dtype=torch.bfloat16)
    assert model.dtype is torch.bfloat16
    assert len(model.generate(PROMPTS, max_new_tokens=3)) == len(PROMPTS)
    exact = log_probs(zoo.tiny(family).score(PAIRS))
    assert (log_probs(model.score(PAIRS)) - exact).abs().mean() < 0.5


def test_gradients_reach_a_vector_that_is_added_to_the_residual_stream():
    model = zoo.tiny("gpt2")
    vector = torch.zeros(zoo.D_MODEL, requires_grad=True)
    handle = model.anatomy.mlp(1).register_forward_hook(lambda _, __, output: output + vector)
    ids = torch.tensor([model.encode(PROMPTS[0])])
    model.logits(ids, torch.ones_like(ids)).logsumexp(-1).sum().backward()
    handle.remove()
    assert vector.grad is not None
    assert vector.grad.abs().sum() > 0


def test_rows_of_like_length_run_together_so_that_little_is_padding():
    model = zoo.tiny("gpt2", batch_size=2)
    assert [batch for batch, _ in model.batches([3, 9, 4, 8, 1], len)] == [[1, 3], [2, 0], [4]]


DEMONSTRATIONS = "New Fact: Ines Holt was born in Belmora. Prompt: Ines Holt was born in Belmora. "
LONG = tuple(DEMONSTRATIONS + prompt for prompt in PROMPTS) + PROMPTS[:2]


@every_decoder
def test_what_several_prompts_begin_with_is_read_once_and_changes_nothing(family, monkeypatch):
    apart, together = zoo.tiny(family), zoo.tiny(family)
    pairs = [(prompt, "Tamrin, by the sea") for prompt in LONG]
    answers = [apart.generate([prompt], max_new_tokens=8)[0] for prompt in LONG]
    scores = [apart.score([pair])[0] for pair in pairs]
    likely = [apart.next_tokens([prompt])[0] for prompt in LONG]

    monkeypatch.setattr("editguard.models.language_model.SHARED_TOKENS", 4)
    seen = []
    forward = together.forward
    monkeypatch.setattr(together, "forward", lambda ids, mask, **more: seen.append(ids) or forward(ids, mask, **more))
    assert [made.text for made in together.generate(LONG, max_new_tokens=8)] == [made.text for made in answers]
    beginning = len(together.encode(DEMONSTRATIONS))
    assert any(len(ids) == 1 and ids.shape[1] >= beginning - 2 for ids in seen)
    sliding = family in ("mistral", "gemma2", "gemma3_text", "gemma3")
    assert any(len(ids) > 1 and ids.shape[1] >= beginning for ids in seen) == sliding
    torch.testing.assert_close(log_probs(together.score(pairs)), log_probs(scores), atol=2e-4, rtol=1e-4)
    for one, other in zip(together.next_tokens(LONG), likely, strict=True):
        assert [token for token, _ in one] == [token for token, _ in other]


def test_prompts_with_equal_beginnings_are_batched_together():
    model = zoo.tiny("gpt2")
    keys = [(1,), (2,), (1,), (), (2,)]
    batches = [batch for batch, _ in model.batches([9, 8, 7, 6, 5], lambda _: None, keys)]
    assert [sorted(batch) for batch in batches] == [[3], [0, 2], [1, 4]]


# ---- behind an encoder


@every_pair
def test_prompts_are_read_whole_and_answers_are_texts_of_their_own(family):
    model = zoo.tiny(family)
    words = model.tokenizer
    for prompt, answer in PAIRS:
        before, after = model.encode_answer(prompt, answer)
        assert before == model.encode(prompt) == words(prompt)["input_ids"]
        assert before[-1] == words.eos_token_id
        labels = words(answer.strip())["input_ids"]
        assert after == labels[len(model.opening) - 1 :]
        assert model.unclosed(after) == words(answer.strip(), add_special_tokens=False)["input_ids"]
    assert list(model.opening) == [
        model.module.config.decoder_start_token_id,
        *([words.bos_token_id] if family == "bart" else []),
    ]


def test_what_opens_an_answer_is_what_the_model_forces_or_else_what_its_tokenizer_puts_before_a_text():
    start, bos = zoo.tiny("bart").opening
    for forced, wanted in ((None, (start, bos)), (7, (start, 7))):
        module = zoo.module("bart")
        module.generation_config.forced_bos_token_id = forced
        assert LanguageModel(module, zoo.tokenizer("bart"), name="opened").opening == wanted


@every_pair
def test_the_loss_of_an_answer_and_its_end_is_the_librarys_own(family):
    model = zoo.tiny(family, dtype=torch.float64)
    for prompt, answer in PAIRS:
        before, after = model.encode_answer(prompt, answer)
        labels = torch.tensor([[*[-100] * (len(model.opening) - 1), *after]])
        stream = torch.tensor([[*model.opening, *after[:-1]]])
        with torch.no_grad():
            own = model.module(input_ids=torch.tensor([before]), decoder_input_ids=stream, labels=labels).loss
            logits = whole_answer_passes(model, [(before, after)]).logits()
        torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, labels[0, -len(after) :]), own)


@every_pair
def test_padding_in_the_encoder_changes_no_answer_and_no_state(family):
    model = zoo.tiny(family, dtype=torch.float64)
    rows = [model.encode(prompt) for prompt in PROMPTS]
    with torch.no_grad():
        together = model.encoded(rows)
        for row, states, mask in zip(rows, together.states, together.mask, strict=True):
            assert int(mask.sum()) == len(row)
            torch.testing.assert_close(states[: len(row)], model.encoded([row]).states[0], rtol=1e-9, atol=1e-12)


def test_an_encoder_runs_once_for_a_whole_answer_and_the_decoder_goes_on_from_its_cache():
    model = zoo.tiny("t5")
    seen = {0: [], zoo.ENCODER_LAYERS: []}
    for layer, calls in seen.items():
        model.anatomy.block(layer).register_forward_hook(
            lambda _, args, __, calls=calls: calls.append(args[0].shape[1])
        )
    answer = model.generate(PROMPTS[:1], max_new_tokens=6)[0]
    assert seen[0] == [len(model.encode(PROMPTS[0]))]
    assert seen[zoo.ENCODER_LAYERS] == [1] * len(answer.token_ids)


@every_pair
def test_rows_that_end_early_leave_the_others_and_their_prompts_as_they_are(family):
    model = zoo.tiny(family)
    whole = model.generate(PROMPTS, max_new_tokens=10)
    module = zoo.module(family)
    firsts = {answer.token_ids[0] for answer in whole}
    assert len(firsts) > 2
    module.generation_config.eos_token_id = [whole[0].token_ids[0], whole[3].token_ids[1]]
    ending = LanguageModel(module, zoo.tokenizer(family), name="ending")
    together = ending.generate(PROMPTS, max_new_tokens=10)
    assert len({len(answer.token_ids) for answer in together}) >= 2
    assert together == [ending.generate([prompt], max_new_tokens=10)[0] for prompt in PROMPTS]
    for cut, full in zip(together, whole, strict=True):
        assert cut.token_ids == full.token_ids[: len(cut.token_ids)]


def test_a_stream_that_no_encoder_has_a_prompt_for_is_refused():
    model = zoo.tiny("t5")
    ids = torch.tensor([model.encode(PROMPTS[0])])
    with pytest.raises(UnsupportedModel, match="no stream of running text"):
        model.logits(ids, torch.ones_like(ids))
    assert model.reading is None


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_states_of_a_text_are_those_of_the_stack_that_reads_it(family):
    model = zoo.tiny(family)
    ids = model.encode_text(PROMPTS[2])
    stack = model.module.encoder if family == "t5" else model.module.transformer
    with torch.no_grad():
        own = stack(input_ids=torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(model.text_states(ids), own)
