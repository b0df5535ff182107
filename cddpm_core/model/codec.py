"""From pixels to the x_0 that the network sees, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch.nn import functional as F

from cddpm_core.config.errors import shown
from cddpm_core.config.schema import Params
from cddpm_core.data.dataset import IclevrDataset

__all__ = ["PixelCodec", "grain_of", "make_codec"]


class PixelCodec(ModelMixin, ConfigMixin):
    """Subtracts the mean image and divides by a scale.

    i-CLEVR has low contrast; unscaled, its objects would be lost in noise for most timesteps.
    ``image_size`` is the side S of the images in pixels. ``grain`` is the matrix (3, 3) of
    `grain_of`, as lists; empty for none.

    The buffers ``mean`` (3, S, S) and ``scale`` () are 0 and 1 until they are filled, so that a
    new codec leaves images as they are.
    """

    @register_to_config
    def __init__(self, image_size: int = 64, grain: Sequence[Sequence[float]] = ()) -> None:
        super().__init__()
        if grain and torch.tensor(grain).shape != (3, 3):
            raise ValueError(f"grain: expected 3 rows of 3 numbers, found {shown(grain)}")
        self.register_buffer("mean", torch.zeros(3, image_size, image_size))
        self.register_buffer("scale", torch.ones(()))

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Return x_0 of images in [-1, 1], both of shape (..., 3, S, S)."""
        return (images - self.mean) / self.scale

    def decode(self, x_0: torch.Tensor) -> torch.Tensor:
        """Return the images, clipped to [-1, 1], of x_0, both of shape (..., 3, S, S)."""
        return (x_0 * self.scale + self.mean).clamp(-1, 1)

    def with_grain(self, images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return images (B, 3, S, S) with grain added, clipped to [-1, 1].

        ``noise`` is standard normal, of the same shape. Sampling ends at the mean of
        p(x_0 | x_t), from which most of the grain of the training images is gone.
        """
        if not self.config.grain:
            return images
        grain = torch.tensor(self.config.grain, device=images.device)
        return (images + torch.einsum("ij,bjhw->bihw", grain, noise.to(images))).clamp(-1, 1)


def make_codec(params: Params, dataset: IclevrDataset) -> PixelCodec:
    """Return the codec of a configuration, fitted to the training images."""
    if not params.standardise:
        return PixelCodec(params.image_size)
    codec = PixelCodec(params.image_size,
                       grain_of(dataset.batch(dataset.spaced(300))[0]).tolist())
    codec.mean.copy_(dataset.mean())
    codec.scale.fill_(params.data_scale)
    return codec


def grain_of(images: torch.Tensor) -> torch.Tensor:
    """Return a matrix G (3, 3) such that G z, for standard normal z, is the grain of 8-bit images.

    ``images`` are (N, 3, H, W) in [-1, 1]. A high-pass filter, each pixel less the mean of its
    four neighbours, leaves grain and edges. The median covariance of the channels over all blocks
    of 8 x 8 pixels is that of the grain, if most blocks are flat; the part that rounding adds is
    subtracted. G is 0 for images without grain, or smaller than a block.
    """
    block = 8
    kernel = torch.tensor([[0, -0.25, 0], [-0.25, 1, -0.25], [0, -0.25, 0]])
    if min(images.shape[2:]) < block + 2:
        return torch.zeros(3, 3)
    rough = F.conv2d(127.5 * images, kernel.expand(3, 1, 3, 3), groups=3)
    blocks = rough.unfold(2, block, block).unfold(3, block, block)  # (N, 3, rows, columns, *block)
    blocks = blocks.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, block**2)
    usual = (blocks @ blocks.mT / block**2).median(0).values
    covariance = usual / kernel.square().sum() - torch.eye(3) / 12  # 1 / 12: rounding to integers
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() / 127.5
