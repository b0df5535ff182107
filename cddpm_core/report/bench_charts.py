"""Charts of ``bench.json``: what is faster, which recipe learns sooner, how cost scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from cddpm_core.report.captions import captioned
from cddpm_core.report.figures import BLUE, ORANGE, WIDTH, styled

__all__ = ["bench_figure", "race_figure", "scale_figure"]

VARIED = {"class_emb_size": "width (class_emb_size)", "image_size": "image side",
          "batch_size": "batch size", "num_inference_steps": "sampler steps",
          "sample_batch_size": "batch size"}


@captioned(
    "bench",
    "Bars of how many times faster the second of each pair is",
    "How many times faster the second of each pair is; the marks are the range.")
@styled
def bench_figure(bench: Mapping[str, Any]) -> Figure:
    """Return how many times faster the second variant of each ratio of ``bench.json`` is."""
    parts = [(name, part["ratio"]) for name, part in bench.items()
             if isinstance(part, Mapping) and "ratio" in part]
    figure, axis = plt.subplots(figsize=(WIDTH, 0.6 + 0.4 * len(parts)))
    for row, (_, ratio) in enumerate(parts):
        axis.barh(row, ratio["median"], color=BLUE, height=0.6)
        axis.plot([ratio["min"], ratio["max"]], [row, row], color=ORANGE, marker="|")
        axis.annotate(f"{ratio['median']:.3g} ×", (ratio["max"], row), (4, 0), va="center",
                      textcoords="offset points", fontsize=7)
    axis.set(xscale="log", xlabel="times faster, median and range",
             yticks=range(len(parts)), yticklabels=[name.replace("_", " ") for name, _ in parts])
    axis.axvline(1, color="black", lw=0.6)
    axis.margins(x=0.12)
    axis.invert_yaxis()
    return figure


@captioned(
    "race",
    "Accuracy and sharpness of each recipe against minutes of training",
    "Micro accuracy (left) and sharpness, over that of training images (right), against minutes of "
    "training: the conditions of both files above, single objects below.")
@styled
def race_figure(races: Sequence[Mapping[str, Any]]) -> Figure:
    """Return accuracy and sharpness against minutes, a row for each of `bench.race.run_race`."""
    figure, axes = plt.subplots(len(races), 2, squeeze=False, sharex=True,
                                figsize=(WIDTH, 2.1 * len(races) + 0.3))
    for row, race in zip(axes, races, strict=True):
        for axis, key, label in zip(row, ("micro", "sharpness"), ("micro accuracy", "sharpness"),
                                    strict=True):
            for name, variant in race["variants"].items():
                axis.plot([look["minutes"] for look in variant["looks"]],
                          [look[key] for look in variant["looks"]], "o-", markersize=3,
                          label=name.replace("_", " "))
            axis.set(ylabel=label)
            axis.set_ylim(bottom=0)
        row[0].legend()
    for axis in axes[-1]:
        axis.set(xlabel="minutes of training")
    return figure


@captioned(
    "scale",
    "Milliseconds per image and peak memory against width, image side, batch and sampler "
    "steps",
    "How the cost of training (above) and sampling (below) grows with one thing at a time: "
    "milliseconds per image (circles) and peak memory of the process (squares).")
@styled
def scale_figure(scale: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Return time and memory of training (above) and sampling (below) against each size.

    ``scale`` is what `bench.scale.run_scale` returns.
    """
    panels = {name: list(dict.fromkeys(variant["varied"] for variant in variants))
              for name, variants in scale.items() if variants}
    columns = max(map(len, panels.values()))
    figure, axes = plt.subplots(len(panels), columns, squeeze=False, sharey="row",
                                figsize=(WIDTH, 2.1 * len(panels) + 0.3))
    for row, (name, keys) in zip(axes, panels.items(), strict=True):
        row[0].set_ylabel(f"{name}, ms per image")
        for axis in row[len(keys):]:
            axis.set_visible(False)
        for axis, key in zip(row, keys, strict=False):
            variants = sorted((variant for variant in scale[name] if variant["varied"] == key),
                              key=lambda variant: variant["value"])
            at = [variant["value"] for variant in variants]
            axis.plot(at, [1000 * variant["seconds_per_image"] for variant in variants], "o-",
                      color=BLUE, markersize=3)
            axis.set(xscale="log", yscale="log", xlabel=VARIED[key])
            axis.xaxis.set(major_locator=FixedLocator(at), minor_locator=NullLocator(),
                           major_formatter="{x:g}")
            axis.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), minor_locator=NullLocator(),
                           major_formatter="{x:g}")
            memory = axis.twinx()
            memory.plot(at, [variant["peak_mib"] / 1024 for variant in variants], "s--",
                        color=ORANGE, markersize=3)
            memory.set_ylim(bottom=0)
            memory.grid(False)
            memory.tick_params(axis="y", colors=ORANGE)
        memory.set_ylabel("peak memory, GiB", color=ORANGE)
    return figure
