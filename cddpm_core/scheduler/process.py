"""The forward process and its parameterisations.

``x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) epsilon`` (Ho et al. 2020, eq. 4) for
t = 0..T-1, with ``alpha_bar`` from diffusers' `DDPMScheduler`. Shapes are (B, C, H, W) for images
and (B,) for timesteps.
"""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler

from cddpm_core.config.schema import Params

__all__ = ["alpha_bar", "make_scheduler", "predicted_epsilon", "predicted_x_0", "snr", "target"]


def make_scheduler(params: Params) -> DDPMScheduler:
    """Return the training scheduler with T = ``num_train_timesteps`` steps.

    `sample` clips predicted x_0 to [-1, 1] as in the paper, unless images are standardised.
    """
    return DDPMScheduler(num_train_timesteps=params.num_train_timesteps,
                         beta_schedule=params.beta_schedule,
                         prediction_type=params.prediction_type,
                         clip_sample=not params.standardise)


def alpha_bar(scheduler: DDPMScheduler) -> torch.Tensor:
    """Return alpha_bar_t for t = 0..T-1, shape (T,), falling from near 1 to near 0."""
    return scheduler.alphas_cumprod


def snr(scheduler: DDPMScheduler) -> torch.Tensor:
    """Return the signal-to-noise ratio alpha_bar / (1 - alpha_bar), shape (T,)."""
    return alpha_bar(scheduler) / (1 - alpha_bar(scheduler))


def target(scheduler: DDPMScheduler, x_0: torch.Tensor, epsilon: torch.Tensor,
           timesteps: torch.Tensor) -> torch.Tensor:
    """Return what the network is trained to predict: epsilon, v or x_0.

    ``v = sqrt(alpha_bar) epsilon - sqrt(1 - alpha_bar) x_0`` (Salimans & Ho 2022).
    """
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return epsilon
    return x_0 if kind == "sample" else scheduler.get_velocity(x_0, epsilon, timesteps)


def predicted_x_0(scheduler: DDPMScheduler, output: torch.Tensor, x_t: torch.Tensor,
                  timesteps: int | torch.Tensor) -> torch.Tensor:
    """Return the x_0 that a network's output at ``x_t`` stands for, unclipped.

    ``timesteps`` is one for all images, or (B,).
    """
    kind = scheduler.config.prediction_type
    if kind == "sample":
        return output
    a = _at(alpha_bar(scheduler), timesteps, x_t)
    if kind == "epsilon":
        return (x_t - (1 - a).sqrt() * output) / a.sqrt()
    return a.sqrt() * x_t - (1 - a).sqrt() * output


def predicted_epsilon(scheduler: DDPMScheduler, x_0: torch.Tensor, x_t: torch.Tensor,
                      timesteps: int | torch.Tensor) -> torch.Tensor:
    """Return the epsilon with which a predicted x_0 gives ``x_t``."""
    a = _at(alpha_bar(scheduler), timesteps, x_t)
    return (x_t - a.sqrt() * x_0) / (1 - a).sqrt()


def _at(values: torch.Tensor, timesteps: int | torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The values (T,) at the timesteps, shaped to multiply images."""
    return values[torch.as_tensor(timesteps).cpu()].to(like).view(-1, 1, 1, 1)
