import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cddpm_core.balance import Balance


def errors_of(timesteps):
    """An error that grows a hundredfold with the noise."""
    return 0.01 * 100 ** (timesteps / 999)


def fed(balance, steps=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        t = torch.randint(0, 1000, (32,), generator=generator)
        balance.update(balance.tally(t, errors_of(t)))
    return balance


def test_weighted_errors_are_alike_at_all_noise_levels():
    balance = fed(Balance(1000))
    t = torch.arange(1000)
    weighted = balance.weight(t) * errors_of(t)
    assert weighted.std() / weighted.mean() < 0.06
    assert weighted.mean() == pytest.approx(float(errors_of(t).mean()), rel=0.1)


def test_nothing_seen_weighs_one():
    balance = Balance(1000)
    assert (balance.weight(torch.arange(1000)) == 1).all()
    t = torch.full((8,), 10)
    balance.update(balance.tally(t, torch.full((8,), 0.25)))
    assert (balance.weight(torch.arange(1000)) == 1).all()
    assert balance.means[-1] == 0.25 and balance.counts[-1] == 8


@given(st.lists(st.integers(0, 19), min_size=1, max_size=40), st.integers(1, 39))
def test_tallies_of_parts_add_up_to_that_of_the_batch(steps, cut):
    balance, t = Balance(20, parts=4), torch.tensor(steps)
    errors = 1.0 + t
    parts = balance.tally(t[:cut], errors[:cut]) + balance.tally(t[cut:], errors[cut:])
    assert torch.allclose(parts, balance.tally(t, errors))
    assert parts[1, -1] == len(steps) and parts[0, -1] == errors.sum()


def test_old_errors_are_forgotten():
    balance = Balance(1000, window=64)
    t = torch.full((32,), 500)
    for error in [1.0] * 50 + [0.1] * 20:
        balance.update(balance.tally(t, torch.full((32,), error)))
    assert balance.means[16] == pytest.approx(0.1, abs=1e-3)
    assert torch.isfinite(balance.weight(torch.arange(1000))).all()
