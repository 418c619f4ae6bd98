"""From a scripted model's answers to values: what is asked of whom, and what passes."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from measurements.scripted import Scripted, case, locality, moved, rephrase

from editguard.edited import Answered, Consulted, Retrieved
from editguard.edits import EditCase, EditRequest, Probe
from editguard.errors import ConfigurationError
from editguard.measurements import Measurement, Remembered, measure
from editguard.measurements.record import Lookup
from editguard.measurements.scores import SPELLED_TOKENS, spelled

TEXT = moved().text


def test_decoding_decides_and_the_forced_score_stands_beside_it() -> None:
    """ "Oskat" for "Oskar" has four of five letters right and is wrong."""
    edited = Scripted({TEXT: "Oskat"})
    [value] = measure("reliability", edited, Scripted({}), [case()]).values
    assert (value.value, value.outcome, value.token_accuracy) == (0.0, "other", pytest.approx(0.8))
    assert value.expected == ("Oskar",)


def test_a_right_answer_is_exact_under_both_protocols() -> None:
    result = measure("reliability", Scripted({TEXT: "Oskar"}), Scripted({}), [case()])
    assert (result.mean, result.token_accuracy, result.protocol) == (1.0, 1.0, "decode_match")
    assert result.values[0].outcome == "exact"


def test_the_old_target_is_a_contradiction() -> None:
    result = measure("reliability", Scripted({TEXT: "Tamrin"}), Scripted({}), [case()])
    assert result.outcomes == {"contradiction": 1}


def test_locality_agrees_with_the_unedited_model_and_not_with_the_truth() -> None:
    probes = (locality("The capital of Norn is"), locality("The capital of Sorn is"))
    original = Scripted({"The capital of Norn is": "Wrong", "The capital of Sorn is": "Rena"})
    edited = Scripted({"The capital of Norn is": "Wrong", "The capital of Sorn is": "Oskar"})
    result = measure("locality", edited, original, [case(None, *probes)], kind="neighbourhood")
    assert [value.value for value in result.values] == [1.0, 0.0]
    assert result.values[1].outcome == "contradiction"
    assert result.values[1].expected == ("Rena",)
    assert result.protocol == "decode_agreement"


def test_forced_agreement_compares_the_likeliest_tokens_at_the_old_answer() -> None:
    original = Scripted({"Q": "Rena"})
    edited = Scripted({"Q": "Rest"})
    [value] = measure("locality", edited, original, [case(None, locality("Q", "other_relation"))]).values
    assert (value.value, value.token_accuracy) == (0.0, 0.5)


def test_each_neighbour_is_asked_behind_the_edit_too() -> None:
    edited = Scripted({})
    result = measure("locality", edited, Scripted({}), [case(None, locality("The capital of Norn is"))])
    assert [value.prompt for value in result.values] == [
        "The capital of Norn is",
        "The capital of Velloria is Oskar. The capital of Norn is",
    ]
    assert [value.kind for value in result.values] == ["neighbourhood", "distracting_neighbourhood"]


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from(["Oskar", "Tamrin", "Rena", ""]), min_size=8))
def test_without_an_edit_locality_is_one_and_every_score_is_the_one_before(script: dict[str, str]) -> None:
    model = Scripted(script)
    probes = [locality(letter, "other_relation") for letter in "abcd"] + [rephrase(letter) for letter in "efgh"]
    asked = [case(None, *probes)]
    same = measure("locality", model, model, asked)
    assert same.mean == 1.0
    assert same.token_accuracy in (1.0, None)
    assert measure("generalization", model, model, asked) == measure("generalization", model, Scripted({}), asked)


def test_values_do_not_depend_on_what_is_asked_beside() -> None:
    script = {f"P{i}": ("Oskar" if i % 3 else "Tamrin") for i in range(20)}
    probes = [rephrase(f"P{i}", "Oskar" if i % 2 else "a much longer gold answer than the others") for i in range(20)]
    together = measure("generalization", Scripted(script), Scripted({}), [case(None, *probes)])
    shuffled = random.Random(1).sample(probes, len(probes))
    again = measure("generalization", Scripted(script), Scripted({}), [case(None, *shuffled)])
    assert {value.probe: value for value in together.values} == {value.probe: value for value in again.values}
    alone = [measure("generalization", Scripted(script), Scripted({}), [case(None, one)]).values[0] for one in probes]
    assert tuple(alone) == together.values


def test_a_long_gold_answer_raises_the_limit_of_its_own_probe_alone() -> None:
    edited = Scripted({})
    probes = [rephrase("short"), rephrase("long", "x" * 30)]
    measure("generalization", edited, Scripted({}), [case(None, *probes)])
    assert dict(edited.generated) == {"short": 24, "long": 68}


def test_a_probe_counts_only_where_the_unedited_model_knows_what_it_builds_on() -> None:
    hop = {"property": "portability", "kind": "one_hop", "answers": ("Ines",)}
    known = Probe(**hop, prompt="A", knows=(("mayor of Oskar", "Ines"),))
    unknown = Probe(**hop, prompt="B", knows=(("mayor of Oskar", "Ines"), ("age of Ines", "40")))
    original = Scripted({"mayor of Oskar": "ines"})
    edited = Scripted({"A": "Ines", "B": "Ines", "mayor of Oskar": "nobody"})
    result = measure("portability", edited, original, [case(None, known, unknown)])
    assert [value.prompt for value in result.values] == ["A"]
    assert (result.excluded, result.excluded_probes) == (1, (unknown.id,))
    assert result.mean == 1.0


def test_a_superseded_request_is_counted_and_left_out() -> None:
    first, other, later = moved(), moved("Norn", "Rena"), moved(target="Tolv")
    edited = Scripted({TEXT: "Tolv", other.text: "Rena"})
    result = measure("reliability", edited, Scripted({}), [case(first), case(other), case(later)])
    assert (result.mean, result.n, result.superseded, result.edits) == (1.0, 2, 1, 3)
    assert result.superseded_edits == (first.id,)


def test_retention_right_after_the_edit_is_immediate_success() -> None:
    edits = [case(moved(name, f"T{name}")) for name in ("A", "B", "C")]
    edited = Scripted({edits[0].request.text: "TA", edits[2].request.text: "TC"})
    for n in range(1, 4):
        retention = measure("reliability", edited, Scripted({}), edits[:n])
        immediate = measure("reliability", edited, Scripted({}), edits[n - 1 : n])
        assert retention.values[-1] == immediate.values[0]


def test_a_neighbour_that_another_edit_changes_is_no_locality_probe() -> None:
    neighbour = moved("Norn", "Rena")
    edited = Scripted({neighbour.text: "Rena"})
    result = measure(
        "locality",
        edited,
        Scripted({}),
        [case(moved(), locality(neighbour.text, "other_relation"), locality("Q")), case(neighbour)],
    )
    assert neighbour.text not in [value.prompt for value in result.values]
    assert result.excluded == 1


def test_a_probe_declared_twice_is_asked_once() -> None:
    edited = Scripted({"P": "Oskar"})
    result = measure("generalization", edited, Scripted({}), [case(None, rephrase("P"), rephrase("P"))])
    assert result.n == 1


def choice(prompt: str = "Which?", answer: str = "two") -> Probe:
    return Probe(
        property="other_tasks", kind="count", prompt=prompt, answers=(answer,), choices=("one", "two", "three")
    )


@pytest.mark.parametrize(
    ("likely", "outcome", "value"),
    [
        ({"one": -3.0, "two": -1.0, "three": -2.0}, "exact", 1.0),
        ({"one": -1.0, "two": -3.0, "three": -2.0}, "contradiction", 0.0),
        ({"one": -1.0, "two": -1.0, "three": -2.0}, "empty", 0.0),
        ({"one": -1.0, "two": float("nan"), "three": -2.0}, "invalid", None),
    ],
)
def test_a_choice_is_made_by_likelihood(likely: dict[str, float], outcome: str, value: float | None) -> None:
    edited = Scripted({}, likelihoods={("Which?", option): number for option, number in likely.items()})
    original = Scripted({}, likelihoods={("Which?", "two"): -0.5})
    result = measure("other_tasks", edited, original, [case()], tasks=[choice()])
    [found] = result.values
    assert (found.outcome, found.value, result.protocol) == (outcome, value, "choice_likelihood")
    assert edited.generated == []
    if value is None:
        assert (result.n, result.invalid) == (0, 1)


def test_other_tasks_are_right_and_agree_separately() -> None:
    free = Probe(property="other_tasks", kind="add", prompt="2+2", answers=("4",))
    result = measure("other_tasks", Scripted({"2+2": "5"}), Scripted({"2+2": "5"}), [case()], tasks=[free])
    assert (result.mean, result.agreement) == (0.0, 1.0)


def test_tasks_and_choices_together_name_both_protocols() -> None:
    free = Probe(property="other_tasks", kind="add", prompt="2+2", answers=("4",))
    result = measure("other_tasks", Scripted({}), Scripted({}), [case()], tasks=[free, choice()])
    assert result.protocol == "decode_match+choice_likelihood"
    assert [value.prompt for value in result.values] == ["2+2", "Which?"]


def test_a_reasoned_answer_is_read_behind_its_mark() -> None:
    start = "Question: Who governs the capital of Velloria? Think:"
    first = f"{start} The capital of Velloria is Oskar."
    edited = Scripted({start: "The capital of Velloria is Oskar", first: "Answer: Ines"})
    hop = Probe(property="portability", kind="one_hop_think", prompt=start, answers=("Ines",))
    [value] = measure("portability", edited, Scripted({}), [case(None, hop)]).values
    assert (value.answer, value.value, value.token_accuracy) == ("Ines", 1.0, None)


def test_reasoning_that_never_answers_fails() -> None:
    edited = Scripted({}, default="and then")
    hop = Probe(property="portability", kind="one_hop_think", prompt="Think:", answers=("Ines",))
    [value] = measure("portability", edited, Scripted({}), [case(None, hop)]).values
    assert (value.value, value.answer) == (0.0, "")
    assert len(edited.generated) <= 6


def test_the_lookup_of_a_memory_stands_beside_the_answer_with_the_costs_of_all_its_sentences() -> None:
    def answered(prompt: str, text: str, tokens: int, row: str) -> Answered:
        consulted = Consulted(prompt=f"[{prompt}]", route="in-scope", retrieved=(Retrieved(row, 0.5),), calls=1)
        return Answered(text, (), True, f"[{prompt}]", consulted=consulted, tokens=tokens)

    start = "Question: Who governs the capital of Velloria? Think:"
    first = f"{start} The capital of Velloria is Oskar."
    said = {
        start: answered(start, "The capital of Velloria is Oskar", 30, "a"),
        first: answered(first, "Answer: Ines", 40, "b"),
    }

    class Remembering(Scripted):
        def generate(self, prompts: Sequence[str], *, max_new_tokens: int = 24) -> list[Any]:
            return [said[prompt] for prompt in prompts]

    hop = Probe(property="portability", kind="one_hop_think", prompt=start, answers=("Ines",))
    result = measure("portability", Remembering({}), Scripted({}), [case(None, hop)])
    [value] = result.values
    assert value.lookup == Lookup(
        route="in-scope", retrieved=(("b", 0.5),), tokens=70, calls=4, outcome="", sent=f"[{first}]"
    )
    assert Measurement.from_json(json.loads(json.dumps(result.to_json()))) == result
    [plain] = measure("portability", Scripted({start: "Answer: Ines"}), Scripted({}), [case(None, hop)]).values
    assert plain.lookup is None


def test_an_answer_cut_at_the_limit_is_truncated() -> None:
    edited = Scripted({TEXT: "on and on"}, unstopped=frozenset({TEXT}))
    assert measure("reliability", edited, Scripted({}), [case()]).outcomes == {"truncated": 1}


def test_the_unedited_model_is_asked_once() -> None:
    model = Scripted({"Q": "Rena"})
    original = Remembered(model)
    for _ in range(3):
        measure("locality", Scripted({}), original, [case(None, locality("Q"))])
    assert len(model.generated) == len(set(model.generated)) == 2


def test_nothing_to_ask_is_an_error_that_lists_the_kinds() -> None:
    with pytest.raises(ConfigurationError, match="declare no portability probes"):
        measure("portability", Scripted({}), Scripted({}), [case()])
    with pytest.raises(ConfigurationError, match=r"rephrase.*Did you mean 'rephrase'"):
        measure("generalization", Scripted({}), Scripted({}), [case(None, rephrase("P"))], kind="rephrased")


def test_a_limit_takes_the_same_probes_in_every_run() -> None:
    probes = [rephrase(f"P{i}") for i in range(30)]
    asked = [[case(None, *probes)], [case(None, *reversed(probes))]]
    chosen = [
        {value.probe for value in measure("generalization", Scripted({}), Scripted({}), cases, limit=7).values}
        for cases in asked
    ]
    assert len(chosen[0]) == 7
    assert chosen[0] == chosen[1]


def test_permuted_gold_answers_score_at_chance() -> None:
    """The audit of the scoring itself: nothing but the right answer may score, so shuffled golds hardly do.

    400 edits share 20 targets evenly; after a random permutation a gold is right by chance in one of 20 cases. The
    binomial limits at p = 1/20, n = 400 are 20 +- 4.4 * 4, about 3 to 38.
    """
    rng = random.Random(5)
    targets = [f"{rng.choice('BDFGKLMN')}{i}{rng.choice(['ora', 'eth', 'unda'])}" for i in range(20)] * 20
    requests = [moved(f"Subject {i}", target, None) for i, target in enumerate(targets)]
    edited = Scripted({request.text: request.target for request in requests})
    assert measure("reliability", edited, Scripted({}), [case(one) for one in requests]).mean == 1.0
    shuffled = rng.sample(targets, len(targets))
    permuted = [
        EditRequest(prompt=one.prompt, subject=one.subject, target=gold)
        for one, gold in zip(requests, shuffled, strict=True)
    ]
    result = measure("reliability", edited, Scripted({}), [EditCase(request=one) for one in permuted])
    assert 3 / 400 <= result.mean <= 38 / 400
    chance = sum(one == other for one, other in zip(targets, shuffled, strict=True)) / 400
    assert result.mean == chance


class Spelling(Scripted):
    """Tells each letter of a scored answer with a probability: 0.9 of one that it would say, else 0.1."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Any]:
        return [
            SimpleNamespace(
                answer_ids=score.answer_ids,
                argmax_ids=score.argmax_ids,
                log_prob=score.log_prob,
                token_accuracy=score.token_accuracy,
                tokens=[
                    (chr(wanted), 0.9 if wanted == said else 0.1)
                    for wanted, said in zip(score.answer_ids, score.argmax_ids, strict=True)
                ],
            )
            for score in super().score(pairs)
        ]


@given(said=st.text("abc", min_size=1, max_size=40), gold=st.text("abc", min_size=1, max_size=40))
def test_the_wanted_tokens_come_with_their_probabilities_from_the_pass_that_is_made_anyway(
    said: str, gold: str
) -> None:
    request = moved(target=gold)
    plain, telling = Scripted({TEXT: said}), Spelling({TEXT: said})
    without = measure("reliability", plain, Scripted({}), [case(request)])
    told = measure("reliability", telling, Scripted({}), [case(request)])
    assert telling.scored == plain.scored
    assert telling.generated == plain.generated
    [value] = told.values
    right = [one == other for one, other in zip(gold, said.ljust(len(gold), "\0"), strict=False)]
    assert (
        value.tokens
        == tuple((letter, 0.9 if good else 0.1) for letter, good in zip(gold, right, strict=True))[:SPELLED_TOKENS]
    )
    assert without.values[0] == replace(value, tokens=())
    assert told.id == without.id


def test_where_the_unedited_model_is_asked_anyway_its_probabilities_stand_beside_them() -> None:
    original, edited = Spelling({"Q": "Rena"}), Spelling({"Q": "Rest"})
    [value] = measure("locality", edited, original, [case(None, locality("Q", "other_relation"))]).values
    assert value.tokens == (("R", 0.9), ("e", 0.9), ("n", 0.1), ("a", 0.1))
    assert value.tokens_before == tuple((letter, 0.9) for letter in "Rena")
    choice = Probe(property="other_tasks", kind="t", prompt="Q", answers=("Rest",), choices=("Rena", "Rest"))
    likelier = {("Q", "Rest"): -0.5}
    original.likelihoods = edited.likelihoods = likelier
    [value] = measure("other_tasks", edited, original, [case()], tasks=(choice,)).values
    assert (value.answer, value.tokens) == ("Rest", tuple((letter, 0.9) for letter in "Rest"))
    assert value.tokens_before == (("R", 0.9), ("e", 0.9), ("s", 0.1), ("t", 0.1))


def test_tokens_without_a_finite_probability_are_not_told_and_digits_are_few() -> None:
    score = SimpleNamespace(tokens=[("a", 0.123456), ("b", float("nan")), ("c", 1.0)])
    assert spelled(score) == (("a", 0.1235), ("c", 1.0))
    assert spelled(None) == ()
    assert spelled(SimpleNamespace(log_prob=-1.0)) == ()
