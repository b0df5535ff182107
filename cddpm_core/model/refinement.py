"""The last part of a network that predicts x_0: convolutions on pixels, and x_t itself."""

from __future__ import annotations

import math

import torch
from torch import nn

__all__ = ["Refinement"]

PRIOR_STD = 0.15  # of x_0 around a new network's prediction


class Refinement(nn.Module):
    """Refines a predicted x_0 at full resolution, and combines it with x_t.

    A network that works on patches loses detail that x_t still shows at low noise. So it predicts
    two numbers for each value of x_0: the mean mu and the variance tau^2 of a normal distribution.
    They are combined with y = x_t / sqrt(alpha_bar) = x_0 + sigma epsilon, where sigma^2 = 1 / SNR,
    as if this distribution were a prior:

        x_0 = mu + g (y - mu),   g = tau^2 / (tau^2 + sigma^2)

    (a Wiener filter). With one tau for all values, g is c_skip of Karras et al. (2022), table 1.
    Predicted, tau can be large at edges and small on the ground.

    ``channels`` is the width of the convolutions. The buffer ``log_snr`` (T,) is 0 until it is
    filled.
    """

    def __init__(self, channels: int, num_train_timesteps: int) -> None:
        super().__init__()
        last = nn.Conv2d(channels, 6, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(
            nn.Conv2d(9, channels, 3, padding=1), nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1), nn.SiLU(), last)
        self.register_buffer("log_snr", torch.zeros(num_train_timesteps))

    def forward(self, prediction: torch.Tensor, x_t: torch.Tensor,
                t: torch.Tensor | int) -> torch.Tensor:
        """Return x_0, float (B, 3, H, W).

        ``prediction`` (B, 6, H, W) is mu and log (tau / `PRIOR_STD`)^2, t is (B,) or a scalar.
        """
        # On a CPU narrow convolutions are faster in this order of elements.
        pixels = torch.cat([x_t, prediction.to(x_t.dtype)], 1)
        change = self.layers(pixels.contiguous(memory_format=torch.channels_last))
        mean, log_variance = (prediction + change).float().chunk(2, 1)
        log_snr = self.log_snr[t].view(-1, 1, 1, 1)
        g = torch.sigmoid(log_variance + log_snr + 2 * math.log(PRIOR_STD))
        return (1 - g) * mean + g * torch.sigmoid(log_snr)**-0.5 * x_t.float()
