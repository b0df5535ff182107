"""Fidelity: how close sampled images are to held-out images.

Each image has the number of its scene. Frames of one scene share it, and so does an image that is
sampled for the labels and positions of a frame. Such images are not independent: no figure here
counts a pair of them as chance, and none trains on one of them to judge another.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cddpm_core.config.seeds import numpy_generator, stream_seed, torch_generator
from cddpm_core.data.dataset import IclevrDataset
from cddpm_core.evaluation.evaluator import Evaluator

__all__ = ["LEVELS", "diversity", "expected_sharpness", "fidelity", "kernel_distance",
           "mean_distance", "sharpness", "two_sample", "two_sets"]

LEVELS = 127.5  # of 255, in a unit of images in [-1, 1]
FOLDS = 2  # of the two-sample test
EPOCHS, STEPS, PAIRS = 6, 60, 16  # its training: both at least, with pairs of images in a batch


def two_sets(scenes: Sequence[int], count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of two sets of images without a common scene; whole scenes, at random.

    ``scenes`` has the number of each image's scene. The first set has ``count`` images, at most
    two thirds of all, the second as many of those that are left as there are up to ``count``.
    """
    _, number = np.unique(scenes, return_inverse=True)
    place = numpy_generator(seed, "two sets").permutation(number.max() + 1)
    rows = np.argsort(place[number], kind="stable")
    first, rest = np.split(rows, [min(count, 2 * len(rows) // 3)])
    return first, rest[~np.isin(number[rest], number[first])][:count]


def fidelity(evaluator: Evaluator, sampled: torch.Tensor, renders: torch.Tensor,
             others: torch.Tensor, scenes: Sequence[int], other_scenes: Sequence[int],
             seed: int = 0) -> dict[str, Any]:
    """Return how close ``sampled`` images are to ``renders`` of the same labels and positions.

    ``sharpness`` is the ratio of both, best 1; ``kernel_distance`` is that of the features of
    ``evaluator``, best 0; ``two_sample`` is an accuracy, best .5. Each has the ``value`` and, as
    the ``baseline``, what ``others`` in place of ``sampled`` give: renders of other scenes. Each
    is None with fewer than two scenes. All images are (N, 3, H, W) in [-1, 1].
    """
    found: dict[str, Any] = {name: {"value": None, "baseline": None}
                             for name in ("sharpness", "kernel_distance", "two_sample")}
    features = evaluator.features(renders)
    for key, images, of in (("value", sampled, scenes), ("baseline", others, other_scenes)):
        if min(len(set(scenes)), len(set(of))) < FOLDS:
            continue
        found["sharpness"][key] = sharpness(images) / sharpness(renders)
        found["kernel_distance"][key] = kernel_distance(
            evaluator.features(images), features, of, scenes)
        found["two_sample"][key] = two_sample(images, renders, of, scenes, seed=seed)
    return {"images": len(renders), "baseline_images": len(others), **found}


def diversity(sampled: torch.Tensor, training: torch.Tensor) -> dict[str, float | None]:
    """Return the `mean_distance` of N sampled images over that of all training images.

    All show one label. The ``baseline`` is that of the first N training images. Each is None
    without enough training images: two for the value, 2 N for the baseline. N is at least 2.
    """
    count = len(sampled)
    return {key: mean_distance(images) / mean_distance(training) if len(training) >= least else None
            for key, images, least in (("value", sampled, 2),
                                       ("baseline", training[:count], 2 * count))}


def sharpness(images: torch.Tensor) -> float:
    """Return the 99th percentile of an image's colour gradient, the mean over N images.

    The gradient is taken by central differences; its length is over both axes and the three
    channels, in 8-bit levels (0 to 255) per pixel. Images are (N, 3, H, W) in [-1, 1].
    """
    along_y, along_x = torch.gradient(LEVELS * images, dim=(2, 3))
    length = (along_y.square() + along_x.square()).sum(1).sqrt()
    return float(length.flatten(1).quantile(0.99, dim=1).mean())


def expected_sharpness(dataset: IclevrDataset, conditions: Sequence[Sequence[str]]) -> float:
    """Return the `sharpness` of training images with as many objects as the conditions have.

    Of each number of objects up to 64 images are taken, spaced over the set. Without such
    images of a number those of any number take their place.
    """
    sizes, wanted = np.array([len(c) for c in dataset.conditions]), [len(c) for c in conditions]
    found = {}
    for size in set(wanted):
        rows = np.flatnonzero(sizes == size) if size in sizes else np.arange(len(sizes))
        found[size] = sharpness(dataset.batch(rows[::-(-len(rows) // 64)])[0])
    return float(np.mean([found[size] for size in wanted]))


def mean_distance(images: torch.Tensor) -> float:
    """Return the mean distance between two of N >= 2 images (N, 3, H, W) in [-1, 1].

    A distance is the root mean square over pixels and channels, in levels of 255.
    """
    return float(LEVELS * torch.pdist(images.flatten(1)).mean() / images[0].numel()**0.5)


def kernel_distance(a: torch.Tensor, b: torch.Tensor, scenes_a: Sequence[int],
                    scenes_b: Sequence[int]) -> float:
    """Return the squared maximum mean discrepancy of features (N, d) and (M, d), unbiased.

    The kernel is ``(x . y / d + 1)^3`` (KID, Binkowski et al. 2018) of features that are scaled
    to a root mean square of 1 over ``b``: evaluators differ in scale. Its means are over pairs
    of different scenes. For two samples of one distribution the mean is zero, and single values
    may be negative.
    """
    scale = b.double().square().mean().sqrt()
    a, b = a.double() / scale, b.double() / scale
    of_a, of_b = torch.as_tensor(scenes_a), torch.as_tensor(scenes_b)

    def mean(x: torch.Tensor, y: torch.Tensor, of_x: torch.Tensor, of_y: torch.Tensor) -> Any:
        return ((x @ y.T / x.shape[1] + 1)**3)[of_x[:, None] != of_y].mean()

    return float(mean(a, a, of_a, of_a) + mean(b, b, of_b, of_b) - 2 * mean(a, b, of_a, of_b))


def two_sample(a: torch.Tensor, b: torch.Tensor, scenes_a: Sequence[int],
               scenes_b: Sequence[int], *, seed: int = 0) -> float:
    """Return how well a small network tells images (N, 3, H, W) from others, (M, 3, H, W).

    It is the accuracy on images that it was not trained on, by cross-validation: a classifier
    two-sample test (Lopez-Paz & Oquab 2017); .5 if the sets cannot be told apart. A scene is in
    one fold; each set needs at least two. Images are in [-1, 1].
    """
    generator = torch_generator(seed, "two-sample")
    fold: dict[int, int] = {}
    for scenes in (np.unique(scenes_a), np.unique(scenes_b)):
        for scene in scenes[torch.randperm(len(scenes), generator=generator).numpy()].tolist():
            fold.setdefault(scene, len(fold) % FOLDS)
    of_a, of_b = (torch.tensor([fold[int(scene)] for scene in scenes])
                  for scenes in (scenes_a, scenes_b))
    right = torch.zeros(len(a)), torch.zeros(len(b))
    for held in range(FOLDS):
        tell_apart = _trained(a[of_a != held], b[of_b != held], seed, generator)
        right[0][of_a == held] = (tell_apart(a[of_a == held]) < 0).float()
        right[1][of_b == held] = (tell_apart(b[of_b == held]) > 0).float()
    return float(sum(hits.mean() for hits in right) / 2)


def _trained(a: torch.Tensor, b: torch.Tensor, seed: int, generator: torch.Generator) -> Any:
    """A function that gives images a number, below 0 if they are more like ``a`` than ``b``."""
    # What all images share is subtracted, and images in the same place of both sets, which may
    # have the same labels and positions, are in one batch: so a short training finds what differs.
    mean = torch.cat([a, b]).mean(0)
    scale = max(float((a - mean).std()), 1e-3)

    def prepared(images: torch.Tensor) -> torch.Tensor:
        return ((images - mean) / scale).contiguous(memory_format=torch.channels_last)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "two-sample weights"))
        network = _network().to(memory_format=torch.channels_last).train()
    count = min(len(a), len(b))
    batches = -(-count // PAIRS)
    epochs = max(EPOCHS, -(-STEPS // batches))
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, epochs * batches)
    for _ in range(epochs):
        for rows in torch.randperm(count, generator=generator).split(PAIRS):
            logits = network(prepared(torch.cat([a[rows], b[rows]])))[:, 0]
            targets = torch.arange(2.0).repeat_interleave(len(rows))
            optimizer.zero_grad()
            functional.binary_cross_entropy_with_logits(logits, targets).backward()
            optimizer.step()
            schedule.step()
    network.eval()
    return torch.no_grad()(lambda images: torch.cat(
        [network(prepared(x))[:, 0] for x in images.split(256)]))


def _network() -> nn.Module:
    widths = (3, 24, 48, 64)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                   nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 1))
