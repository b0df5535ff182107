"""Charts of data, noise schedule, training and scores, in the style of `figures`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure

from cddpm_core.data.labels import COLOURS, SHAPES
from cddpm_core.report.compare import Group
from cddpm_core.report.figures import BLUE, GREEN, ORANGE, RED, WIDTH, show_image, styled

if TYPE_CHECKING:
    import torch
    from diffusers import DDPMScheduler

    from cddpm_core.scenes.fitting import Comparison

__all__ = ["accuracy_bars", "comparison_figure", "experiment_curves", "image_statistics",
           "label_statistics", "runs_figure", "schedule_figure", "training_curves"]


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


@styled
def comparison_figure(frames: Sequence[Comparison], by_cycles: Sequence[np.ndarray] = (),
                      gain: int = 8) -> Figure:
    """Return real frames, the same scenes rendered here, and their difference times ``gain``.

    ``by_cycles`` are these scenes rendered by Cycles, shown below the real ones.
    """
    names = ["real", *["by Cycles"] * bool(len(by_cycles)), "rendered", f"difference × {gain}"]
    height = len(names) * 0.75 * WIDTH / max(3, len(frames)) + 0.3
    figure, axes = plt.subplots(len(names), len(frames), squeeze=False, figsize=(WIDTH, height))
    for number, (column, frame) in enumerate(zip(axes.T, frames, strict=True)):
        away = np.abs(frame.real.astype(int) - frame.rendered.astype(int)) * gain
        rows = (frame.real, *by_cycles[number : number + 1], frame.rendered,
                away.clip(0, 255).astype(np.uint8))
        for axis, picture in zip(column, rows, strict=True):
            show_image(axis, picture)
        column[-1].set_xlabel(f"mean {frame.difference:.1f} of 255\n"
                              f"in boxes {frame.difference_in_boxes:.1f}", fontsize=7)
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(name)
    return figure


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
    axes[0].set(title=r"$\bar\alpha_t$, fraction of signal", xlabel="t")
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


def _smooth(values: Sequence[float]) -> np.ndarray:
    """The moving average over a twentieth of the values, one for each value."""
    width = max(1, len(values) // 20)
    return np.array([np.mean(values[max(0, i - width):i + 1]) for i in range(len(values))])


def _plot_loss(axis: Any, history: Sequence[Mapping[str, Any]], label: str | None = None) -> None:
    lines = [line for line in history if "loss" in line]
    epochs, losses = [line["epoch"] for line in lines], [line["loss"] for line in lines]
    if lines and label is None:
        axis.plot(epochs, losses, color=BLUE, linestyle="-", alpha=0.3, linewidth=0.8)
    if lines:
        look = {"label": label} if label else {"color": BLUE, "linestyle": "-"}
        axis.plot(epochs, _smooth(losses), marker="o" if len(lines) == 1 else None, **look)
        axis.set_yscale("log")
    axis.set(title="Training loss", xlabel="epoch", ylabel="weighted squared error")


def _plot_accuracy(axis: Any, history: Sequence[Mapping[str, Any]], metric: str,
                   label: str) -> None:
    lines = [line for line in history if "test" in line]
    axis.plot([line["epoch"] for line in lines], [line["test"][metric] for line in lines],
              marker="o", markersize=3, label=label)
    axis.update_datalim([(0, 0)])  # the axis starts at epoch 0 even with a single accuracy
    axis.autoscale_view()
    axis.set(title="Accuracy on test", xlabel="epoch", ylim=(0, 1))


@styled
def training_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Return loss, accuracy and speed over the epochs, from the lines of ``history.jsonl``."""
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.3))
    _plot_loss(axes[0], history)
    for metric in ("micro", "macro"):
        _plot_accuracy(axes[1], history, metric, metric)
    axes[1].legend()
    lines = [line for line in history if "loss" in line]
    axes[2].plot([line["epoch"] for line in lines],
                 [line["images_per_second"] for line in lines],
                 marker="o" if len(lines) == 1 else None)
    axes[2].set(title="Speed", xlabel="epoch", ylabel="images per second", ylim=(0, None))
    return figure


@styled
def experiment_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Return loss and accuracy of up to 16 trainings in the same axes."""
    columns = 4
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.4 + 0.16 * -(-len(histories) // columns)))
    looks = cycler(linestyle=["-", "--", ":", "-."]) * cycler(color=[BLUE, ORANGE, GREEN, RED])
    for axis in axes:
        axis.set_prop_cycle(looks)
    for name, history in histories.items():
        _plot_loss(axes[0], history, name)
        _plot_accuracy(axes[1], history, "micro", name)
    axes[1].set_title("Accuracy on test (micro)")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
    return figure


@styled
def runs_figure(groups: Sequence[Group]) -> Figure:
    """Return the micro accuracies of groups of runs: means, their intervals and each run's.

    A second panel shows the gain of each over the first group, `Group.gain`, if there is any.
    """
    gains = [group.gain(groups[0]) for group in groups]
    panels = 2 if any(gains) else 1
    figure, axes = plt.subplots(1, panels, figsize=(WIDTH, 0.9 + 0.3 * len(groups)), sharey=True,
                                squeeze=False, width_ratios=(3, 2)[:panels])
    axis = axes[0, 0]
    for offset, name, colour in ((-0.16, "test", BLUE), (0.16, "new_test", ORANGE)):
        for row, group in enumerate(groups):
            mean, half = group.micro(name)
            axis.errorbar(mean, row + offset, xerr=half, fmt="o", color=colour, capsize=3,
                          label=name if row == 0 else None)
            values = group.values(name, "micro")
            axis.plot(values, [row + offset] * len(values), ".", color=colour, alpha=0.5, ms=3)
    axis.set(xlabel="micro accuracy", yticks=range(len(groups)),
             yticklabels=[group.name + ("\nguided by the evaluator" if group.guided else "")
                          for group in groups])
    if panels == 2:
        for row, gain in enumerate(gains):
            if gain:
                axes[0, 1].errorbar(gain[0], row, xerr=gain[1], fmt="o", color=GREEN, capsize=3)
        axes[0, 1].axvline(0.0, color="0.5", linewidth=0.8)
        axes[0, 1].set_xlabel("gain over the first, fraction of objects")
    axis.invert_yaxis()
    axis.legend()
    return figure


@styled
def accuracy_bars(scores: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Return the fraction of objects found, by colour, shape and number of objects.

    ``scores`` maps a condition file to its score, with ``per_colour``,
    ``per_shape`` and ``per_count``: name -> ``hits`` and ``total``.
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
