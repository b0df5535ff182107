"""Charts of data, noise schedule and scores, in the style of `figures`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from cddpm_core.data.labels import COLOURS, SHAPES
from cddpm_core.report.captions import captioned
from cddpm_core.report.figures import BLUE, GREEN, ORANGE, RED, WIDTH, show_image, styled

if TYPE_CHECKING:
    import torch
    from diffusers import DDPMScheduler

    from cddpm_core.scenes.fitting import Comparison

__all__ = ["accuracy_bars", "comparison_figure", "image_statistics",
           "label_statistics", "schedule_figure"]

GAIN = 8  # of differences between images, to make them visible


@captioned(
    "data_labels",
    "Bar chart of the number of objects in an image, and a table of counts by colour and "
    "shape",
    "Labels of the training images.")
@styled
def label_statistics(conditions: Sequence[Sequence[str]]) -> Figure:
    """Return how many objects an image has, and how often each colour and shape occurs."""
    sizes = Counter(len(names) for names in conditions)
    seen = Counter(name for names in conditions for name in names)
    counts = np.array([[seen[f"{colour} {shape}"] for colour in COLOURS] for shape in SHAPES])
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.1), width_ratios=(1, 2.6))
    bars = left.bar([str(size) for size in sorted(sizes)], [sizes[s] for s in sorted(sizes)],
                    color=BLUE)
    left.bar_label(bars, fontsize=7)
    left.set(title="Objects in an image", xlabel="objects", ylabel="images")
    left.margins(y=0.15)
    right.imshow(counts, cmap="Blues", aspect="auto", vmin=0, vmax=max(1, counts.max()) * 1.4)
    for (row, column), count in np.ndenumerate(counts):
        right.text(column, row, str(count), ha="center", va="center", fontsize=7)
    right.set(title="Images with each object", xticks=range(len(COLOURS)), xticklabels=COLOURS,
              yticks=range(len(SHAPES)), yticklabels=SHAPES)
    right.grid(False)
    return figure


@captioned(
    "data_reference",
    "Real frames above, the same scenes rendered in the middle, their difference below",
    "Real frames, the same scenes rendered by Cycles (if there is such a row) and by this package, "
    "and the amplified difference between the real frames and the package's.")
@styled
def comparison_figure(frames: Sequence[Comparison], by_cycles: Sequence[np.ndarray] = ()) -> Figure:
    """Return real frames, the same scenes rendered here, and their difference times `GAIN`.

    ``by_cycles`` are these scenes rendered by Cycles, shown below the real ones.
    """
    names = ["real", *["by Cycles"] * bool(len(by_cycles)), "rendered", f"difference × {GAIN}"]
    height = len(names) * 0.75 * WIDTH / max(3, len(frames)) + 0.3
    figure, axes = plt.subplots(len(names), len(frames), squeeze=False, figsize=(WIDTH, height))
    for number, (column, frame) in enumerate(zip(axes.T, frames, strict=True)):
        away = np.abs(frame.real.astype(int) - frame.rendered.astype(int)) * GAIN
        rows = (frame.real, *by_cycles[number : number + 1], frame.rendered,
                away.clip(0, 255).astype(np.uint8))
        for axis, picture in zip(column, rows, strict=True):
            show_image(axis, picture)
        column[-1].set_xlabel(f"mean {frame.difference:.1f} of 255\n"
                              f"in boxes {frame.difference_in_boxes:.1f}", fontsize=7)
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(name)
    return figure


@captioned(
    "data_pixels",
    "Mean training image, standard deviation of each pixel, and histogram of the three "
    "channels",
    "Pixel statistics of the training images: the contrast is low.")
@styled
def image_statistics(images: torch.Tensor) -> Figure:
    """Return the mean, the spread and the histogram of (N, 3, H, W) images in [-1, 1]."""
    spread = images.std(0).mean(0).numpy()
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.1), width_ratios=(1, 1.25, 1.6))
    show_image(axes[0], (images.mean(0) + 1) / 2)
    axes[0].set_title("Mean image")
    shown = axes[1].imshow(spread, cmap="magma", interpolation="nearest")
    axes[1].set(title="Standard deviation", xticks=[], yticks=[])
    axes[1].grid(False)
    figure.colorbar(shown, ax=axes[1], fraction=0.05)
    for channel, (name, colour) in enumerate((("red", RED), ("green", GREEN), ("blue", BLUE))):
        density, edges = np.histogram(images[:, channel].numpy(), bins=64, range=(-1, 1),
                                      density=True)
        axes[2].plot((edges[:-1] + edges[1:]) / 2, density, color=colour, label=name)
    axes[2].set(title="Pixel values", xlabel="value in [-1, 1]", ylabel="density", xlim=(-1, 1))
    axes[2].legend()
    return figure


@captioned(
    "schedule",
    "Curves of alpha bar and of the signal-to-noise ratio over the timestep, and a histogram "
    "of the timesteps trained on",
    "The noise schedule: the share of the signal in the variance, the signal-to-noise ratio, and "
    "how often each timestep is trained on.")
@styled
def schedule_figure(schedulers: Mapping[str, DDPMScheduler],
                    timesteps: torch.Tensor | None = None) -> Figure:
    """Return alpha_bar and the signal-to-noise ratio over t for named noise schedules.

    ``timesteps``, integers sampled as in training, adds their histogram.
    """
    from cddpm_core.scheduler.process import alpha_bar, snr  # diffusers loads slowly

    figure, axes = plt.subplots(1, 2 if timesteps is None else 3, figsize=(WIDTH, 2.2))
    for name, scheduler in schedulers.items():
        axes[0].plot(alpha_bar(scheduler).numpy(), label=name)
        axes[1].semilogy(snr(scheduler).clamp(min=1e-12).numpy(), label=name)
    axes[0].set(title=r"$\bar\alpha_t$, share of the signal", xlabel="t")
    axes[1].set(title=r"SNR $=\bar\alpha_t/(1-\bar\alpha_t)$", xlabel="t", ylim=(1e-5, None))
    axes[1].axhline(1, color="0.5", linewidth=0.8, linestyle="-")
    if len(schedulers) > 1:
        axes[0].legend()
    if timesteps is not None:
        T = next(iter(schedulers.values())).config.num_train_timesteps
        axes[2].hist(timesteps.numpy(), np.arange(0, T + 1, max(1, T // 40)), color=BLUE,
                     density=True)
        axes[2].set(title="Training timesteps", xlabel="t", ylabel="density")
    return figure


@captioned(
    "accuracy_bars",
    "Bar charts of the fraction of objects found by colour, shape and number of objects",
    "Fraction of objects found, by colour, shape and number of objects asked for.")
@styled
def accuracy_bars(scores: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Return the fraction of objects found, by colour, shape and number of objects.

    ``scores`` maps a condition file to its score, with ``per_colour``, ``per_shape`` and
    ``per_count``: name -> ``hits`` and ``total``.
    """
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.4), width_ratios=(8, 3.6, 3.2),
                                sharey=True)
    parts = (("per_colour", "By colour"), ("per_shape", "By shape"),
             ("per_count", "By objects asked for"))
    width = 0.8 / len(scores)
    styles = list(zip((BLUE, ORANGE, GREEN, RED), ("", "//", "..", "xx"), strict=True))
    for axis, (part, title) in zip(axes, parts, strict=True):
        names = [name for name in (*COLOURS, *SHAPES, *map(str, range(1, 25)))
                 if any(name in score[part] for score in scores.values())]
        for index, (file, score) in enumerate(scores.items()):
            found = score[part]
            centres = [i + (index - (len(scores) - 1) / 2) * width
                       for i, name in enumerate(names) if name in found]
            heights = [found[n]["hits"] / max(1, found[n]["total"]) for n in names if n in found]
            colour, hatch = styles[index % len(styles)]
            axis.bar(centres, heights, width, label=file, color=colour, hatch=hatch,
                     edgecolor="white", linewidth=0.4)
        axis.set(title=title, xticks=range(len(names)), xticklabels=names, ylim=(0, 1))
        axis.grid(axis="x", visible=False)
    axes[0].tick_params(axis="x", rotation=30)
    axes[0].set_ylabel("fraction of objects found")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center",
                  ncols=len(scores))
    return figure
