"""Augmentation of the stand-in's training images: the distortions of generated images."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["augment", "degrade", "move", "uniform"]


def uniform(low: float, high: float, count: int, generator: torch.Generator) -> torch.Tensor:
    """Return ``(count, 1, 1, 1)`` random numbers between ``low`` and ``high``."""
    return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return images ``(B, 3, 64, 64)`` in [-1, 1] distorted as a generator might distort them.

    Each image is shifted by up to 3 pixels, scaled by up to 8 % and changed in contrast,
    saturation, brightness and tint. At random it is also mirrored, blurred, resized to 32x32 and
    back, or given noise, grain, uneven light, a faint second image or a checkerboard.
    """
    moved, _ = move(images, torch.zeros(len(images), 0, 2), generator)
    return degrade(moved, generator)


def move(images: torch.Tensor, centres: torch.Tensor,
         generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images mirrored, scaled and shifted at random, and the centres ``(B, K, 2)`` moved
    with them, in pixels."""
    count, half = len(images), images.shape[-1] / 2
    scale = uniform(0.92, 1.08, count, generator).view(-1, 1).repeat(1, 2)
    scale[:, 0] *= torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    shift = (torch.rand(count, 2, generator=generator) - 0.5) * 6 / half
    theta = torch.cat([torch.diag_embed(scale), shift[:, :, None]], dim=2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return moved, half * (1 + (centres / half - 1 - shift[:, None]) / scale[:, None])


def degrade(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return images changed in contrast, saturation, brightness and tint, some of them blurred,
    resized, noisy, unevenly lit, with the grid of upsampling layers, or with a faint second image.
    """
    count = len(images)
    mean = images.mean((1, 2, 3), keepdim=True)
    x = mean + (images - mean) * uniform(0.8, 1.2, count, generator)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * uniform(0.8, 1.2, count, generator)
    x = x + uniform(-0.08, 0.08, count, generator)
    x = x + 0.02 * torch.randn(count, 3, 1, 1, generator=generator)

    sometimes = uniform(0, 1, count, generator) < 0.2
    ghost = x.roll(1, 0) - mean.roll(1, 0)
    x = x + sometimes * uniform(0, 0.25, count, generator) * ghost
    sometimes = uniform(0, 1, count, generator) < 0.3
    light = F.interpolate(torch.randn(count, 1, 4, 4, generator=generator), x.shape[-2:],
                          mode="bilinear")
    x = x + sometimes * uniform(0, 0.1, count, generator) * light
    sometimes = uniform(0, 1, count, generator) < 0.1
    grid = torch.randn(count, 3, 4, 4, generator=generator).repeat(
        1, 1, x.shape[-2] // 4, x.shape[-1] // 4)
    x = x + sometimes * uniform(0, 0.06, count, generator) * grid

    blurred = _blur(x, uniform(0.3, 1.2, count, generator).flatten())
    x = torch.where(uniform(0, 1, count, generator) < 0.35, blurred, x)
    small = F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)
    small = F.interpolate(small, scale_factor=2, mode="bilinear")
    x = torch.where(uniform(0, 1, count, generator) < 0.3, small, x)

    noisy = uniform(0, 1, count, generator) < 0.5
    noise = torch.randn(x.shape, generator=generator)
    grain = torch.randn(count, 3, 32, 32, generator=generator)
    x = x + noisy * uniform(0, 0.08, count, generator) * noise
    grain = F.interpolate(grain, scale_factor=2, mode="bilinear")
    x = x + noisy * uniform(0, 0.06, count, generator) * grain
    return x.clamp(-1, 1)


def _blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return each image blurred by a 7x7 Gaussian with its own standard deviation in pixels."""
    count, channels, height, width = images.shape
    offsets = torch.arange(-3.0, 4.0)
    kernel = torch.exp(-(offsets**2) / (2 * sigma[:, None] ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    x = F.pad(images, (3, 3, 3, 3), mode="reflect").reshape(1, -1, height + 6, width + 6)
    x = F.conv2d(x, kernel[:, None, :, None], groups=count * channels)
    x = F.conv2d(x, kernel[:, None, None, :], groups=count * channels)
    return x.reshape(images.shape)
