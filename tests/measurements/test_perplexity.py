"""Perplexity of fixed texts: by hand, through the model, and what an edit does to it."""

from __future__ import annotations

from math import exp, log

import pytest
import torch
import zoo
from hypothesis import given
from hypothesis import strategies as st
from measurements.scripted import Scripted, case, moved

from editguard.edited import EditedModel
from editguard.errors import ConfigurationError
from editguard.measurements import ModelUnderTest
from editguard.measurements.perplexity import log_perplexity, perplexity
from editguard.methods import create

TEXT = "The river Ost is long"
PAIR = ("The", "river Ost is long")
OTHER = "Nobody speaks of Sorn"


def sure(probability: float) -> Scripted:
    """A model that gives every letter behind the first word this probability."""
    length = len(PAIR[1])
    return Scripted({}, likelihoods={PAIR: length * log(probability)})


def test_the_perplexity_of_a_model_that_is_equally_unsure_of_every_token() -> None:
    [found] = log_perplexity(sure(1 / 8), [TEXT])
    assert found is not None
    assert exp(found) == pytest.approx(8)


def test_a_doubled_perplexity_has_risen_by_log_two() -> None:
    found = perplexity(sure(1 / 16), sure(1 / 8), [case()], [TEXT], of="rise")
    assert found.mean == pytest.approx(log(2))
    assert (found.unit, found.n, found.edit_ids) == ("nats per token", 1, (moved().id,))


@given(st.lists(st.sampled_from([TEXT, OTHER, "The", "", "Ost is"]), min_size=1))
def test_without_an_edit_nothing_rises_and_a_text_counts_once(texts: list[str]) -> None:
    usable = {text for text in texts if " " in text}
    if not usable:
        with pytest.raises(ConfigurationError, match="two words"):
            perplexity(sure(0.5), sure(0.5), [], texts)
        return
    found = perplexity(sure(0.5), sure(0.5), [], texts, of="rise")
    assert found.mean == 0.0
    assert {value.prompt for value in found.values} == usable
    assert found.n == len(usable)


def test_a_loss_that_is_not_finite_is_an_invalid_case_and_no_mean() -> None:
    broken = Scripted({}, likelihoods={PAIR: float("-inf")})
    found = perplexity(broken, sure(0.5), [], [TEXT, OTHER])
    assert (found.n, found.invalid) == (1, 1)


def test_it_is_the_models_own_loss_over_the_tokens_behind_the_first_word() -> None:
    model = zoo.tiny("gpt2")
    [found] = log_perplexity(EditedModel.original(model), [TEXT])
    prompt, answer = model.encode_answer(*PAIR)
    ids = torch.tensor([prompt + answer])
    logits = model.logits(ids, torch.ones_like(ids))[0].log_softmax(-1)
    losses = [-logits[place - 1, ids[0, place]].item() for place in range(len(prompt), ids.shape[1])]
    assert found == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_a_suite_sees_what_an_edit_does_to_a_text() -> None:
    model = zoo.tiny("gpt2")
    method = create("ft", {"layer": 2, "epochs": 3}, model)
    original = EditedModel.original(model)
    edited = method.apply(original, [moved()])
    before = ModelUnderTest(original)
    after = ModelUnderTest(edited, original=before, cases=[case()], method="ft")
    rise = after.perplexity([TEXT, OTHER], of="rise")
    levels = [each.perplexity([TEXT, OTHER]) for each in (after, after.unedited(before))]
    assert rise.mean == pytest.approx(levels[0].mean - levels[1].mean, abs=1e-6)
    assert rise.mean != 0
    original.activate()
