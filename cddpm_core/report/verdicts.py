"""Agreement of an evaluator with official scores: in the terminal, as Markdown, as a figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from cddpm_core.report.facts import evaluator_phrase
from cddpm_core.report.figures import BLUE, GREEN, ORANGE, RED, styled
from cddpm_core.report.markdown import decimals, escape, table

__all__ = ["agreement_figure", "agreement_lines", "agreement_text"]

HEADER = ("grids", "number", "mean absolute gap", "mean gap", "largest gap", "rank correlation")
MARKERS = [(BLUE, "o"), (ORANGE, "s"), (RED, "^"), (GREEN, "D")]


def agreement_lines(found: Mapping[str, Any]) -> list[str]:
    """Return the `agreement` as lines for the terminal: each grid, the groups, the images."""
    rows = [HEADER, *_groups(found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    return [*(f"{grid['file']}: official {grid['metric']} {grid['official']:.3f}, found "
              f"{grid['score']:.3f} ({grid['gap']:+.3f}); {grid['kind']}, {grid['quality']}"
              for grid in found["grids"]),
            *("  ".join(cell.rjust(width) if column else cell.ljust(width)
                        for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
              for row in rows),
            *(line for line in (_images(found),) if line),
            f"scored by: {evaluator_phrase(found['evaluator'])}"]


def agreement_text(found: Mapping[str, Any] | None) -> str:
    """Return the `agreement` as Markdown: the groups of grids, and the images that differ.

    Without one, the text says how to get it.
    """
    if found is None:
        return ("No folder of grids with official scores is given (parameter `agreement`), so "
                "there is nothing to compare with.\n")
    scorer = escape(evaluator_phrase(found["evaluator"]))
    parts = [table(HEADER, _groups(found), "Score found less official score, by quality of the "
                   "pictures (without models that know the official evaluator) and by kind of "
                   f"model ({scorer}).")]
    images = found["images"]
    if images["compared"]:
        parts += [_images(found) + "\n", table(
            ["grid", "image", "labels", "official hits", "hits", "seen"],
            [[escape(image["file"]), str(image["row"]), ", ".join(image["labels"]),
              str(image["official"]), str(image["hits"]), ", ".join(image["predicted"])]
             for image in images["differ"]],
            f"Images with a different number of hits than the official evaluator ({scorer}).",
            numbers=False)]
    return "\n".join(parts)


@styled
def agreement_figure(found: Mapping[str, Any]) -> Figure:
    """Return the official score of each grid against the score found, by kind of model."""
    figure, axis = plt.subplots(figsize=(4.6, 4.2))
    kinds = list(dict.fromkeys(grid["kind"] for grid in found["grids"]))
    for index, kind in enumerate(kinds):
        grids = [grid for grid in found["grids"] if grid["kind"] == kind]
        colour, marker = MARKERS[index % len(MARKERS)]
        axis.plot([grid["official"] for grid in grids], [grid["score"] for grid in grids], marker,
                  color=colour, markersize=5, alpha=0.8, linestyle="", label=kind)
    low = min(min(grid["official"], grid["score"]) for grid in found["grids"])
    axis.plot([low - 0.03, 1], [low - 0.03, 1], color="0.5", linewidth=0.8, linestyle="-")
    axis.set(xlabel="official score", ylabel="score found", aspect="equal")
    axis.set_title(evaluator_phrase(found["evaluator"]), fontsize=7)
    axis.legend()
    return figure


def _groups(found: Mapping[str, Any]) -> list[list[str]]:
    return [[group["name"], str(group["grids"]), *(
        "–" if group[key] is None else f"{group[key]:+.3f}".replace("-", "−")
        if key == "mean_gap" else decimals(group[key])
        for key in ("mean_absolute_gap", "mean_gap", "largest_gap", "rank_correlation"))]
        for group in found["groups"]]


def _images(found: Mapping[str, Any]) -> str:
    images = found["images"]
    if not images["compared"]:
        return ""
    return (f"{images['same']} of {images['compared']} images "
            f"({images['same'] / images['compared']:.3f}) have the same number of hits as by the "
            "official evaluator.")
