"""Permuted gold answers score at chance, and a leaky comparison is found."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editguard.measurements import CaseValue, Measurement
from editguard.measurements.audit import audit


def answered(*pairs: tuple[str, tuple[str, ...]]) -> Measurement:
    values = tuple(
        CaseValue(
            probe=str(place),
            edit="",
            kind="k",
            prompt=str(place),
            expected=golds,
            answer=answer,
            outcome="other",
            value=0.0,
        )
        for place, (answer, golds) in enumerate(pairs)
    )
    return Measurement(name="reliability", protocol="decode_match", values=values)


def test_answers_that_are_all_right_and_all_different_score_nothing_against_others() -> None:
    found = audit(answered(*((f"T{i}", (f"T{i}",)) for i in range(10))))
    assert (found.score, found.permuted, found.shared, found.mixed_up, found.leak) == (1.0, 0.0, 0.0, 0.0, 0.0)


def test_shared_answers_are_chance_and_a_model_that_says_one_thing_is_told_from_a_leak() -> None:
    same = audit(answered(("T", ("T",)), ("T", ("T",)), ("T", ("U", "t"))))
    assert (same.permuted, same.shared, same.leak) == (1.0, 1.0, 0.0)
    stuck = audit(answered(*(("T0", (f"T{i}",)) for i in range(4))))
    assert (stuck.score, stuck.shared, stuck.leak) == (0.25, 0.0, 0.0)
    assert stuck.permuted == stuck.mixed_up > 0


def test_a_comparison_that_finds_everything_everywhere_leaks() -> None:
    def contains(answer: str, accepted: Sequence[str]) -> bool:
        return any(gold in answer for gold in accepted)

    found = audit(answered(("A, B or C", ("A",)), ("A, B or C", ("B",)), ("C", ("C",))), judge=contains)
    assert found.score == 1.0
    assert found.leak == found.permuted > 0.5
    assert audit(answered(("A, B or C", ("A",)), ("B", ("B",)))).leak == 0.0


def test_one_case_has_nobody_to_deal_with() -> None:
    with pytest.raises(ValueError, match="two cases"):
        audit(answered(("T", ("T",)), ("T", ())))


texts = st.sampled_from(["Oskar", "the Oskar", "Tamrin", "Norn", "", "Oskar or Norn"])
golds = st.lists(st.sampled_from(["Oskar", "Tamrin", "Norn"]), min_size=1, max_size=2).map(tuple)


@given(st.lists(st.tuples(texts, golds), min_size=2, max_size=8), st.integers(0, 5))
def test_the_own_comparison_never_leaks(pairs: list[tuple[str, tuple[str, ...]]], seed: int) -> None:
    found = audit(answered(*pairs), rounds=3, seed=seed)
    assert found.leak == 0.0
    assert found.mixed_up <= found.permuted <= found.shared + found.mixed_up + 1e-12
