"""Noise: the forward process, the timesteps trained on, and the samplers' schedulers.

The forward process is ``x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) epsilon``
(Ho et al. 2020, eq. 4), with ``alpha_bar`` from diffusers' `DDPMScheduler`.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from cddpm_core.errors import UserError, did_you_mean
from cddpm_core.params import Params

__all__ = ["SAMPLERS", "alpha_bar", "draw_timesteps", "loss_weight", "make_scheduler",
           "predicted_epsilon", "predicted_x_0", "sampling_scheduler", "snr", "target"]

SAMPLERS = {
    "ddpm": (DDPMScheduler, {}),
    "ddim": (DDIMScheduler, {"timestep_spacing": "trailing"}),
    "dpm_solver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "sde_dpm_solver++": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": (UniPCMultistepScheduler, {"timestep_spacing": "trailing"}),
    # diffusers' Heun does not know networks that predict x_0.
    "heun": (HeunDiscreteScheduler, {"prediction_type": "epsilon", "timestep_spacing": "leading"}),
}


def make_scheduler(params: Params) -> DDPMScheduler:
    """Return the training scheduler with T = ``num_train_timesteps`` steps.

    Predicted x_0 are clipped to [-1, 1] as in the paper, unless images are
    standardised and so have no such bounds.
    """
    return DDPMScheduler(num_train_timesteps=params.num_train_timesteps,
                         beta_schedule=params.beta_schedule,
                         prediction_type=params.prediction_type,
                         clip_sample=not params.standardise)


def sampling_scheduler(scheduler: DDPMScheduler, sampler: str, num_inference_steps: int) -> Any:
    """Return a scheduler that walks ``num_inference_steps`` of the same noise schedule.

    ``sampler`` is ``ddpm`` (ancestral; Ho et al. 2020, algorithm 2), ``ddim``
    (Song et al. 2021, eta 0), ``dpm_solver++`` (Lu et al. 2022, second order),
    ``sde_dpm_solver++``, the same with fresh noise at each step, which corrects
    what earlier steps got wrong, ``unipc`` (Zhao et al. 2023, second order) or
    ``heun`` (Karras et al. 2022, algorithm 1), which asks the network twice a step but
    the last. Spacing is trailing, so that sampling starts at t = T - 1. What ``heun``
    steps is ``x_t / sqrt(alpha_bar)``, by a predicted epsilon; its first steps are short and
    grow, because ``sqrt(1 / alpha_bar)``, along which it takes the mean of two slopes, falls by
    orders of magnitude there.

    Raises `UserError` for ``ddim`` and ``unipc`` with a number of steps that does not divide
    T: diffusers steps the one by T // steps, away from the timesteps it lists, and lists a
    timestep too many for the other.
    """
    if sampler not in SAMPLERS:
        raise UserError(f"sampler: found {sampler!r}{did_you_mean(sampler, SAMPLERS)}, "
                        f"expected one of {', '.join(SAMPLERS)}")
    kind, options = SAMPLERS[sampler]
    # The betas themselves, since diffusers' samplers have other defaults for them.
    made = kind.from_config(dict(scheduler.config), trained_betas=scheduler.betas.tolist(),
                            **options)
    last = scheduler.config.num_train_timesteps
    if sampler == "heun":
        made.set_timesteps(timesteps=_growing_timesteps(last, num_inference_steps))
    elif sampler not in ("ddim", "unipc"):
        # diffusers' own trailing list has an entry t = -1 too many for some numbers of steps.
        made.set_timesteps(timesteps=[round(last - i * last / num_inference_steps) - 1
                                      for i in range(num_inference_steps)])
    elif last % num_inference_steps:
        raise UserError(f"num_inference_steps: {sampler} needs a divisor of num_train_timesteps "
                        f"({last}), found {num_inference_steps}")
    else:
        made.set_timesteps(num_inference_steps)
    return made


def _growing_timesteps(T: int, count: int) -> list[int]:
    """Return T - 1, T - 4, T - 16, ... up to where even steps are as long, then even ones to 0."""
    head = [T - 1]
    while len(head) < count - 1 and 3 * (T - head[-1]) < head[-1] / (count - len(head)):
        head.append(4 * head[-1] - 3 * T)
    left, low = count - len(head), head[-1]
    return head + [round(low - (i + 1) * low / left) for i in range(left)]


def alpha_bar(scheduler: DDPMScheduler) -> torch.Tensor:
    """Return alpha_bar_t for t = 0..T-1, shape (T,), falling from near 1 to near 0."""
    return scheduler.alphas_cumprod


def snr(scheduler: DDPMScheduler) -> torch.Tensor:
    """Return the signal-to-noise ratio alpha_bar / (1 - alpha_bar), shape (T,)."""
    return alpha_bar(scheduler) / (1 - alpha_bar(scheduler))


def draw_timesteps(count: int, num_train_timesteps: int, sampling: str = "uniform",
                   shift: float = 0.0, generator: torch.Generator | None = None) -> torch.Tensor:
    """Return ``(count,)`` integer timesteps over all of 0..T-1.

    ``uniform`` gives each the same chance; ``logit_normal`` draws
    ``T * sigmoid(shift + N(0, 1))`` (Esser et al. 2024, section 3.1), which
    trains most the noise levels around ``T * sigmoid(shift)``.
    """
    if sampling == "uniform":
        return torch.randint(0, num_train_timesteps, (count,), generator=generator)
    share = torch.sigmoid(shift + torch.randn(count, generator=generator))
    return (share * num_train_timesteps).long().clamp(max=num_train_timesteps - 1)


def target(scheduler: DDPMScheduler, x_0: torch.Tensor, epsilon: torch.Tensor,
           timesteps: torch.Tensor) -> torch.Tensor:
    """Return what the network is to predict: epsilon, v or x_0, shape (B, C, H, W).

    ``v = sqrt(alpha_bar) epsilon - sqrt(1 - alpha_bar) x_0`` (Salimans & Ho 2022).
    """
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return epsilon
    return x_0 if kind == "sample" else scheduler.get_velocity(x_0, epsilon, timesteps)


def loss_weight(scheduler: DDPMScheduler, timesteps: torch.Tensor, weighting: str = "uniform",
                most: float = 5.0) -> torch.Tensor:
    """Return what the squared error of each image is multiplied with, shape (B,).

    ``uniform`` leaves the error of the prediction as it is (Ho et al. 2020, eq. 14).
    The others weigh the error of x_0, whatever the network predicts: ``min_snr`` by
    min(SNR, most) (Hang et al. 2023), ``velocity`` by min(SNR + 1, most), which is
    the error of v up to a bound (Salimans & Ho 2022; Li & He 2025).
    """
    if weighting == "uniform":
        return torch.ones(len(timesteps))
    ratio = snr(scheduler)[timesteps.cpu()]
    wanted = (ratio if weighting == "min_snr" else ratio + 1).clamp(max=most)
    # An error e of x_0 is one of SNR e^2 in epsilon and of (SNR + 1) e^2 in v, squared.
    own = {"epsilon": ratio, "v_prediction": ratio + 1, "sample": torch.ones_like(ratio)}
    return wanted / own[scheduler.config.prediction_type]


def predicted_x_0(scheduler: DDPMScheduler, output: torch.Tensor, x_t: torch.Tensor,
                  timestep: int | torch.Tensor) -> torch.Tensor:
    """Return the x_0, shape (B, C, H, W), that an output at ``x_t`` stands for, unclipped.

    ``timestep`` is that of all images, or one an image, shape (B,).
    """
    a = alpha_bar(scheduler)[torch.as_tensor(timestep).cpu()].to(x_t).view(-1, 1, 1, 1)
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return (x_t - (1 - a).sqrt() * output) / a.sqrt()
    return output if kind == "sample" else a.sqrt() * x_t - (1 - a).sqrt() * output


def predicted_epsilon(scheduler: DDPMScheduler, output: torch.Tensor, x_t: torch.Tensor,
                      timestep: int | torch.Tensor) -> torch.Tensor:
    """Return the epsilon, shape (B, C, H, W), that an output at ``x_t`` stands for."""
    a = alpha_bar(scheduler)[torch.as_tensor(timestep).cpu()].to(x_t).view(-1, 1, 1, 1)
    x_0 = predicted_x_0(scheduler, output, x_t, timestep)
    return (x_t - a.sqrt() * x_0) / (1 - a).sqrt()
