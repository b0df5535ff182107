"""Positions for new images: the layouts of training scenes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config

from cddpm_core.config.seeds import torch_generator

__all__ = ["LayoutPrior"]


class LayoutPrior(ModelMixin, ConfigMixin):
    """Layouts of training scenes: the buffer ``layouts`` (num_layouts, max_objects, 2).

    Positions are fractions of the image's width and height, in the order of the condition.
    """

    @register_to_config
    def __init__(self, num_layouts: int = 1, max_objects: int = 3) -> None:
        super().__init__()
        self.register_buffer("layouts", torch.zeros(num_layouts, max_objects, 2))

    @classmethod
    def of(cls, layouts: np.ndarray) -> LayoutPrior:
        """Return the prior of layouts (M, k, 2)."""
        prior = cls(*layouts.shape[:2])
        prior.layouts.copy_(torch.from_numpy(layouts))
        return prior

    def sample(self, labels: torch.Tensor, seeds: Sequence[int], choices: int = 1) -> torch.Tensor:
        """Return positions (B, 24, 2) for labels (B, 24).

        They are NaN for objects not named, and for those after the last one of a layout.

        Each image's seed samples ``choices`` training scenes. Its objects get the positions of the
        one whose two nearest objects are farthest apart.
        """
        positions = torch.full((*labels.shape, 2), float("nan"))
        for row, (label, seed) in enumerate(zip(labels.cpu(), seeds, strict=True)):
            generator = torch_generator(seed, "layout")
            scenes = torch.randint(len(self.layouts), (choices,), generator=generator)
            index = torch.argsort(label, descending=True, stable=True)[:int((label > 0.5).sum())]
            layout = _clearest(self.layouts[scenes.to(self.layouts.device)].cpu()[:, :len(index)])
            positions[row, index[:len(layout)]] = layout
        return positions.to(labels.device)


def _clearest(layouts: torch.Tensor) -> torch.Tensor:
    """The one of (K, n, 2) layouts whose two nearest objects are farthest apart; (n, 2)."""
    if layouts.shape[1] < 2:
        return layouts[0]
    return layouts[torch.stack([torch.pdist(layout).min() for layout in layouts]).argmax()]
