"""The network as a denoiser: it predicts x_0, whatever it was trained to predict."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import DDPMScheduler

from cddpm_core.config.device import SideBySide, autocast
from cddpm_core.model.network import ClassConditionedUnet
from cddpm_core.scheduler.process import predicted_x_0

__all__ = ["Denoise", "Denoiser"]

# A denoiser, guided or not: (x_t, t, labels, positions) -> x_0. All that `sample` sees of a
# network; guidance also reads ``scheduler``, the noise schedule, of the one that it wraps.
Denoise = Callable[[torch.Tensor, int, torch.Tensor, torch.Tensor | None], torch.Tensor]


class Denoiser:
    """Predicts x_0, float (B, 3, H, W), from x_t at a timestep, given labels and positions.

    ``t`` is one timestep, or one for each image, (B,). ``mixed_precision`` is the arithmetic of the
    network, see `config.device.arithmetic_of`. On a CPU two halves of the images go through it at
    once, each with half of the cores.
    """

    def __init__(self, network: ClassConditionedUnet, scheduler: DDPMScheduler,
                 mixed_precision: str = "no") -> None:
        self.network, self.scheduler, self.mixed_precision = network, scheduler, mixed_precision
        self.side_by_side = SideBySide(2)

    def __call__(self, x_t: torch.Tensor, t: int | torch.Tensor, labels: torch.Tensor,
                 positions: torch.Tensor | None = None) -> torch.Tensor:
        halves = 2 if x_t.device.type == "cpu" else 1
        output = torch.cat(self.side_by_side(partial(self._output, torch.is_grad_enabled()), *(
            given.chunk(halves) if getattr(given, "ndim", 0) else [given] * halves
            for given in (x_t, t, labels, positions))))
        return predicted_x_0(self.scheduler, output.float(), x_t, t)

    def _output(self, gradients: bool, x_t: torch.Tensor, *given: Any) -> torch.Tensor:
        # A thread has its own settings.
        with torch.set_grad_enabled(gradients), autocast(x_t.device, self.mixed_precision):
            return self.network(x_t, *given)
