"""Rows of prompt and answer: what is read where, and the losses of it."""

import pytest
import torch
import zoo

from editguard.errors import PromptTooLong
from editguard.models.answer_passes import WholeAnswerPasses
from editguard.models.answer_rows import answer_rows
from editguard.models.continuation import FullForward

PAIRS = (
    ("The capital of Velloria is", "Ines Holt"),
    ("Ines", "Tamrin"),
    ("Question: who is the mother of Quintessa Marlowe-Vane? Answer:", "Oskar"),
)


@pytest.mark.parametrize("family", zoo.ALL)
@pytest.mark.parametrize("whole", [False, True])
def test_losses_are_those_of_scoring_the_answer_whatever_else_is_read(family: str, whole: bool) -> None:
    model = zoo.tiny(family)
    rows = answer_rows(model, PAIRS, 2, whole=whole)
    assert not isinstance(rows.passes, (FullForward, WholeAnswerPasses))
    with torch.no_grad():
        logits = rows.passes.logits()
    scores = model.score(PAIRS)
    wanted = [-sum(score.log_probs) / len(score.log_probs) for score in scores]
    each = torch.nn.functional.cross_entropy(logits, rows.labels, reduction="none")
    torch.testing.assert_close(rows.per_row(each, rows.counted), torch.tensor(wanted), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rows.losses(logits), rows.per_row(each, rows.of_answer))
    closes = family in zoo.ENCODER_DECODER  # an answer there has to end, which is learnt but not counted
    assert torch.equal(rows.of_answer, rows.counted) != closes
    assert int((rows.of_answer & ~rows.counted).sum()) == (len(PAIRS) * len(model.closing))
    assert rows.right(logits).tolist() == [score.exact for score in scores]


def test_every_token_but_the_first_is_asked_for_where_the_whole_text_is() -> None:
    model = zoo.tiny("llama")  # puts a BOS in front
    rows = answer_rows(model, PAIRS, 1, whole=True)
    labels = torch.split(rows.labels, rows.reads)
    of_answer = torch.split(rows.of_answer, rows.reads)
    for pair, asked, own in zip(PAIRS, labels, of_answer, strict=True):
        before, after = model.encode_answer(*pair)
        assert asked.tolist() == [*before, *after][1:]
        assert asked[own].tolist() == after


def test_the_mean_is_taken_within_a_row_first_and_can_leave_the_prompt_out() -> None:
    model = zoo.tiny("gpt2")
    rows = answer_rows(model, PAIRS[:2], 1, whole=True)
    values = torch.arange(float(len(rows.labels)))
    first, second = torch.split(values, rows.reads)
    assert rows.per_row(values).tolist() == [first.mean(), second.mean()]
    answers = [len(model.encode_answer(*pair)[1]) for pair in PAIRS[:2]]
    wanted = [first[-answers[0] :].mean(), second[-answers[1] :].mean()]
    assert rows.per_row(values, rows.of_answer).tolist() == wanted


def test_smoothing_spreads_a_part_of_each_label_over_the_vocabulary() -> None:
    rows = answer_rows(zoo.tiny("gpt2"), PAIRS[:1], 1)
    logits = torch.randn(len(rows.labels), 50, generator=torch.Generator().manual_seed(0))
    rows.labels[:] = rows.labels % 50
    log_probs = logits.log_softmax(-1)
    own = log_probs[range(len(logits)), rows.labels]
    wanted = -(0.8 * own + 0.2 * log_probs.mean(-1)).mean()
    torch.testing.assert_close(rows.losses(logits, smoothing=0.2)[0], wanted)


@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_a_row_beyond_the_context_is_one_clear_error(family: str) -> None:
    model = zoo.tiny(family)
    long, short = " red" * 400, "red"
    assert answer_rows(model, [(short, short)], 1)
    for pair in ((long, short), (short, long)):
        with pytest.raises(PromptTooLong, match=f"more than the model's context of {zoo.CONTEXT}"):
            answer_rows(model, [pair], 1)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_layers_of_an_encoder_see_the_prompt_and_those_of_its_decoder_the_answer(family: str) -> None:
    model = zoo.tiny(family)
    rows = answer_rows(model, PAIRS, 0)
    for number, pair in enumerate(PAIRS):
        before, after = model.encode_answer(*pair)
        assert int(rows.tokens(0)[number].sum()) == int(rows.tokens(1)[number].sum()) == len(before)
        assert int(rows.tokens(2)[number].sum()) == len(model.opening) + len(after) - 1
