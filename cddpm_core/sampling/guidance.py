"""Guidance: denoisers that wrap a denoiser and strengthen its conditioning."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from cddpm_core.model.codec import PixelCodec
from cddpm_core.sampling.denoiser import Denoise
from cddpm_core.scheduler.process import alpha_bar

__all__ = ["ClassifierGuided", "Guided", "LogLikelihood"]

LogLikelihood = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Guided:
    """Classifier-free guidance, ``x_null + w (x_label - x_null)`` (Ho & Salimans 2022).

    All three are predicted x_0. Since x_0 is affine in epsilon and v, the formula is the same for
    these. ``scale`` is w (w + 1 in the paper); 1 is no guidance. It applies at timesteps from low
    up to, but not including, high, the ``interval`` as fractions of T (Kynkäänniemi et al. 2024).
    """

    def __init__(self, denoiser: Denoise, scale: float,
                 interval: Sequence[float] = (0.0, 1.0)) -> None:
        self.denoiser, self.scheduler, self.scale = denoiser, denoiser.scheduler, scale
        self.low, self.high = interval

    def __call__(self, x_t: torch.Tensor, t: int, labels: torch.Tensor,
                 positions: torch.Tensor | None = None) -> torch.Tensor:
        fraction = t / self.scheduler.config.num_train_timesteps
        if self.scale == 1 or not self.low <= fraction < self.high:
            return self.denoiser(x_t, t, labels, positions)
        both = self.denoiser(torch.cat([x_t, x_t]), t,
                             torch.cat([labels, torch.zeros_like(labels)]),
                             None if positions is None else torch.cat([positions, positions]))
        conditional, unconditional = both.chunk(2)
        return unconditional + self.scale * (conditional - unconditional)


class ClassifierGuided:
    """Classifier guidance, ``x_0 + s v_t grad log p(label | x_0)``.

    Dhariwal & Nichol (2021), applied to the predicted x_0 (Bansal et al. 2023), with the variance
    of x_0 given x_t for x_0 of unit variance, v_t = 1 - alpha_bar_t. ``scale`` is s.
    ``log_likelihood`` returns log p, shape (B,), for images (B, 3, H, W) in [-1, 1] and labels
    (B, 24), and is differentiable in the images. Scores by the same classifier are then biased.
    """

    def __init__(self, denoiser: Denoise, codec: PixelCodec, log_likelihood: LogLikelihood,
                 scale: float) -> None:
        self.denoiser, self.scheduler, self.codec = denoiser, denoiser.scheduler, codec
        self.log_likelihood, self.scale = log_likelihood, scale

    def __call__(self, x_t: torch.Tensor, t: int, labels: torch.Tensor,
                 positions: torch.Tensor | None = None) -> torch.Tensor:
        x_0 = self.denoiser(x_t, t, labels, positions).detach()
        with torch.enable_grad():
            x_0.requires_grad_()
            total = self.log_likelihood(self.codec.decode(x_0), labels).sum()
            gradient, = torch.autograd.grad(total, x_0)
        variance = 1 - alpha_bar(self.scheduler)[t].item()
        return x_0.detach() + self.scale * variance * gradient
