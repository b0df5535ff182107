"""Charts of the analysis and of the sampling experiment, in the style of `figures`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from cycler import cycler
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from cddpm_core.data.labels import COLOURS, SHAPES
from cddpm_core.report.captions import captioned
from cddpm_core.report.figures import BLUE, GREEN, ORANGE, RED, WIDTH, show_row, styled

__all__ = ["confusion_figure", "nearest_figure", "pairs_figure", "quarter_figure",
           "restored_figure", "sampling_figure"]


@captioned(
    "analyse_quarters",
    "Bars of the squared error of the predicted image and of the predicted noise, in four "
    "quarters of the timesteps",
    "Error in each quarter of the timesteps, in the values the network sees.")
@styled
def quarter_figure(quarters: Sequence[Mapping[str, Any]]) -> Figure:
    """Return the errors of `analysis.quarter_errors` as bars, a group for each quarter."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.2), width_ratios=(2, 1))
    centres = np.arange(len(quarters))
    names = ["–".join(map(str, part["timesteps"])) for part in quarters]
    for offset, key, label, colour, hatch in (
            (-0.2, "x_0", "with the condition", BLUE, ""),
            (0.2, "x_0_without_label", "without the condition", ORANGE, "//")):
        if key in quarters[0]:
            axes[0].bar(centres + offset, [part[key] for part in quarters], 0.4, label=label,
                        color=colour, hatch=hatch, edgecolor="white", linewidth=0.4)
    axes[0].set(title="Error of the predicted $x_0$", ylabel="mean squared error")
    axes[0].legend()
    axes[1].bar(centres, [part["epsilon"] for part in quarters], color=BLUE)
    axes[1].set(title=r"Error of the predicted $\epsilon$", yscale="log")
    for axis in axes:
        axis.set(xlabel="timesteps", xticks=centres, xticklabels=names)
        axis.grid(axis="x", visible=False)
    axes[1].tick_params(axis="x", rotation=20)
    return figure


@captioned(
    "analyse_restored",
    "Accuracy of images that were noised up to a timestep and denoised from there",
    "Accuracy of images that were noised up to a timestep and denoised from there with their "
    "labels, and their positions if the network is given any; each point is a new sampling.", "70%")
@styled
def restored_figure(points: Sequence[Mapping[str, Any]]) -> Figure:
    """Return the accuracies of `analysis.reconstruct` against the timestep they started from."""
    figure, axis = plt.subplots(figsize=(0.7 * WIDTH, 2.2))
    timesteps = [point["timestep"] for point in points]
    axis.plot(timesteps, [point["micro"] for point in points], "o-", color=BLUE, markersize=4)
    axis.annotate("original images", (timesteps[0], points[0]["micro"]), (6, 6),
                  textcoords="offset points", fontsize=7)
    axis.set(xlabel="timestep that sampling started from", ylabel="micro accuracy",
             ylim=_range(min(point["micro"] for point in points)))
    return figure


def _range(lowest: float) -> tuple[float, float]:
    """The limits of an axis of accuracies: a tenth below the lowest, and room above 1."""
    return max(0.0, math.floor(10 * lowest - 1) / 10), 1.05


@captioned(
    "analyse_confusion",
    "Tables of the colours and shapes asked for against those the evaluator saw",
    "What was asked for (rows) and what the evaluator saw (columns), over both files.")
@styled
def confusion_figure(found: Mapping[str, Any]) -> Figure:
    """Return both tables of `score.confusion`: rows are asked for, columns are seen."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.9), width_ratios=(8, 4))
    for axis, part, names in zip(axes, ("colour", "shape"), (COLOURS, SHAPES), strict=True):
        counts = np.array(found[part])
        fractions = counts / np.maximum(1, counts.sum(1, keepdims=True))
        axis.imshow(fractions, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, column), count in np.ndenumerate(counts):
            axis.text(column, row, str(count) if count else "", ha="center", va="center",
                      color="white" if fractions[row, column] > 0.6 else "black", fontsize=7)
        axis.set(title=f"By {part}", xlabel="seen", xticks=range(len(names)), xticklabels=names,
                 yticks=range(len(names)), yticklabels=names)
        axis.tick_params(axis="x", rotation=30)
        axis.grid(False)
    axes[0].set_ylabel("asked for")
    return figure


@captioned(
    "analyse_nearest",
    "Eight generated images above the training image nearest to each",
    "Images sampled for the labels of other images, and the training images nearest to them; "
    "below, the distance in levels of 255.")
@styled
def nearest_figure(generated: torch.Tensor, nearest: torch.Tensor,
                   distances: torch.Tensor) -> Figure:
    """Return generated images above their nearest training images, with the distances below.

    Both are (N, 3, H, W) in [-1, 1]; the N distances are in levels of 255.
    """
    figure = _pairs(generated, nearest, "nearest")
    for axis, distance in zip(figure.axes[len(generated):], distances, strict=True):
        axis.set_xlabel(f"{distance:.1f}")
    return figure


@captioned(
    "analyse_pairs",
    "Eight generated images above the images whose labels they were sampled for",
    "Generated images above; below, the images with whose labels (and positions, if the network is "
    "given any) they were sampled. The model chooses light and rotations.")
@styled
def pairs_figure(generated: torch.Tensor, originals: torch.Tensor) -> Figure:
    """Return generated images above others, both (N, 3, H, W) in [-1, 1]."""
    return _pairs(generated, originals, "original")


def _pairs(above: torch.Tensor, below: torch.Tensor, name: str) -> Figure:
    figure, axes = plt.subplots(2, len(above), squeeze=False,
                                figsize=(WIDTH, 2 * WIDTH / len(above) + 0.35))
    show_row(axes[0], "generated", (above + 1) / 2)
    show_row(axes[1], name, (below + 1) / 2)
    return figure


@captioned(
    "sampling_curves",
    "Micro accuracy against seconds per image for each sampler, a panel for each guidance "
    "scale",
    "Accuracy against time, by sampler and guidance; the star is the setting of this run, if "
    "its guidance is among these.")
@styled
def sampling_figure(variants: Sequence[Mapping[str, Any]], own: Mapping[str, Any]) -> Figure:
    """Return accuracy against time for each sampler, a panel for each guidance scale.

    ``variants`` are dicts with ``sampler``, ``num_inference_steps``, ``guidance_scale``,
    ``seconds_per_image`` and ``micro``. The star marks ``own``, the run's own setting, if one
    of the panels has its guidance scale.
    """
    scales = sorted({variant["guidance_scale"] for variant in variants})
    samplers = list(dict.fromkeys(variant["sampler"] for variant in variants))
    columns = min(4, len(scales))
    rows = -(-len(scales) // columns)
    figure, axes = plt.subplots(rows, columns, squeeze=False, sharex=True, sharey=True,
                                figsize=(WIDTH, 2.3 * rows + 0.4))
    kinds = cycler(marker=["o", "s", "^"]) + cycler(linestyle=["-", "--", ":"])
    looks = list(kinds * cycler(color=[BLUE, ORANGE, GREEN, RED]))
    lowest = min([own["micro"], *(variant["micro"] for variant in variants)])
    for axis in axes.flat[len(scales):]:
        axis.set_visible(False)
    for axis, scale in zip(axes.flat, scales, strict=False):
        for sampler, look in zip(samplers, looks, strict=False):
            line = sorted((variant["seconds_per_image"], variant["micro"]) for variant in variants
                          if (variant["sampler"], variant["guidance_scale"]) == (sampler, scale))
            axis.plot(*zip(*line, strict=True), **look, markersize=3, label=sampler)
        if own["guidance_scale"] == scale:
            axis.plot(own["seconds_per_image"], own["micro"], "*", color="black", ms=9)
        axis.set(title=f"guidance {scale:g}", xscale="log", ylim=_range(lowest))
        axis.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), minor_locator=NullLocator(),
                       major_formatter="{x:g}")
    for axis in axes[-1]:
        axis.set_xlabel("seconds per image")
    for axis in axes[:, 0]:
        axis.set_ylabel("micro accuracy")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center",
                  ncols=len(samplers))
    return figure
