import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cddpm_core.scheduler.timesteps import sample_timesteps

SAMPLINGS = ("uniform", "logit_normal")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("T", [2, 3, 20, 50])
def test_timesteps_cover_all_from_the_first_to_the_last(T, sampling):
    found = sample_timesteps(50_000, T, sampling, 0.0, generator())
    assert found.shape == (50_000,) and found.dtype == torch.int64
    assert set(found.tolist()) == set(range(T))


@pytest.mark.parametrize("T", [1000, 2000])
def test_uniform_timesteps_are_equally_frequent(T):
    counts = torch.bincount(sample_timesteps(100 * T, T, "uniform", 0.0, generator()), minlength=T)
    assert len(counts) == T and counts.min() > 40 and counts.max() < 170


@given(st.floats(-3, 3), st.sampled_from([100, 1000, 2000]))
def test_logit_normal_timesteps_have_the_quantiles_of_the_formula(shift, T):
    found = sample_timesteps(100_000, T, "logit_normal", shift, generator()).double() / T
    for quantile, z in ((0.1587, -1), (0.5, 0), (0.8413, 1)):  # of a normal distribution
        expected = 1 / (1 + math.exp(-(shift + z)))
        assert abs(found.quantile(quantile) - expected) < 0.005 + 1 / T


@given(st.integers(1, 3000), st.floats(-200, 200), st.sampled_from(SAMPLINGS), st.integers(0, 9))
def test_timesteps_stay_inside_and_follow_their_generator(T, shift, sampling, seed):
    found, again = (sample_timesteps(64, T, sampling, shift, generator(seed)) for _ in range(2))
    assert found.min() >= 0 and found.max() <= T - 1
    assert torch.equal(found, again)
    if T > 100 and abs(shift) < 3:
        other = sample_timesteps(64, T, sampling, shift, generator(seed + 1))
        assert not torch.equal(found, other)
