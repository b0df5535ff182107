"""Closer looks at a trained model: where it errs, whether it copies, how varied it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler

from cddpm_core.data import IclevrDataset
from cddpm_core.evaluator import Evaluator, score
from cddpm_core.labels import COLOURS, SHAPES, to_multi_hot
from cddpm_core.model import ClassConditionedUnet
from cddpm_core.sampling import autocast, image_seeds, sample
from cddpm_core.schedule import predicted_epsilon, predicted_x_0

__all__ = ["confusion", "frechet_distance", "kernel_distance", "mean_distance", "missed_pairs",
           "nearest", "quartile_errors", "restored"]


@torch.no_grad()
def quartile_errors(model: ClassConditionedUnet, scheduler: DDPMScheduler, images: torch.Tensor,
                    labels: torch.Tensor, *, places: torch.Tensor | None = None, seed: int = 0,
                    unlabelled: bool = True, mixed_precision: str = "no",
                    batch_size: int = 64) -> list[dict[str, Any]]:
    """Return the mean squared errors of the prediction in each quarter of the timesteps.

    Every image of ``images``, float (N, 3, H, W) in [-1, 1], is asked once a quarter, at a
    timestep drawn from it; ``places``, (N, 24, 2), are those of its objects, for a network that
    is told them. ``x_0`` and ``epsilon`` are the errors in the space the network
    sees, where images may be standardised; ``x_0_without_label``, only with ``unlabelled``, is
    that of the network without its label, which it must have been trained to do. ``timesteps``
    are the first and the last of the quarter.
    """
    asked = [("x_0", 1.0), ("x_0_without_label", 0.0)][:2 if unlabelled else 1]
    T, generator = scheduler.config.num_train_timesteps, torch.Generator().manual_seed(seed)
    found = []
    for quarter in range(4):
        low, high = quarter * T // 4, max(quarter * T // 4 + 1, (quarter + 1) * T // 4)
        sums = {**{key: 0.0 for key, _ in asked}, "epsilon": 0.0}
        for rows in torch.arange(len(images)).split(batch_size):
            part = images[rows]
            timesteps = torch.randint(low, high, (len(part),), generator=generator)
            x_0 = model.standardise(part.to(model.device))
            epsilon = torch.randn(x_0.shape, generator=generator).to(x_0)
            x_t = scheduler.add_noise(x_0, epsilon, timesteps.to(x_0.device))
            wanted = labels[rows].to(x_0.device)
            placed = None if places is None else places[rows].to(x_0.device)
            for key, kept in asked:
                with autocast(model.device, mixed_precision):
                    output = model(x_t, timesteps.to(x_0.device), kept * wanted, placed).float()
                away = predicted_x_0(scheduler, output, x_t, timesteps) - x_0
                sums[key] += float(away.square().mean((1, 2, 3)).sum())
                if key == "x_0":
                    away = predicted_epsilon(scheduler, output, x_t, timesteps) - epsilon
                    sums["epsilon"] += float(away.square().mean((1, 2, 3)).sum())
        found.append({"timesteps": [low, high - 1],
                      **{key: total / len(images) for key, total in sums.items()}})
    return found


def restored(model: ClassConditionedUnet, scheduler: DDPMScheduler, evaluator: Evaluator,
             images: torch.Tensor, label_sets: Sequence[Sequence[str]], *,
             strengths: Sequence[float], places: torch.Tensor | None = None, seed: int = 0,
             bar: Any = None, **options: Any) -> list[dict[str, Any]]:
    """Return the micro accuracy of images that are given noise and drawn again from there.

    Where little noise is given the picture is there and only details are drawn; with more
    of it colours, shapes and places are. What is lost between two of the ``timesteps`` is lost
    in drawing between them; they are those of the sampler's that the ``strengths``, shares of T,
    let it begin at. The first entry, at 0, is of the images, (N, 3, H, W) in [-1, 1], as they
    are. ``places``, (N, 24, 2), are those of their objects; ``options`` are those of `sample`.
    """
    labels = torch.stack([to_multi_hot(names) for names in label_sets])
    found = {0: score(evaluator(evaluator.resized(images)), label_sets)["micro"]}
    for strength in strengths:
        seen: list[int] = []
        again = sample(model, scheduler, labels, image_seeds(seed, len(labels)), images=images,
                       places=places, strength=strength, bar=bar, **options,
                       callback=lambda moment, seen=seen: seen.append(moment["timestep"]))
        scored = score(evaluator(evaluator.resized(again)), label_sets)
        found[seen[0]] = scored["micro"]
    return [{"timestep": timestep, "micro": micro} for timestep, micro in found.items()]


def missed_pairs(scored: Mapping[str, Any]) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Yield each missed label, what was seen instead, and the labels of its image.

    ``scored`` is what `evaluator.score` returns. A missed label is paired with an object of
    its shape if one was seen, else with one of its colour, else with any.
    """
    for condition in scored["conditions"]:
        missed = [n for n in condition["labels"] if n not in condition["predicted"]]
        extra = [n for n in condition["predicted"] if n not in condition["labels"]]
        for same in (1, 0, None):
            for name in list(missed):
                twin = next((n for n in extra
                             if same is None or n.split()[same] == name.split()[same]), None)
                if twin:
                    missed.remove(name)
                    extra.remove(twin)
                    yield name, twin, condition["labels"]


def confusion(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return which colour and which shape was taken for which, over several scores.

    ``colour`` and ``shape`` are square tables of all objects asked for: a row for what was
    asked, a column for what was seen. Missed ones are counted by kind: ``bound`` in the colour
    of another object asked for in the image, ``alien`` in a colour that was not asked for,
    both in the right shape; ``reshaped`` in the right colour and another shape; ``other`` in
    another colour and shape.
    """
    colour, shape = (np.zeros((len(names),) * 2, int) for names in (COLOURS, SHAPES))
    counts = {"bound": 0, "alien": 0, "reshaped": 0, "other": 0}
    for scored in scores:
        for condition in scored["conditions"]:
            for name in set(condition["labels"]) & set(condition["predicted"]):
                c, s = name.split()
                colour[COLOURS.index(c), COLOURS.index(c)] += 1
                shape[SHAPES.index(s), SHAPES.index(s)] += 1
        for name, seen, labels in missed_pairs(scored):
            (c, s), (other_c, other_s) = name.split(), seen.split()
            colour[COLOURS.index(c), COLOURS.index(other_c)] += 1
            shape[SHAPES.index(s), SHAPES.index(other_s)] += 1
            asked = {label.split()[0] for label in labels if label != name}
            counts["reshaped" if c == other_c else "other" if s != other_s else
                   "bound" if other_c in asked else "alien"] += 1
    return {"colour": colour.tolist(), "shape": shape.tolist(), **counts}


def nearest(images: torch.Tensor, dataset: IclevrDataset,
            chunk: int = 512) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, for images (N, 3, H, W) in [-1, 1], the nearest item of a data set and how far.

    The distance, float (N,), is the root mean square over pixels and channels in levels of
    255; the item is its index, integers (N,).
    """
    best = torch.full((len(images),), float("inf"))
    index = torch.zeros(len(images), dtype=torch.long)
    for rows in np.array_split(np.arange(len(dataset)), -(-len(dataset) // chunk)):
        others = dataset.batch(rows)[0].flatten(1)
        least, where = torch.cdist(images.flatten(1), others).min(1)
        index = torch.where(least < best, torch.from_numpy(rows)[where], index)
        best = torch.minimum(best, least)
    return index, _levels(best, images[0].numel())


def mean_distance(images: torch.Tensor) -> float:
    """Return the mean distance between two of N >= 2 images, as that of `nearest`."""
    return float(_levels(torch.pdist(images.flatten(1)), images[0].numel()).mean())


def _levels(distance: torch.Tensor, values: int) -> torch.Tensor:
    return distance / values**0.5 * 127.5


def frechet_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the Frechet distance of Gaussians fitted to features (N, d) and (M, d), N, M >= 2.

    ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))`` (Heusel et al. 2017, eq. 6), which
    is biased upwards for few features: compare it only with one of as many.
    """
    means = [x.double().mean(0) for x in (a, b)]
    a, b = ((x.double() - mean) / (len(x) - 1)**0.5 for x, mean in zip((a, b), means, strict=True))
    # With C = A^T A the trace of the root is the sum of the singular values of A B^T, which
    # exists also where fewer features than dimensions make the covariances singular.
    root = torch.linalg.svdvals(a @ b.T).sum()
    return float((means[0] - means[1]).square().sum() + a.square().sum() + b.square().sum()
                 - 2 * root)


def kernel_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the squared maximum mean discrepancy of features (N, d) and (M, d), unbiased.

    The kernel is ``(x . y / d + 1)^3`` (Binkowski et al. 2018). Zero on average for two sets
    of one distribution, and so at times below it. N and M are at least 2.
    """
    a, b = a.double(), b.double()

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x @ y.T / x.shape[1] + 1)**3

    def within(x: torch.Tensor) -> torch.Tensor:
        table = kernel(x, x)
        return (table.sum() - table.trace()) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())
