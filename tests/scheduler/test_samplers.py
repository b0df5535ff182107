from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from cddpm_core.config.errors import UserError
from cddpm_core.config.schema import Params
from cddpm_core.scheduler.process import alpha_bar, make_scheduler
from cddpm_core.scheduler.samplers import SAMPLERS, dense_at_high_noise, make_sampler, trailing


def scheduler_of(**changes) -> DDPMScheduler:
    return make_scheduler(Params(loss_weighting="uniform").replace(**changes))


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@given(st.data(), st.sampled_from(sorted(SAMPLERS)), st.sampled_from([20, 50, 1000, 2000]))
def test_timesteps_fall_from_the_last_one_in_as_many_steps_as_asked_for(data, name, T):
    steps = T if SAMPLERS[name].all_steps else data.draw(st.integers(1, T))
    try:
        SAMPLERS[name].check(name, steps, T)
    except UserError:
        assert name == "unipc"
        return
    scheduler = scheduler_of(num_train_timesteps=T, num_inference_steps=1, beta_schedule="linear")
    made = make_sampler(scheduler, name, steps)
    timesteps = made.timesteps
    assert len(timesteps) == steps and timesteps[0] == T - 1 and (timesteps.diff() < 0).all()
    assert abs(timesteps[-1] - (T / steps - 1)) <= 0.5 or steps == 1
    assert torch.equal(made.alphas_cumprod, alpha_bar(scheduler))


@given(st.integers(1, 300).flatmap(lambda T: st.tuples(st.just(T), st.integers(1, T))))
def test_lists_of_timesteps_have_each_once_from_the_last_one_down(case):
    T, steps = case
    for timesteps in (trailing(T, steps), dense_at_high_noise(T, steps)):
        assert len(timesteps) == steps and timesteps[0] == T - 1
        assert timesteps[-1] == (round(T / steps) - 1 if steps > 1 else T - 1)
        assert all(s < t for t, s in pairwise(timesteps))


def test_steps_are_shortest_at_the_highest_noise():
    lengths = [t - s for t, s in pairwise(dense_at_high_noise(1000, 12))]
    assert lengths == sorted(lengths) and lengths[0] < 1000 / 12 / 5


@pytest.mark.parametrize("steps", [61, 998])
def test_numbers_of_steps_for_which_diffusers_lists_one_too_many(steps):
    for name in ("ddim", "dpm_solver++", "sde_dpm_solver++"):
        made = make_sampler(scheduler_of(), name, steps)
        assert len(made.timesteps) == steps and made.timesteps[-1] >= 0
    with pytest.raises(UserError, match=f"cannot divide 1000 timesteps into {steps} steps"):
        make_sampler(scheduler_of(), "unipc", steps)
    assert len(make_sampler(scheduler_of(), "unipc", steps + 1).timesteps) == steps + 1


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_ddim_is_that_of_diffusers_where_that_keeps_to_its_timesteps(steps):
    scheduler = scheduler_of()
    theirs = DDIMScheduler.from_config(
        dict(scheduler.config), trained_betas=scheduler.betas.tolist(), clip_sample=False,
        prediction_type="sample", timestep_spacing="trailing")
    theirs.set_timesteps(steps)
    ours, found = make_sampler(scheduler, "ddim", steps), []
    assert torch.equal(ours.timesteps, theirs.timesteps)
    for made in (ours, theirs):
        x_t = normal(1, 3, 8, 8)
        for t in made.timesteps:
            x_t = made.step(torch.tanh(x_t + t / 1000), t, x_t).prev_sample
        found.append(x_t)
    assert torch.allclose(*found, atol=1e-5)


def first_steps(name: str, x_t, x_0, epsilon, a_t, a_s):
    """The formula of the report for the first step of a sampler, and its variance."""
    s_t, s_s = (1 - a_t).sqrt(), (1 - a_s).sqrt()
    decay = a_t.sqrt() * s_s / (a_s.sqrt() * s_t)  # exp(-h)
    return {
        "ddpm": (a_s.sqrt() * (1 - a_t / a_s) / (1 - a_t) * x_0
                 + (a_t / a_s).sqrt() * (1 - a_s) / (1 - a_t) * x_t,
                 (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)),
        "ddim": (a_s.sqrt() * x_0 + s_s * epsilon, 0),
        "dpm_solver++": (s_s / s_t * x_t - a_s.sqrt() * (decay - 1) * x_0, 0),
        "sde_dpm_solver++": (s_s / s_t * decay * x_t + a_s.sqrt() * (1 - decay**2) * x_0,
                             s_s**2 * (1 - decay**2)),
    }[name]


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm_solver++", "sde_dpm_solver++"])
def test_the_first_step_is_the_formula_of_the_report(name):
    T, steps = 100, 100 if name == "ddpm" else 5
    scheduler = scheduler_of(num_train_timesteps=T, beta_schedule="linear")
    made = make_sampler(scheduler, name, steps)
    t, s = made.timesteps[:2].tolist()
    a = alpha_bar(scheduler).double()
    # Pixels enough to find mean and variance of the noise.
    x_0, epsilon = normal(2, 1, 1, 1, 1).double().expand(2, 1, 1, 400, 400)
    x_t = a[t].sqrt() * x_0 + (1 - a[t]).sqrt() * epsilon
    noise = {"generator": torch.Generator().manual_seed(1)} if SAMPLERS[name].fresh_noise else {}
    found = made.step(x_0, made.timesteps[0], x_t, **noise).prev_sample
    mean, variance = first_steps(name, x_t, x_0, epsilon, a[t], a[s])
    tolerance = 0.02 if variance else 1e-5
    assert torch.allclose(found.mean(), mean.mean(), atol=tolerance, rtol=1e-4)
    assert found.var() == pytest.approx(float(variance), rel=0.02, abs=1e-9)
    if not variance:
        assert torch.allclose(found, mean, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_saved_scheduler_gives_the_same_sampler(tmp_path, name):
    scheduler = scheduler_of(num_train_timesteps=50, standardise=False, prediction_type="epsilon")
    scheduler.save_pretrained(tmp_path)
    x_t, output = normal(2, 1, 3, 8, 8)
    found = []
    for source in (scheduler, DDPMScheduler.from_pretrained(tmp_path)):
        made = make_sampler(source, name, 50)
        noise = ({"generator": torch.Generator().manual_seed(3)} if SAMPLERS[name].fresh_noise
                 else {})
        found.append(made.step(output, made.timesteps[0], x_t, **noise).prev_sample)
    assert torch.equal(*found)


@pytest.mark.parametrize(("name", "steps", "words"), [
    ("ddin", 10, r"sampler: found 'ddin' \(did you mean 'ddim'"),
    ("unipc", 61, "diffusers' unipc cannot divide 1000 timesteps into 61 steps, expected another"),
    ("ddpm", 50, "ddpm takes every timestep, expected 1000, found 50"),
    ("dpm_solver++", 1001, r"expected 1 to num_train_timesteps \(1000\), found 1001"),
])
def test_a_sampler_or_number_of_steps_that_cannot_be_is_one_sentence(name, steps, words):
    with pytest.raises(UserError, match=words):
        make_sampler(scheduler_of(), name, steps)
    if name in SAMPLERS:
        with pytest.raises(UserError, match=words):
            Params(sampler=name, num_inference_steps=steps)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_sentence_of_the_report_names_the_number_of_steps(name):
    sentence = SAMPLERS[name].sentence
    assert " {steps} " in sentence and sentence.count("$$") % 2 == 0
