"""Closer looks at a trained model: errors by noise level, and memorisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from cddpm_core.config.seeds import torch_generator
from cddpm_core.data.dataset import IclevrDataset
from cddpm_core.data.labels import to_multi_hot
from cddpm_core.evaluation.evaluator import Evaluator
from cddpm_core.evaluation.fidelity import LEVELS
from cddpm_core.evaluation.score import score
from cddpm_core.sampling.denoiser import Denoiser
from cddpm_core.sampling.pipeline import ClassConditionedPipeline
from cddpm_core.sampling.sample import image_seeds, sample
from cddpm_core.scheduler.process import predicted_epsilon

__all__ = ["nearest", "quarter_errors", "reconstruct"]


@torch.no_grad()
def quarter_errors(pipeline: ClassConditionedPipeline, images: torch.Tensor,
                   labels: torch.Tensor, *, positions: torch.Tensor | None = None, seed: int = 0,
                   unlabelled: bool = True, mixed_precision: str = "no",
                   batch_size: int = 64) -> list[dict[str, Any]]:
    """Return the mean squared errors of the prediction in each quarter of the timesteps.

    Every image of ``images``, float (N, 3, H, W) in [-1, 1], is noised once per quarter, at a
    random timestep of it; ``positions``, (N, 24, 2), are those of its objects. ``x_0`` and
    ``epsilon`` are the errors of the predicted x_0, as the codec encodes it, and of epsilon.
    ``x_0_without_label``, only with ``unlabelled``, is the error without label and positions, for
    networks trained with label dropout. ``timesteps`` are the first and the last of the quarter.
    """
    denoiser = Denoiser(pipeline.unet, pipeline.scheduler, mixed_precision)
    scales = {"x_0": 1.0, **({"x_0_without_label": 0.0} if unlabelled else {})}
    T = pipeline.scheduler.config.num_train_timesteps
    generator, device = torch_generator(seed, "quarters"), pipeline.device
    found = []
    for quarter in range(4):
        low, high = quarter * T // 4, max(quarter * T // 4 + 1, (quarter + 1) * T // 4)
        sums = {**dict.fromkeys(scales, 0.0), "epsilon": 0.0}
        for rows in torch.arange(len(images)).split(batch_size):
            t = torch.randint(low, high, (len(rows),), generator=generator).to(device)
            x_0 = pipeline.codec.encode(images[rows].to(device))
            epsilon = torch.randn(x_0.shape, generator=generator).to(x_0)
            x_t = pipeline.scheduler.add_noise(x_0, epsilon, t)
            y = labels[rows].to(device)
            where = None if positions is None else positions[rows].to(device)
            for key, scale in scales.items():
                predicted = denoiser(x_t, t, scale * y, where)
                sums[key] += _sum_of_mse(predicted, x_0)
                if key == "x_0":
                    predicted = predicted_epsilon(pipeline.scheduler, predicted, x_t, t)
                    sums["epsilon"] += _sum_of_mse(predicted, epsilon)
        found.append({"timesteps": [low, high - 1],
                      **{key: total / len(images) for key, total in sums.items()}})
    return found


def _sum_of_mse(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).square().mean((1, 2, 3)).sum())


def reconstruct(pipeline: ClassConditionedPipeline, evaluator: Evaluator, images: torch.Tensor,
                conditions: Sequence[Sequence[str]], *, strengths: Sequence[float],
                positions: torch.Tensor | None = None, seed: int = 0, bar: Any = None,
                **options: Any) -> list[dict[str, Any]]:
    """Return the micro accuracy of images that are noised and then denoised from there.

    With little noise only details are sampled anew; with more, also colours and shapes, and
    positions unless they are given. The ``timesteps`` are the sampler's largest below the
    ``strengths``, fractions of T. The first entry, at 0, is that of the unchanged images,
    (N, 3, H, W) in [-1, 1]. ``positions``, (N, 24, 2), are those of their objects; ``options`` are
    those of `sample`.
    """
    labels = torch.stack([to_multi_hot(names) for names in conditions])
    found = {0: score(evaluator(images), conditions)["micro"]}
    for strength in strengths:
        seen: list[int] = []
        again = sample(pipeline, labels, image_seeds(seed, len(labels), "reconstruct"),
                       images=images, positions=positions, strength=strength, bar=bar, **options,
                       callback=lambda moment, seen=seen: seen.append(moment["timestep"]))
        found[seen[0]] = score(evaluator(again), conditions)["micro"]
    return [{"timestep": timestep, "micro": micro} for timestep, micro in found.items()]


def nearest(images: torch.Tensor, dataset: IclevrDataset,
            chunk: int = 512) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the index (N,) of the nearest image of a data set, and its distance, float (N,).

    Images are (N, 3, H, W) in [-1, 1]. The distance is the root mean square over pixels and
    channels, in levels of 255. ``chunk`` images of the data set are compared at once.
    """
    best = torch.full((len(images),), float("inf"))
    index = torch.zeros(len(images), dtype=torch.long)
    for rows in np.array_split(np.arange(len(dataset)), -(-len(dataset) // chunk)):
        others = dataset.batch(rows)[0].flatten(1)
        distance, where = torch.cdist(images.flatten(1), others).min(1)
        index = torch.where(distance < best, torch.from_numpy(rows)[where], index)
        best = torch.minimum(best, distance)
    return index, LEVELS * best / images[0].numel()**0.5
