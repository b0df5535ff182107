"""Sampled images as pictures: one grid, or one PNG file per image."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torchvision.utils import make_grid

from cddpm_core.config.files import write_png

__all__ = ["grid_image", "rescale", "save_images", "to_uint8"]


def rescale(images: torch.Tensor) -> torch.Tensor:
    """Return (N, 3, H, W) images, each scaled to [0, 1] by its own minimum and maximum."""
    flat = images.flatten(1)
    low, high = flat.amin(1)[:, None, None, None], flat.amax(1)[:, None, None, None]
    return (images - low) / (high - low).clamp(min=1e-8)


def grid_image(images: torch.Tensor, per_row: int = 8, scale: int = 2) -> Image.Image:
    """Return (N, 3, H, W) images in [-1, 1] as one picture, enlarged pixel by pixel.

    Images are 2 pixels apart, before they are enlarged.
    """
    grid = make_grid((images.clamp(-1, 1) + 1) / 2, nrow=per_row, padding=2, pad_value=1.0)
    picture = Image.fromarray((grid * 255).round().byte().movedim(0, -1).numpy())
    size = (picture.width * scale, picture.height * scale)
    return picture.resize(size, Image.Resampling.NEAREST)


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Return (..., 3, H, W) images in [-1, 1] as uint8 (..., H, W, 3)."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(-3, -1)


def save_images(images: torch.Tensor, folder: Path) -> None:
    """Write images (N, 3, H, W) in [-1, 1] as ``0.png``, ``1.png``, ... in the given order."""
    for index, pixels in enumerate(to_uint8(images).numpy()):
        write_png(folder / f"{index}.png", Image.fromarray(pixels))
