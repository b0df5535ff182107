"""Charts of trainings: one over its epochs, several over each other, and their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure

from cddpm_core.report.captions import captioned
from cddpm_core.report.compare import Group
from cddpm_core.report.figures import BLUE, GREEN, ORANGE, RED, WIDTH, styled

__all__ = ["experiment_curves", "runs_figure", "training_curves"]


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


def _plot_accuracy(axis: Any, history: Sequence[Mapping[str, Any]], label: str) -> None:
    lines = [line for line in history if "test" in line]
    axis.plot([line["epoch"] for line in lines], [line["test"]["micro"] for line in lines],
              marker="o", markersize=3, label=label)
    axis.update_datalim([(0, 0)])  # the axis starts at epoch 0 even with a single accuracy
    axis.autoscale_view()
    axis.set(title="Accuracy on test (micro)", xlabel="epoch", ylim=(0, 1))


@captioned(
    "training_curves",
    "Training loss and images per second over the epochs, accuracy and sharpness over the time",
    "Training loss (faint: as logged; bold: moving average); accuracy on test.json of the weights "
    "that are kept, and sharpness of these images relative to training images with as many "
    "objects, against the time spent on training steps; speed.")
@styled
def training_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Return loss, accuracy, sharpness and speed, from the lines of ``history.jsonl``."""
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.3))
    _plot_loss(axes[0], history)
    lines = [line for line in history if "test" in line]
    for metric in ("micro", "macro", "sharpness"):
        axes[1].plot([line["seconds"] / 60 for line in lines if metric in line["test"]],
                     [line["test"][metric] for line in lines if metric in line["test"]],
                     marker="o", markersize=3, label=metric)
    axes[1].set(title="Accuracy and sharpness on test", xlabel="minutes of training",
                xlim=(0, None), ylim=(0, None))
    axes[1].legend()
    lines = [line for line in history if "loss" in line]
    axes[2].plot([line["epoch"] for line in lines],
                 [line["images_per_second"] for line in lines],
                 marker="o" if len(lines) == 1 else None)
    axes[2].set(title="Speed", xlabel="epoch", ylabel="images per second", ylim=(0, None))
    return figure


@captioned(
    "timesteps_curves",
    "Training loss and accuracy of both variants over the epochs",
    "Training loss and accuracy of both variants.")
@captioned(
    "runs_curves",
    "Training loss and accuracy of several runs in the same axes",
    "Training loss and accuracy on test.json for {rows}; of several seeds, the first one is shown. "
    "Losses of different objectives are different quantities.")
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
        _plot_accuracy(axes[1], history, name)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
    return figure


@captioned(
    "runs",
    "Mean micro accuracies of the runs of the table with their intervals",
    "Mean micro accuracies with 95 % intervals over seeds; small dots are single runs. "
    "Beside them, if there are others with the same seeds, the gain over the first row, with "
    "95 % intervals over conditions.")
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
            mean, half = group.accuracy(name)
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
