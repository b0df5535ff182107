import math

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from cddpm_core.config.schema import Params
from cddpm_core.scheduler.process import (
    alpha_bar,
    make_scheduler,
    predicted_epsilon,
    predicted_x_0,
    snr,
    target,
)

SCHEDULES = ("squaredcos_cap_v2", "linear", "scaled_linear", "sigmoid")
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def scheduler_of(**changes) -> DDPMScheduler:
    return make_scheduler(Params(loss_weighting="uniform").replace(**changes))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("T", [100, 1000, 2000])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_alpha_bar_falls_and_snr_is_signal_over_noise(schedule, T):
    scheduler = scheduler_of(beta_schedule=schedule, num_train_timesteps=T)
    a, ratio = alpha_bar(scheduler), snr(scheduler)
    assert a.shape == (T,) and (a.diff() < 0).all() and a[-1] > 0 and 0.99 < a[0] < 1
    assert a[-1] < (1e-3 if T > 100 else 0.5)
    assert ratio.shape == (T,) and (ratio.diff() < 0).all()
    assert torch.allclose(ratio / (1 + ratio), a, atol=1e-5)


@pytest.mark.parametrize("T", [100, 1000, 2000])
def test_the_cosine_schedule_is_the_formula_of_nichol_and_dhariwal(T):
    def f(t):
        return math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2

    product, expected = 1.0, []
    for t in range(T):
        product *= 1 - min(1 - f(t + 1) / f(t), 0.999)
        expected.append(product)
    found = alpha_bar(scheduler_of(num_train_timesteps=T)).double()
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-3, atol=1e-7)


def test_the_linear_schedule_is_that_of_ho():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    found = alpha_bar(scheduler_of(beta_schedule="linear")).double()
    assert torch.allclose(found, (1 - betas).cumprod(0), rtol=1e-3)


@given(st.lists(st.integers(0, 999), min_size=4, max_size=4), st.sampled_from(PREDICTIONS),
       st.integers(0, 5))
def test_x_0_and_epsilon_are_found_in_every_target(steps, kind, seed):
    scheduler, timesteps = scheduler_of(prediction_type=kind), torch.tensor(steps)
    # As many images as columns, so that a timestep for a column would not be noticed by shape.
    x_0, epsilon = normal(2, 4, 3, 4, 4, seed=seed)
    x_t = scheduler.add_noise(x_0, epsilon, timesteps)
    output = target(scheduler, x_0, epsilon, timesteps)
    a = alpha_bar(scheduler)[timesteps].view(4, 1, 1, 1)
    found = predicted_x_0(scheduler, output, x_t, timesteps)
    assert ((found - x_0).abs() < 1e-5 / (a.sqrt() if kind == "epsilon" else 1)).all()
    first = predicted_x_0(scheduler, output[:1], x_t[:1], steps[0])  # one timestep for all
    assert torch.equal(first, found[:1])
    again = predicted_epsilon(scheduler, x_0, x_t, timesteps)
    assert ((again - epsilon).abs() < 1e-5 / (1 - a).sqrt()).all()


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_targets_are_what_their_names_say(kind):
    x_0, epsilon = normal(2, 2, 3, 4, 4)
    t = torch.tensor([300, 700])
    a = alpha_bar(scheduler_of())[t].view(2, 1, 1, 1)
    expected = {"epsilon": epsilon, "sample": x_0,
                "v_prediction": a.sqrt() * epsilon - (1 - a).sqrt() * x_0}[kind]
    found = target(scheduler_of(prediction_type=kind), x_0, epsilon, t)
    assert torch.allclose(found, expected, atol=1e-6)


def test_the_scheduler_takes_the_parameters():
    config = scheduler_of(num_train_timesteps=200, beta_schedule="linear",
                          prediction_type="v_prediction", standardise=False).config
    assert (config.num_train_timesteps, config.beta_schedule) == (200, "linear")
    assert config.prediction_type == "v_prediction" and config.clip_sample
    assert not scheduler_of(standardise=True).config.clip_sample
