"""A sample is balanced, and depends on ids and seed alone."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from editguard.datasets.sampling import sample

records = st.lists(st.sampled_from("abcd"), min_size=1, max_size=40).map(
    lambda strata: [(stratum, f"id {place}") for place, stratum in enumerate(strata)]
)


@given(records, st.integers(1, 50), st.integers(0, 5))
def test_each_stratum_has_its_share_rounded_down_or_up(given_: list[tuple[str, str]], limit: int, seed: int) -> None:
    chosen = sample(given_, limit, seed)
    count = min(limit, len(given_))
    assert len(chosen) == count
    all_of, taken = Counter(stratum for stratum, _ in given_), Counter(given_[place][0] for place in chosen)
    for stratum, members in all_of.items():
        assert abs(taken[stratum] - count * members / len(given_)) < 1


@given(records, st.integers(1, 50), st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_order_does_not_matter(given_: list[tuple[str, str]], limit: int, seed: int, random: object) -> None:
    shuffled = list(given_)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert {given_[place] for place in sample(given_, limit, seed)} == {
        shuffled[place] for place in sample(shuffled, limit, seed)
    }


def test_another_seed_chooses_others_and_the_same_seed_the_same() -> None:
    many = [("", f"id {place}") for place in range(1_000)]
    samples = [sample(many, 50, seed) for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    assert len(samples[0] & samples[2]) < 25


def test_without_strata_a_smaller_sample_is_part_of_a_larger_one() -> None:
    many = [("", f"id {place}") for place in range(100)]
    assert sample(many, 10, 3) < sample(many, 20, 3)
