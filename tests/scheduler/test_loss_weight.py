import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cddpm_core.config.schema import Params
from cddpm_core.scheduler.loss_weight import Balance, loss_weight, squared_error
from cddpm_core.scheduler.process import make_scheduler, predicted_x_0, snr, target

PREDICTIONS = ("epsilon", "v_prediction", "sample")


def scheduler_of(kind: str):
    return make_scheduler(Params(loss_weighting="uniform", prediction_type=kind))


@given(st.sampled_from(PREDICTIONS), st.sampled_from(["velocity", "min_snr"]), st.integers(0, 950),
       st.floats(0.5, 50))
def test_weights_are_those_of_the_error_of_x_0_whatever_is_predicted(kind, weighting, t, gamma):
    scheduler, timesteps = scheduler_of(kind), torch.tensor([t, 500])
    x_0, epsilon, wrong = torch.randn(3, 2, 3, 4, 4,
                                      generator=torch.Generator().manual_seed(t)).double()
    x_t = scheduler.add_noise(x_0, epsilon, timesteps)
    output = target(scheduler, x_0, epsilon, timesteps) + wrong
    error = (predicted_x_0(scheduler, output, x_t, timesteps) - x_0).square().mean((1, 2, 3))
    ratio = snr(scheduler)[timesteps]
    wanted = (ratio + (weighting == "velocity")).clamp(max=gamma) * error
    weight = loss_weight(scheduler, timesteps, weighting, gamma)
    assert weight.shape == (2,)
    assert torch.allclose(weight * wrong.square().mean((1, 2, 3)), wanted, rtol=1e-3)


@pytest.mark.parametrize(("kind", "weighting"), [
    *((kind, "uniform") for kind in PREDICTIONS), ("v_prediction", "velocity")])
def test_uniform_weights_and_unbounded_velocity_are_one(kind, weighting):
    found = loss_weight(scheduler_of(kind), torch.arange(0, 1000, 50), weighting, float("inf"))
    assert torch.allclose(found, torch.ones(20))


def errors_of(timesteps):
    """An error that grows a hundredfold with the noise."""
    return 0.01 * 100 ** (timesteps / 999)


def test_balanced_errors_are_alike_at_all_noise_levels():
    balance, generator = Balance(1000), torch.Generator().manual_seed(0)
    for _ in range(200):
        t = torch.randint(0, 1000, (32,), generator=generator)
        balance.update(balance.tally(t, errors_of(t)))
    t = torch.arange(1000)
    weighted = balance.weight(t) * errors_of(t)
    assert weighted.std() / weighted.mean() < 0.06
    assert weighted.mean() == pytest.approx(float(errors_of(t).mean()), rel=0.1)


def test_the_weight_is_one_where_no_error_was_seen():
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


def test_a_balance_round_trips_and_refuses_another_shape():
    balance = Balance(1000)
    balance.update(balance.tally(torch.arange(1000), errors_of(torch.arange(1000))))
    again = Balance(1000)
    again.load_state_dict(balance.state_dict())
    assert torch.equal(again.means, balance.means) and torch.equal(again.counts, balance.counts)
    with pytest.raises(ValueError, match="expected means and counts of shape"):
        Balance(1000, parts=4).load_state_dict(balance.state_dict())


@given(st.floats(0, 8), st.integers(0, 99))
def test_the_mean_of_what_is_wanted_has_the_least_error_whatever_weighs_its_edges(weight, seed):
    wanted = torch.randn(5, 3, 6, 4, generator=torch.Generator().manual_seed(seed)).double()
    mean = wanted.mean(0, keepdim=True).requires_grad_()
    error = squared_error(mean, wanted, weight)
    assert error.shape == (5,)
    slope, = torch.autograd.grad(error.sum(), mean)
    assert slope.abs().max() < 1e-12


@given(st.floats(0, 8), st.floats(-2, 2))
def test_an_edge_counts_more_than_an_equal_shift(weight, size):
    wanted = torch.zeros(1, 1, 4, 4).double()
    shift, edge = torch.full_like(wanted, size), torch.full_like(wanted, size)
    edge[..., :2] *= -1
    assert squared_error(shift, wanted, weight).item() == pytest.approx(size**2)
    # Of the 12 differences along x four are 2 size, those along y are 0.
    assert squared_error(edge, wanted, weight).item() == pytest.approx(
        size**2 * (1 + weight * 4 * 4 / 12))
