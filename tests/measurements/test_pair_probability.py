"""Two given answers, the likelier one wins: by hand, by properties, and on a real model."""

from __future__ import annotations

from math import exp, log

import pytest
import zoo
from hypothesis import given
from hypothesis import strategies as st
from measurements.scripted import Scripted, case, locality, moved, rephrase

from editguard.edited import EditedModel
from editguard.edits import EditCase, Probe
from editguard.errors import ConfigurationError
from editguard.measurements import ModelUnderTest, compare, harmonic_mean, token_probability
from editguard.probes import one_hop, subject_replace

TEXT = moved().text
OTHER = "Velloria's capital is"
NEIGHBOUR = "The capital of Norn is"
probabilities = st.floats(0.001, 1.0)


def likelihoods(prompt: str, **by_answer: float) -> dict[tuple[str, str], float]:
    """Log-probabilities of whole answers whose tokens, a letter each, have these mean probabilities."""
    return {(prompt, answer): len(answer) * log(probability) for answer, probability in by_answer.items()}


def test_the_scores_of_rome_by_hand() -> None:
    """P is a mean over tokens, so that a long answer does not lose for its length alone."""
    edited = Scripted(
        {},
        likelihoods=likelihoods(TEXT, Oskar=0.5, Tamrin=0.3)
        | likelihoods(OTHER, Oskar=0.1, Tamrin=0.4)
        | likelihoods(NEIGHBOUR, Rena=0.6, Oskar=0.2),
    )
    original = Scripted({NEIGHBOUR: "Rena"})
    asked = [case(None, rephrase(OTHER), locality(NEIGHBOUR))]

    def both(property: str, kind: str | None = None) -> tuple[float, float]:
        found = [compare(property, edited, original, asked, of=of, kind=kind) for of in ("preference", "margin")]  # type: ignore[arg-type]
        assert [each.protocol for each in found] == ["pair_probability"] * 2
        assert [each.unit for each in found] == ["fraction", "probability"]
        return found[0].mean, found[1].mean

    assert both("reliability") == (1.0, pytest.approx(0.2))
    assert both("generalization") == (0.0, pytest.approx(-0.3))
    assert both("locality", "neighbourhood") == (1.0, pytest.approx(0.4))


def test_published_harmonic_means() -> None:
    """S of ROME and of MEMIT on GPT-J, of the rounded components in their tables."""
    assert 100 * harmonic_mean([1.0, 0.996, 0.785]) == pytest.approx(91.5, abs=0.05)
    assert 100 * harmonic_mean([1.0, 0.952, 0.770]) == pytest.approx(89.6, abs=0.05)


@given(st.lists(st.just(0.0) | st.floats(1e-6, 1), min_size=1, max_size=5))
def test_the_harmonic_mean_is_between_the_smallest_and_the_mean(scores: list[float]) -> None:
    found = harmonic_mean(scores)
    assert min(scores) - 1e-9 <= found <= sum(scores) / len(scores) + 1e-9
    assert (found == 0) == (min(scores) == 0)
    assert found <= len(scores) * min(scores) + 1e-9


@pytest.mark.parametrize("scores", [[], [0.5, -0.1]])
def test_no_score_and_a_negative_one_have_no_harmonic_mean(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one number"):
        harmonic_mean(scores)


@given(probabilities, probabilities)
def test_with_the_targets_swapped_the_score_is_what_is_missing_to_one(new: float, old: float) -> None:
    edited = Scripted({}, likelihoods=likelihoods(TEXT, Oskar=new, Tamrin=old))
    there = case(moved())
    back = case(moved(target="Tamrin", previous="Oskar"))
    one, other = (compare("reliability", edited, Scripted({}), [each]).mean for each in (there, back))
    margins = [compare("reliability", edited, Scripted({}), [each], of="margin").mean for each in (there, back)]
    assert margins[0] == pytest.approx(-margins[1])
    scores = [token_probability(len(name) * log(each), len(name)) for name, each in (("Oskar", new), ("Tamrin", old))]
    assert one + other == (0.0 if scores[0] == scores[1] else 1.0)


@given(st.floats(-500, 0), st.integers(1, 40))
def test_the_probability_of_an_answer_is_that_of_its_average_token(log_prob: float, tokens: int) -> None:
    found = token_probability(log_prob, tokens)
    assert 0 <= found <= 1
    assert found == pytest.approx(exp(log_prob) ** (1 / tokens), rel=1e-6, abs=1e-12)


def test_a_tie_counts_for_neither() -> None:
    edited = Scripted({}, likelihoods=likelihoods(TEXT, Oskar=0.5, Tamrin=0.5))
    [value] = compare("reliability", edited, Scripted({}), [case()]).values
    assert (value.value, value.outcome, value.answer) == (0.0, "other", "")


def test_edits_without_an_old_answer_are_counted_and_left_out() -> None:
    known, unknown = case(moved()), case(moved(subject="Norn", previous=None))
    found = compare("reliability", Scripted({}), Scripted({}), [known, unknown])
    assert (found.n, found.excluded) == (1, 1)
    with pytest.raises(ConfigurationError, match="previous answer"):
        compare("reliability", Scripted({}), Scripted({}), [unknown])


def test_the_answer_that_should_stay_is_the_probes_own_or_the_unedited_models() -> None:
    """A neighbour whose answer is the target itself has nothing to lose, and is left out."""
    declared = Probe(property="locality", kind="other_relation", prompt="The king of Velloria is", answers=("Anna",))
    silent, equal = (locality(prompt, "other_relation") for prompt in (NEIGHBOUR, "The largest city of Velloria is"))
    original = Scripted({NEIGHBOUR: "Rena", equal.prompt: "Oskar"}, default="Bela")
    edited = Scripted({})
    found = compare("locality", edited, original, [case(None, declared, silent, equal)])
    assert {value.prompt: value.expected for value in found.values} == {
        declared.prompt: ("Anna",),
        NEIGHBOUR: ("Rena",),
    }
    assert found.excluded_probes == (equal.id,)
    assert declared.prompt not in [prompt for prompt, _ in original.generated]


def test_other_tasks_and_other_consequences_have_no_pair() -> None:
    hop = one_hop("The mayor of the capital of Velloria is", ["Ines Holt"])
    with pytest.raises(ConfigurationError, match="other tasks"):
        compare("other_tasks", Scripted({}), Scripted({}), [case()])
    with pytest.raises(ConfigurationError, match="of portability only the kind 'subject_replace'"):
        compare("portability", Scripted({}), Scripted({}), [case(None, hop)], kind="one_hop")


def test_of_portability_other_names_that_the_unedited_model_knows_are_compared() -> None:
    question = ("The Land of Reeds is the country", "Velloria")
    hop = one_hop("The mayor of the capital of Velloria is", ["Ines Holt"])
    alias = subject_replace(moved(), "the Land of Reeds", knows=(question,))
    edited = Scripted({}, likelihoods=likelihoods(alias[0].prompt, Oskar=0.5, Tamrin=0.3))
    found = compare("portability", edited, Scripted(dict([question])), [case(None, hop, *alias)])
    assert (found.n, found.mean, found.kind, found.excluded) == (1, 1.0, "subject_replace", 0)
    unknown = compare("portability", edited, Scripted({}), [case(None, hop, *alias)])
    assert (unknown.n, unknown.excluded_probes) == (0, (alias[0].id,))


def test_without_an_edit_the_margin_is_the_models_own_whatever_the_batch() -> None:
    model = EditedModel.original(zoo.tiny("gpt2"))
    cases = [
        EditCase(request=moved(subject=subject), probes=(rephrase(f"{subject}'s capital is"), locality(NEIGHBOUR)))
        for subject in ("Velloria", "Sorn", "Dralonia")
    ]
    original = ModelUnderTest(model)
    together = ModelUnderTest(model, original=original, cases=cases)
    for property in ("reliability", "generalization", "locality"):
        alone = [ModelUnderTest(model, original=original, cases=[one]).margin(property, None).values for one in cases]
        wanted = {value.probe: value.value for values in alone for value in values}
        found = {value.probe: value.value for value in together.margin(property).values}
        assert found == pytest.approx(wanted, abs=1e-5)
        preferred = together.preference(property)
        assert [value.value == 1.0 for value in preferred.values] == [
            found[value.probe] > 0 for value in preferred.values
        ]
