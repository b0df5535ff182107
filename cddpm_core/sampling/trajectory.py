"""The denoising process of one image, moment by moment."""

from __future__ import annotations

from typing import Any

import torch

from cddpm_core.sampling.pipeline import ClassConditionedPipeline
from cddpm_core.sampling.sample import sample

__all__ = ["trajectory"]


def trajectory(pipeline: ClassConditionedPipeline, label: torch.Tensor, seed: int,
               moments: int = 12, **options: Any) -> list[dict]:
    """Return the trajectory of one image at evenly spaced moments, noise first.

    Each moment is a dict with ``step``, ``timestep``, ``x_t`` and predicted ``x_0``, both float
    (3, H, W) as the network sees them; the last one is the finished image, with ``timestep`` -1.
    ``options`` are those of `sample`.
    """
    seen: list[dict] = []
    image = sample(pipeline, label[None], [seed], callback=seen.append, **options)[0]
    count = min(moments - 1, len(seen))
    chosen = torch.linspace(0, len(seen) - 1, count).round().long().unique().tolist()
    found = [{**seen[i], "x_t": seen[i]["x_t"][0], "x_0": seen[i]["x_0"][0]} for i in chosen]
    x_0 = pipeline.codec.encode(image.to(pipeline.device)).cpu()
    return [*found, {"step": len(seen), "timestep": -1, "x_t": x_0, "x_0": x_0}]
