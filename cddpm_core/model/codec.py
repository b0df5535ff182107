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

__all__ = ["PixelCodec", "grain_of", "make_codec", "varying_rows"]


class PixelCodec(ModelMixin, ConfigMixin):
    """Subtracts the mean image, divides by a scale, and keeps the rows that vary.

    i-CLEVR has low contrast; unscaled, its objects would be lost in noise for most timesteps.
    ``image_size`` is the side S of the images in pixels. ``rows`` are the first row that the
    network sees and the one after the last, empty for all; the others are the mean image's.
    ``grain`` is the matrix (3, 3) of `grain_of`, as lists; empty for none.

    The buffers ``mean`` (3, S, S) and ``scale`` () are 0 and 1 until they are filled, so that a
    new codec leaves images as they are. ``x_shape`` is the shape (3, H, W) of x_0.
    """

    @register_to_config
    def __init__(self, image_size: int = 64, rows: Sequence[int] = (),
                 grain: Sequence[Sequence[float]] = ()) -> None:
        super().__init__()
        self.top, bottom = rows or (0, image_size)
        if not 0 <= self.top < bottom <= image_size:
            raise ValueError(f"rows: expected two in 0 to {image_size}, found {shown(rows)}")
        if grain and torch.tensor(grain).shape != (3, 3):
            raise ValueError(f"grain: expected 3 rows of 3 numbers, found {shown(grain)}")
        self.x_shape = (3, bottom - self.top, image_size)
        self.register_buffer("mean", torch.zeros(3, image_size, image_size))
        self.register_buffer("scale", torch.ones(()))

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Return x_0, shape (..., 3, H, W), of whole images in [-1, 1]."""
        x_0 = (images - self.mean) / self.scale
        return x_0[..., self.top:self.top + self.x_shape[1], :]

    def decode(self, x_0: torch.Tensor) -> torch.Tensor:
        """Return whole images, clipped to [-1, 1], of x_0."""
        below = self.mean.shape[1] - self.top - self.x_shape[1]
        x_0 = F.pad(x_0, (0, 0, self.top, below))
        return (x_0 * self.scale + self.mean).clamp(-1, 1)

    def with_grain(self, images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return images (B, 3, S, S) with grain added, clipped to [-1, 1].

        ``noise`` is standard normal, of the same shape. Sampling ends at the mean of
        p(x_0 | x_t), from which the grain of the training images is gone.
        """
        if not self.config.grain:
            return images
        grain = torch.tensor(self.config.grain, device=images.device)
        return (images + torch.einsum("ij,bjhw->bihw", grain, noise.to(images))).clamp(-1, 1)


def make_codec(params: Params, dataset: IclevrDataset) -> PixelCodec:
    """Return the codec of a configuration, fitted to the training images."""
    if not params.standardise:
        return PixelCodec(params.image_size)
    mean, std = dataset.mean_and_std()
    multiple = params.patch_size * 2 ** (len(params.blocks) - 1)
    codec = PixelCodec(params.image_size,
                       varying_rows(std, multiple) if params.trim_rows else (),
                       grain_of(dataset.batch(dataset.spaced(300))[0]).tolist())
    codec.mean.copy_(mean)
    codec.scale.fill_(params.data_scale)
    return codec


def grain_of(images: torch.Tensor, block: int = 8) -> torch.Tensor:
    """Return a matrix G (3, 3) such that G z, for standard normal z, is the grain of 8-bit images.

    ``images`` are (N, 3, H, W) in [-1, 1]. A high-pass filter, each pixel less the mean of its
    four neighbours, leaves grain and edges. The median covariance of the channels over all blocks
    of ``block`` x ``block`` pixels is that of the grain, if most blocks are flat; the part that
    rounding adds is subtracted. G is 0 for images without grain, or smaller than a block.
    """
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


def varying_rows(std: torch.Tensor, multiple: int = 1) -> tuple[int, int]:
    """Return the first row and the one after the last whose pixels vary over the images.

    A row varies where a pixel's standard deviation, ``std`` (3, H, W) in [-1, 1], is above 2 of
    255 levels. Rows are added up to a multiple of ``multiple``, a divisor of H.
    """
    height = std.shape[1]
    rows = torch.nonzero(std.amax((0, 2)) > 2 / 127.5).flatten().tolist() or [0, height - 1]
    count = -(-(rows[-1] + 1 - rows[0]) // multiple) * multiple
    top = max(0, min(rows[0] - (count - (rows[-1] + 1 - rows[0])) // 2, height - count))
    return top, top + count
