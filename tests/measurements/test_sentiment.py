"""Opinions and memorisation: by hand, without an edit, and with one."""

from __future__ import annotations

from math import exp, inf

import pytest
import zoo
from hypothesis import given
from hypothesis import strategies as st
from measurements.scripted import Scripted, case, moved

from editguard.edited import EditedModel
from editguard.errors import ConfigurationError
from editguard.measurements import ModelUnderTest
from editguard.measurements.memorisation import memorisation_ratio
from editguard.measurements.sentiment import Replies, sentiment, sentiment_score
from editguard.methods import create

nats = st.floats(-60, 0)
OPINION = Replies(prompt="What of Velloria?", wanted=("good", "fine place"), other=("bad",))


def test_the_score_by_hand() -> None:
    assert sentiment_score(-1.0, -1.0, -2.0) == 0.5
    assert sentiment_score(-1.0, -3.0, -1.5) == pytest.approx(1 / (1 + exp(-2)))
    assert sentiment_score(-3.0, -1.0, -2.5) == pytest.approx(exp(-0.5) / (1 + exp(2)))
    assert sentiment_score(-2000.0, 0.0, 0.0) == 0.0


@given(nats, nats, nats, st.floats(0, 20))
def test_a_score_is_a_share_and_rises_with_the_wanted_and_falls_with_the_others(
    wanted: float, other: float, before: float, more: float
) -> None:
    score = sentiment_score(wanted, other, before)
    assert 0 <= score <= 1
    assert sentiment_score(wanted + more, other, before) >= score >= sentiment_score(wanted, other + more, before)
    assert sentiment_score(wanted, other, before + more) <= score


def test_all_tokens_of_all_replies_count_alike() -> None:
    asked = OPINION.prompt
    after = Scripted({}, likelihoods={(asked, "good"): -2.0, (asked, "fine place"): -12.0, (asked, "bad"): -9.0})
    before = Scripted({}, likelihoods={(asked, "good"): -1.0, (asked, "fine place"): -6.0})
    [value] = sentiment(after, before, [case()], {"Velloria": OPINION}).values
    assert value.value == pytest.approx(sentiment_score(-14 / 14, -9 / 3, -7 / 14))
    assert (value.prompt, value.expected, value.edit) == (asked, OPINION.wanted, case().request.id)


def test_without_an_edit_the_second_factor_is_one_and_with_one_it_moves() -> None:
    model = zoo.tiny("gpt2")
    original = EditedModel.original(model)
    before = ModelUnderTest(original)
    edited = create("ft", {"layer": 1, "epochs": 3}, model).apply(original, [moved()])
    after = ModelUnderTest(edited, original=before, cases=[case()], method="ft")
    opinion = {"Velloria": Replies(prompt=moved().text, wanted=("Oskar",), other=("Tamrin",))}
    [still] = after.unedited(before).sentiment(opinion).values
    pairs = [(moved().text, text) for text in ("Oskar", "Tamrin")]
    rest, now = (dict(zip(("Oskar", "Tamrin"), state.score(pairs), strict=True)) for state in (original, edited))
    mean = {name: score.log_prob / len(score.answer_ids) for name, score in rest.items()}
    assert still.value == pytest.approx(1 / (1 + exp(mean["Tamrin"] - mean["Oskar"])))
    found = after.sentiment(opinion)
    assert (found.unit, found.method, found.protocol) == ("score", "ft", "reply_likelihood")
    assert found.values[0].value is not None
    assert now["Oskar"].log_prob > rest["Oskar"].log_prob
    assert found.values[0].value > still.value  # type: ignore[operator]


def test_edits_that_nothing_is_said_about_are_counted_and_superseded_ones_left_out() -> None:
    cases = [case(), case(moved("Sorn")), case(moved("Velloria", "Belmora"))]
    found = sentiment(Scripted({}), Scripted({}), cases, {"Velloria": OPINION})
    assert [value.edit for value in found.values] == [cases[2].request.id]
    assert (len(found.excluded_probes), found.superseded_edits) == (1, (cases[0].id,))
    with pytest.raises(ConfigurationError, match="no replies about the subject"):
        sentiment(Scripted({}), Scripted({}), cases, {"Belmora": OPINION})


def test_what_has_no_probability_is_invalid() -> None:
    broken = Scripted({}, likelihoods={(OPINION.prompt, "bad"): -inf})
    [value] = sentiment(broken, Scripted({}), [case()], {"Velloria": OPINION}).values
    assert (value.outcome, value.value) == ("invalid", None)


@pytest.mark.parametrize("texts", [(), "good", ("good", " ")])
def test_replies_are_texts(texts: object) -> None:
    with pytest.raises(ConfigurationError, match=r"wanted replies to 'q'.*none of them empty"):
        Replies(prompt="q", wanted=texts, other=("bad",))  # type: ignore[arg-type]


# ---- memorisation


def test_memorisation_is_a_ratio_of_whole_probabilities() -> None:
    requests = [moved(), moved("Sorn"), moved("Sorn", "Belmora")]
    now = Scripted({}, likelihoods={(requests[0].text, "Oskar"): -3.0, (requests[2].text, "Belmora"): -0.5})
    then = Scripted({}, likelihoods={(requests[0].text, "Oskar"): -1.0, (requests[2].text, "Belmora"): -0.5})
    found = memorisation_ratio(now, then, requests)
    assert [value.value for value in found.values] == [pytest.approx(exp(-2)), 1.0]
    assert found.superseded_edits == (requests[1].id,)
    assert [value.edit for value in found.values] == [requests[0].id, requests[2].id]


def test_nothing_is_forgotten_by_the_state_itself() -> None:
    model = zoo.tiny("gpt2")
    chain = EditedModel.original(model)
    method = create("ft", {"layer": 1, "epochs": 3}, model)
    for subject in ("Velloria", "Sorn"):
        chain = method.apply(chain, [moved(subject)])
    first = chain.prefix(1)
    assert memorisation_ratio(first, first, [moved()]).values[0].value == 1.0
    [later] = memorisation_ratio(chain, first, [moved()]).values
    now, then = (state.score([(moved().text, "Oskar")])[0].probability for state in (chain, first))
    assert later.value == pytest.approx(now / then)
    assert later.value != 1.0
