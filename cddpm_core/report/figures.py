"""The style of all figures, and the figures made of images.

Every function takes arrays, tensors or plain dicts and returns a matplotlib figure of the same
width; only `run_rows` opens files. Colours differ also in print, and are never the only mark.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from cycler import cycler
from matplotlib.figure import Figure
from PIL import Image

from cddpm_core.evaluation.images import rescale
from cddpm_core.report.captions import captioned

__all__ = ["denoising_figure", "grid_figure", "labelled_grid", "marked_grid", "progress_strips",
           "run_rows", "show_image", "show_row", "step_figure", "styled"]

WIDTH = 7.2
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#007A5A", "#C1272D"
STYLE = {
    "figure.constrained_layout.use": True,
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, RED], linestyle=["-", "--", "-.", ":"]),
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Apply the style above, and close the figure so that a notebook shows it only if named."""
    @functools.wraps(draw)
    def wrapped(*args: Any, **options: Any) -> Figure:
        with plt.rc_context(STYLE):
            figure = draw(*args, **options)
        plt.close(figure)
        return figure
    return wrapped


def show_image(axis: Any, image: torch.Tensor | np.ndarray) -> None:
    """Show a (3, H, W) image in [0, 1] or (H, W, 3) uint8 one, pixel by pixel, without axes."""
    if isinstance(image, torch.Tensor):
        image = image.clamp(0, 1).movedim(0, -1).numpy()
    axis.imshow(image, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set_visible(False)


def show_row(axes: Sequence[Any], name: str, images: Iterable[torch.Tensor | np.ndarray],
             **style: Any) -> None:
    """Show images in a row of axes, of which the first is named."""
    for axis, image in zip(axes, images, strict=True):
        show_image(axis, image)
    axes[0].set_ylabel(name, **style)


@captioned(
    "data_examples",
    "Training images of several scenes, with one to three objects",
    "Training images, resized to squares. Each frame of a scene adds an object.")
@captioned(
    "forward",
    "One training image at eight timesteps, from clean to pure noise",
    "The forward process on one training image, in the values the network sees.")
@styled
def grid_figure(images: torch.Tensor, titles: Sequence[str], per_row: int = 8) -> Figure:
    """Return (N, 3, H, W) images in [-1, 1], each with its title underneath."""
    rows = -(-len(images) // per_row)
    lines = max(title.count("\n") + 1 for title in titles)
    side = WIDTH / per_row
    figure, axes = plt.subplots(rows, per_row, squeeze=False,
                                figsize=(WIDTH, rows * (side + 0.13 * lines)))
    for axis in axes.flat[len(images):]:
        axis.set_visible(False)
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        show_image(axis, (image + 1) / 2)
        axis.set_xlabel(title, fontsize=7)
    return figure


@captioned(
    "marked",
    "The 32 images sampled for {file}, each label marked right or wrong",
    "The images of {file} with their labels, those of lowest accuracy first: ✓ found by the "
    "evaluator, ✗ not found.")
def marked_grid(images: torch.Tensor, conditions: Sequence[Mapping[str, Any]]) -> Figure:
    """Return (N, 3, H, W) images in [-1, 1] with each label underneath, marked right or wrong.

    ``conditions`` are those of `score`: N dicts with ``labels``, ``hits`` and ``accuracy``.
    A label that the evaluator found has a green tick, any other a red cross. The conditions
    of lowest accuracy come first; above each is its row in the file, from 0.
    """
    order = sorted(range(len(images)), key=lambda i: (conditions[i]["accuracy"], i))
    return labelled_grid(
        images[order], [f"row {row}" for row in order],
        [[(f"{'✓' if hit else '✗'} {name}", hit) for name, hit in
          zip(conditions[row]["labels"], conditions[row]["hits"], strict=True)] for row in order])


@styled
def labelled_grid(images: torch.Tensor, titles: Sequence[str],
                  labels: Sequence[Sequence[tuple[str, bool | None]]], per_row: int = 8,
                  width: float = WIDTH, heading: str = "") -> Figure:
    """Return (N, 3, H, W) images in [-1, 1] with a title above each and lines of text below.

    ``labels`` has for each image its lines, each with true for green, false for red and bold,
    or None for gray. ``heading`` stands above all.
    """
    starts = range(0, len(images), per_row)
    lines = [max(map(len, labels[start:start + per_row])) for start in starts]
    height = sum(width / per_row + 0.12 * count + 0.16 for count in lines)
    figure, axes = plt.subplots(len(lines), per_row, squeeze=False, figsize=(
        width, height + 0.13 * len(heading.splitlines())))
    if heading:
        figure.suptitle(heading, x=0.005, ha="left", fontsize=7)
    for axis in axes.flat[len(images):]:
        axis.set_visible(False)
    for number, (axis, image, title, below) in enumerate(
            zip(axes.flat, images, titles, labels, strict=False)):
        show_image(axis, (image + 1) / 2)
        axis.set_title(title, fontsize=6, pad=2)
        # An empty label of the right height reserves space for the marked ones.
        axis.set_xlabel("\n" * (lines[number // per_row] - 1), fontsize=6.5, labelpad=1)
        for line, (text, right) in enumerate(below):
            axis.annotate(text, (0, 0), (0, -8.2 * line - 3), xycoords="axes fraction",
                          textcoords="offset points", va="top", fontsize=6.3,
                          color={True: GREEN, False: RED, None: "0.35"}[right],
                          annotation_clip=False, weight="bold" if right is False else "normal",
                          ).set_in_layout(False)
    return figure


@captioned(
    "progress",
    "The first eight images of test.json at several epochs",
    "The first eight conditions of test.json during training, sampled from the same seeds.")
@styled
def progress_strips(grids: Mapping[str, Image.Image]) -> Figure:
    """Return the first row of named grids made by `grid_image`, one below the other."""
    figure, axes = plt.subplots(len(grids), 1, squeeze=False,
                                figsize=(WIDTH, len(grids) * (WIDTH / 8 + 0.06)))
    for line, (name, grid) in zip(axes, grids.items(), strict=True):
        show_row(line, name, [np.asarray(grid.crop((0, 0, grid.width, grid.width // 8)))])
    return figure


@captioned(
    "runs_images",
    "The first eight images of test.json, one row per run",
    "The first eight conditions of test.json for {rows}; of several seeds, the first one is shown.")
@styled
def run_rows(folders: Mapping[str, Path], count: int = 8) -> Figure:
    """Return the images ``0.png``, ``1.png``, ... of named folders, a row a folder."""
    figure, axes = plt.subplots(len(folders), count, squeeze=False,
                                figsize=(WIDTH, len(folders) * (WIDTH / count + 0.06)))
    for line, (name, folder) in zip(axes, folders.items(), strict=True):
        pictures = [np.asarray(Image.open(folder / f"{index}.png").convert("RGB"))
                    for index in range(count)]
        show_row(line, name, pictures, fontsize=6.5)
    return figure


@captioned(
    "normalised",
    "Sampler state and predicted image at {moments} timesteps from noise to image, normalised",
    "Denoising of {condition}, normalised: $x_t$ above, predicted $x_0$ below.", "wide")
@captioned(
    "denormalised",
    "Sampler state and predicted image at {moments} timesteps from noise to image, "
    "denormalised",
    "Denoising of {condition}, denormalised: $x_t$ above, predicted $x_0$ below.", "wide")
@styled
def denoising_figure(rows: Mapping[str, torch.Tensor], timesteps: Sequence[int]) -> Figure:
    """Return named trajectories, each (M, 3, H, W) in [0, 1], at most twelve moments a line.

    ``timesteps`` are the M moments; -1 stands for the finished image.
    """
    per_row, wide = min(12, len(timesteps)), 1.5 * WIDTH
    blocks = [range(start, min(start + per_row, len(timesteps)))
              for start in range(0, len(timesteps), per_row)]
    figure, axes = plt.subplots(len(blocks) * len(rows), per_row, squeeze=False, figsize=(
        wide, len(blocks) * (len(rows) * wide / per_row + 0.2)))
    for axis in axes[-len(rows):, len(blocks[-1]):].flat:
        axis.set_visible(False)
    for block, moments in enumerate(blocks):
        for row, (name, trajectory) in enumerate(rows.items()):
            line = axes[block * len(rows) + row][:len(moments)]
            show_row(line, name, [trajectory[moment] for moment in moments])
            if row == 0:
                for axis, t in zip(line, timesteps[moments.start:], strict=False):
                    axis.set_title("image" if t < 0 else f"t = {t}", fontsize=8)
    return figure


@captioned(
    "step",
    "Clean and noisy images, prediction and squared error at four timesteps",
    "One training step at four timesteps: clean image, noise, noisy image, the prediction of "
    "the trained network, and its squared error with the weight of that timestep in the "
    "loss.", "70%")
@styled
def step_figure(x_0: torch.Tensor, epsilon: torch.Tensor, x_t: torch.Tensor,
                prediction: torch.Tensor, wanted: torch.Tensor, timesteps: Sequence[int],
                weights: Sequence[float]) -> Figure:
    """Return one training step taken apart, a column for each of N timesteps.

    Args:
        x_0, epsilon, x_t: clean images, noise and noisy images, (N, 3, H, W), in the values
            that the network sees.
        prediction, wanted: the output of the network and its target, (N, 3, H, W).
        timesteps, weights: N timesteps and the N weights of their errors in the loss.
    """
    errors = (prediction - wanted).square().mean(1)
    rows = {"$x_0$": x_0, r"$\epsilon$": epsilon, "$x_t$": x_t, "prediction": prediction}
    side = 0.9 * WIDTH / len(timesteps)
    figure, axes = plt.subplots(len(rows) + 1, len(timesteps), squeeze=False,
                                figsize=(WIDTH, (len(rows) + 1) * side + 0.6))
    for line, (name, images) in zip(axes, rows.items(), strict=False):
        show_row(line, name, rescale(images))
    for axis, t in zip(axes[0], timesteps, strict=True):
        axis.set_title(f"t = {t}")
    axes[-1, 0].set_ylabel("squared error")
    for axis, error, weight in zip(axes[-1], errors, weights, strict=True):
        # A scale of its own for each: the errors differ by orders of magnitude.
        axis.imshow(error.numpy(), cmap="magma", interpolation="nearest")
        axis.set(xticks=[], yticks=[], xlabel=f"mean {error.mean():.2g}\nweight {weight:.2g}")
        axis.grid(False)
    return figure
