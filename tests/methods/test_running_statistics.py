"""Running statistics are those of all vectors together, whatever the chunks, and are all in the saved state."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editguard.errors import MethodRefused
from editguard.methods.running_statistics import SMALLEST_DEVIATION, RunningStatistics

WIDTH = 3


def vectors(count: int, seed: int = 0) -> torch.Tensor:
    """Far from zero, and of different sizes, so that carelessly summed squares would cancel."""
    drawn = torch.randn(count, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return drawn * torch.tensor([1e-6, 1.0, 1e3]) + torch.tensor([1e-3, -2.0, 1e5])


def filled(chunks: list[torch.Tensor]) -> RunningStatistics:
    found = RunningStatistics(WIDTH)
    for chunk in chunks:
        found.add(chunk)
    return found


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) >= 2))
def test_chunks_of_any_size_give_the_mean_and_the_unbiased_deviation_of_all(sizes: list[int]) -> None:
    everything = vectors(sum(sizes))
    found = filled(list(torch.split(everything, sizes)))
    assert int(found.count) == sum(sizes)
    torch.testing.assert_close(found.mean, everything.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.deviation, torch.var(everything, 0, unbiased=True).sqrt(), rtol=1e-6, atol=0)


def test_normalised_vectors_are_in_deviations_from_the_mean_and_keep_their_type() -> None:
    everything = vectors(40)
    found = filled([everything])
    wanted = (everything - everything.mean(0)) / (everything.std(0) + SMALLEST_DEVIATION)
    torch.testing.assert_close(found.normalised(everything), wanted)
    assert found.normalised(everything.float()).dtype == torch.float32


def test_normalising_changes_no_statistic_and_a_coordinate_that_never_varies_is_not_divided_by_zero() -> None:
    constant = torch.ones(5, WIDTH)
    found = filled([constant])
    before = {name: tensor.clone() for name, tensor in found.state_dict().items()}
    assert torch.equal(found.normalised(constant), torch.zeros(5, WIDTH))
    found.train().normalised(10 * constant)
    assert all(torch.equal(tensor, before[name]) for name, tensor in found.state_dict().items())


@pytest.mark.parametrize("seen", [0, 1])
def test_fewer_than_two_vectors_are_too_few(seen: int) -> None:
    found = filled([vectors(seen)])
    with pytest.raises(MethodRefused, match=f"has seen {seen} tokens"):
        found.normalised(vectors(1))


def test_a_loaded_state_goes_on_as_the_saved_one_would() -> None:
    saved = filled([vectors(7)])
    loaded = RunningStatistics(WIDTH)
    loaded.load_state_dict(saved.state_dict())
    saved.add(vectors(4, seed=1))
    loaded.add(vectors(4, seed=1))
    torch.testing.assert_close(loaded.mean, saved.mean, rtol=0, atol=0)
    torch.testing.assert_close(loaded.deviation, saved.deviation, rtol=0, atol=0)
    together = filled([torch.cat([vectors(7), vectors(4, seed=1)])])
    torch.testing.assert_close(loaded.mean, together.mean, rtol=1e-12, atol=0)
    assert int(loaded.count) == 11
