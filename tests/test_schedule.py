import math

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from cddpm_core.errors import UserError
from cddpm_core.params import SAMPLER_NAMES, Params
from cddpm_core.schedule import (
    SAMPLERS,
    alpha_bar,
    draw_timesteps,
    loss_weight,
    make_scheduler,
    predicted_epsilon,
    predicted_x_0,
    sampling_scheduler,
    snr,
    target,
)

SCHEDULES = ("squaredcos_cap_v2", "linear", "scaled_linear", "sigmoid")
KINDS = ("epsilon", "v_prediction", "sample")


def scheduler_of(**changes) -> DDPMScheduler:
    return make_scheduler(Params(loss_weighting="uniform").replace(**changes))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sampling", ["uniform", "logit_normal"])
@pytest.mark.parametrize("T", [2, 3, 20, 50])
def test_timesteps_cover_all_from_the_first_to_the_last(T, sampling):
    drawn = draw_timesteps(50_000, T, sampling, 0.0, generator())
    assert drawn.shape == (50_000,) and drawn.dtype == torch.int64
    assert set(drawn.tolist()) == set(range(T))


@pytest.mark.parametrize("T", [1000, 2000])
def test_uniform_timesteps_reach_both_ends_of_a_long_process(T):
    drawn = draw_timesteps(100 * T, T, "uniform", 0.0, generator())
    counts = torch.bincount(drawn, minlength=T)
    assert len(counts) == T and counts.min() > 40 and counts.max() < 170


@pytest.mark.parametrize("T", [1000, 2000])
def test_logit_normal_timesteps_stay_inside_and_reach_far_out(T):
    drawn = draw_timesteps(300_000, T, "logit_normal", 0.0, generator())
    assert 0 <= drawn.min() < T // 50 and T - T // 50 < drawn.max() <= T - 1
    assert abs(drawn.float().median() - T / 2) < T / 100


def test_shift_moves_the_median_by_the_logit():
    drawn = draw_timesteps(100_000, 1000, "logit_normal", 0.5, generator()).float()
    assert abs(drawn.median() - 1000 / (1 + math.exp(-0.5))) < 8


@given(st.integers(1, 3000), st.floats(-200, 200), st.sampled_from(["uniform", "logit_normal"]),
       st.integers(0, 9))
def test_timesteps_never_leave_the_process(T, shift, sampling, seed):
    drawn = draw_timesteps(64, T, sampling, shift, generator(seed))
    assert drawn.min() >= 0 and drawn.max() <= T - 1


@pytest.mark.parametrize("sampling", ["uniform", "logit_normal"])
def test_timesteps_follow_their_generator(sampling):
    first, again, other = (draw_timesteps(20, 1000, sampling, 0.5, generator(seed))
                           for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("T", [100, 1000, 2000])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_alpha_bar_falls(schedule, T):
    a = alpha_bar(scheduler_of(beta_schedule=schedule, num_train_timesteps=T))
    assert a.shape == (T,) and (a.diff() < 0).all() and a[-1] > 0 and 0.99 < a[0] < 1
    assert a[-1] < (1e-3 if T > 100 else 0.5)


@pytest.mark.parametrize("T", [100, 1000, 2000])
def test_cosine_schedule_is_the_formula_of_nichol_and_dhariwal(T):
    def f(t):
        return math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2

    product, expected = 1.0, []
    for t in range(T):
        product *= 1 - min(1 - f(t + 1) / f(t), 0.999)
        expected.append(product)
    found = alpha_bar(scheduler_of(num_train_timesteps=T)).double()
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-3, atol=1e-7)


def test_linear_schedule_is_that_of_ho():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    found = alpha_bar(scheduler_of(beta_schedule="linear")).double()
    assert torch.allclose(found, (1 - betas).cumprod(0), rtol=1e-3)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_snr_is_signal_over_noise(schedule):
    scheduler = scheduler_of(beta_schedule=schedule)
    a, ratio = alpha_bar(scheduler), snr(scheduler)
    assert ratio.shape == (1000,) and (ratio.diff() < 0).all()
    assert torch.allclose(ratio / (1 + ratio), a, atol=1e-5)


@given(st.integers(0, 999), st.sampled_from(KINDS), st.integers(0, 5))
def test_target_gives_x_0_back_at_every_timestep(t, kind, seed):
    scheduler = scheduler_of(prediction_type=kind)
    x_0, epsilon = torch.randn(2, 1, 3, 4, 4, generator=generator(seed))
    timesteps = torch.tensor([t])
    x_t = scheduler.add_noise(x_0, epsilon, timesteps)
    output = target(scheduler, x_0, epsilon, timesteps)
    # With epsilon the error of rounding grows as 1 / sqrt(alpha_bar).
    error = 1e-5 / (alpha_bar(scheduler)[t].sqrt().item() if kind == "epsilon" else 1)
    assert torch.allclose(predicted_x_0(scheduler, output, x_t, t), x_0, atol=error)


@pytest.mark.parametrize("kind", KINDS)
def test_each_image_of_a_batch_may_have_its_own_timestep(kind):
    scheduler = scheduler_of(prediction_type=kind)
    timesteps = torch.tensor([0, 250, 500, 900])
    # As many images as columns, so that a timestep for a column would not be noticed by shape.
    x_0, epsilon = torch.randn(2, 4, 3, 4, 4, generator=generator())
    x_t = scheduler.add_noise(x_0, epsilon, timesteps)
    found = predicted_x_0(scheduler, target(scheduler, x_0, epsilon, timesteps), x_t, timesteps)
    assert torch.allclose(found, x_0, atol=1e-4)


def test_targets_are_what_their_names_say():
    x_0, epsilon = torch.randn(2, 2, 3, 4, 4, generator=generator())
    t = torch.tensor([300, 700])
    a = alpha_bar(scheduler_of())[t].view(2, 1, 1, 1)
    expected = {"epsilon": epsilon, "sample": x_0,
                "v_prediction": a.sqrt() * epsilon - (1 - a).sqrt() * x_0}
    for kind in KINDS:
        found = target(scheduler_of(prediction_type=kind), x_0, epsilon, t)
        assert torch.allclose(found, expected[kind], atol=1e-6)


@given(st.sampled_from(KINDS), st.sampled_from(["velocity", "min_snr"]), st.integers(0, 950),
       st.floats(0.5, 50))
def test_weights_are_those_of_the_error_of_x_0_whatever_is_predicted(kind, weighting, t, most):
    scheduler, timesteps = scheduler_of(prediction_type=kind), torch.tensor([t, 500])
    x_0, epsilon, wrong = torch.randn(3, 2, 3, 4, 4, generator=generator(t)).double()
    x_t = scheduler.add_noise(x_0, epsilon, timesteps)
    output = target(scheduler, x_0, epsilon, timesteps) + wrong
    off = (predicted_x_0(scheduler, output, x_t, timesteps) - x_0).square().mean((1, 2, 3))
    ratio = snr(scheduler)[timesteps]
    wanted = (ratio + (weighting == "velocity")).clamp(max=most) * off
    weight = loss_weight(scheduler, timesteps, weighting, most)
    assert weight.shape == (2,)
    assert torch.allclose(weight * wrong.square().mean((1, 2, 3)), wanted, rtol=1e-3)


def test_uniform_weights_and_unbounded_velocity_leave_the_error_alone():
    timesteps = torch.arange(0, 1000, 50)
    for kind in KINDS:
        found = loss_weight(scheduler_of(prediction_type=kind), timesteps)
        assert torch.equal(found, torch.ones(20))
    scheduler = scheduler_of(prediction_type="v_prediction")
    found = loss_weight(scheduler, timesteps, "velocity", float("inf"))
    assert torch.allclose(found, torch.ones(20))


def test_training_scheduler_takes_the_parameters():
    scheduler = scheduler_of(num_train_timesteps=200, beta_schedule="linear",
                             prediction_type="sample", standardise=False)
    config = scheduler.config
    assert (config.num_train_timesteps, config.beta_schedule) == (200, "linear")
    assert config.prediction_type == "sample" and config.clip_sample
    assert not scheduler_of(standardise=True).config.clip_sample


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("T", [1000, 2000])
def test_samplers_walk_from_the_last_timestep_down(sampler, T):
    scheduler = scheduler_of(num_train_timesteps=T, beta_schedule="linear",
                             prediction_type="epsilon")
    for steps in (1, 10, 25, 50, T):
        walk = sampling_scheduler(scheduler, sampler, steps)
        # Heun's method asks the network twice a step, but for the last.
        assert len(walk.timesteps) == (2 * steps - 1 if sampler == "heun" else steps)
        timesteps = walk.timesteps.unique_consecutive()
        assert len(timesteps) == steps and timesteps[0] == T - 1
        assert (timesteps.diff() < 0).all()
        last = 0 if steps > 1 else T - 1  # Heun's even steps end at 0
        assert timesteps[-1] == (last if sampler == "heun" else T // steps - 1)
        assert torch.equal(walk.alphas_cumprod, alpha_bar(scheduler))
        assert walk.config.prediction_type == "epsilon"


@given(st.data(), st.sampled_from([20, 50, 1000, 2000]),
       st.sampled_from(["ddpm", "dpm_solver++", "sde_dpm_solver++"]))
def test_any_number_of_steps_is_that_many_timesteps_inside(data, T, sampler):
    steps = data.draw(st.integers(1, T))
    walk = sampling_scheduler(scheduler_of(num_train_timesteps=T, num_inference_steps=1),
                              sampler, steps)
    assert len(walk.timesteps) == steps and walk.timesteps[0] == T - 1
    assert walk.timesteps[-1] >= 0 and (walk.timesteps.diff() < 0).all()


@pytest.mark.parametrize("steps", [61, 499, 998])
def test_numbers_of_steps_for_which_diffusers_lists_one_too_many(steps):
    walk = sampling_scheduler(scheduler_of(), "dpm_solver++", steps)
    assert len(walk.timesteps) == steps and walk.timesteps[-1] >= 0


@given(st.data(), st.sampled_from([20, 50, 1000, 2000]))
def test_the_steps_of_heun_grow_and_then_stay_even(data, T):
    steps = data.draw(st.integers(1, T))
    walk = sampling_scheduler(scheduler_of(num_train_timesteps=T, num_inference_steps=1), "heun",
                              steps)
    timesteps = walk.timesteps.unique_consecutive().int()
    assert len(timesteps) == steps and timesteps[0] == T - 1
    assert timesteps[-1] == (0 if steps > 1 else T - 1)
    lengths = (-timesteps.diff()).tolist()
    assert all(length > 0 for length in lengths)
    # Three times as far as it has come, until that is longer than what is left, in even steps.
    for length, t, left in zip(lengths, timesteps.tolist(), range(steps - 1, 0, -1), strict=False):
        assert abs(length - (t if left == 1 else min(3 * (T - t), t / left))) <= 1


def test_the_walk_from_a_saved_scheduler_is_the_same(tmp_path):
    scheduler = scheduler_of(standardise=False, prediction_type="epsilon")
    scheduler.save_pretrained(tmp_path)
    loaded = DDPMScheduler.from_pretrained(tmp_path)
    x_t, output = torch.randn(2, 1, 3, 8, 8, generator=generator())
    for sampler in SAMPLERS:
        steps = []
        for source in (scheduler, loaded):
            walk = sampling_scheduler(source, sampler, 50)
            drawn = {} if sampler in ("unipc", "heun") else {"generator": generator(3)}
            steps.append(walk.step(output, walk.timesteps[0], x_t, **drawn))
        assert torch.equal(steps[0].prev_sample, steps[1].prev_sample)


def test_unknown_sampler_is_one_sentence():
    with pytest.raises(UserError, match="found 'ddin' .did you mean 'ddim'"):
        sampling_scheduler(scheduler_of(), "ddin", 10)


@pytest.mark.parametrize("sampler", ["ddim", "unipc"])
def test_steps_that_a_sampler_cannot_walk_are_refused_early(sampler):
    sentence = f"{sampler} needs a divisor of num_train_timesteps .1000."
    with pytest.raises(UserError, match=sentence):
        sampling_scheduler(scheduler_of(), sampler, 30)
    with pytest.raises(UserError, match=sentence):
        Params(sampler=sampler, num_inference_steps=30)
    Params(sampler=sampler, num_inference_steps=50)


def test_the_schema_knows_every_sampler():
    assert set(SAMPLER_NAMES) == set(SAMPLERS)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_epsilon_is_found_in_every_prediction(kind):
    scheduler = scheduler_of(prediction_type=kind, loss_weighting="uniform")
    x_0, epsilon = torch.randn(2, 4, 3, 8, 8, generator=generator())
    timesteps = torch.tensor([1, 300, 700, 990])
    x_t = scheduler.add_noise(x_0, epsilon, timesteps)
    found = predicted_epsilon(scheduler, target(scheduler, x_0, epsilon, timesteps), x_t,
                              timesteps)
    assert torch.allclose(found, epsilon, atol=2e-3)
