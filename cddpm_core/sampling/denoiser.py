"""The network as a denoiser: it predicts x_0, whatever it was trained to predict."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DDPMScheduler

from cddpm_core.config.device import autocast
from cddpm_core.model.network import ClassConditionedUnet
from cddpm_core.scheduler.process import predicted_x_0

__all__ = ["Denoise", "Denoiser"]

# A denoiser, guided or not: (x_t, t, labels, positions) -> x_0. All that samplers see of a network.
Denoise = Callable[[torch.Tensor, int, torch.Tensor, torch.Tensor | None], torch.Tensor]


class Denoiser:
    """Predicts x_0, float (B, 3, H, W), from x_t at a timestep, given labels and positions.
    ``mixed_precision`` is the arithmetic of the network, see `config.device.arithmetic_of`.
    """

    def __init__(self, network: ClassConditionedUnet, scheduler: DDPMScheduler,
                 mixed_precision: str = "no") -> None:
        self.network, self.scheduler, self.mixed_precision = network, scheduler, mixed_precision

    def __call__(self, x_t: torch.Tensor, t: int | torch.Tensor, labels: torch.Tensor,
                 positions: torch.Tensor | None = None) -> torch.Tensor:
        with autocast(x_t.device, self.mixed_precision):
            output = self.network(x_t, t, labels, positions)
        return predicted_x_0(self.scheduler, output.float(), x_t, t)
