"""The denoising process of one image, moment by moment."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cddpm_core.sampling.pipeline import ClassConditionedPipeline
from cddpm_core.sampling.sample import sample

__all__ = ["trajectory"]


def trajectory(pipeline: ClassConditionedPipeline, label: torch.Tensor, seed: int,
               moments: int = 12, **options: Any) -> list[dict]:
    """Return the trajectory of one image at ``moments`` moments, or all it has, noise first.

    They are spaced as evenly in t as the steps of the sampler allow. Each moment is a dict with
    ``step``, ``timestep``, ``x_t`` and predicted ``x_0``, both float (3, H, W) as the network sees
    them; the last one is the finished image, with ``timestep`` -1. ``label`` is multi-hot, (24,).
    ``options`` are those of `sample`, for one image.
    """
    seen: list[dict] = []
    image = sample(pipeline, label[None], [seed], callback=seen.append, **options)[0]
    timesteps, count = [moment["timestep"] for moment in seen], min(moments - 1, len(seen))
    chosen = [-1]
    for left, t in zip(reversed(range(count)), np.linspace(timesteps[0], timesteps[-1], count),
                       strict=True):
        nearest = int(np.argmin(np.abs(timesteps - t)))
        chosen.append(min(max(nearest, chosen[-1] + 1), len(seen) - 1 - left))
    found = [{**seen[i], "x_t": seen[i]["x_t"][0], "x_0": seen[i]["x_0"][0]} for i in chosen[1:]]
    x_0 = pipeline.codec.encode(image.to(pipeline.device)).cpu()
    return [*found, {"step": len(seen), "timestep": -1, "x_t": x_0, "x_0": x_0}]
