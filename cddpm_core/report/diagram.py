"""A diagram of the network, made from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cddpm_core.report.captions import captioned
from cddpm_core.report.figures import BLUE, GREEN, ORANGE, WIDTH, styled

__all__ = ["network_diagram"]

WIDE, HIGH = 2.5, 0.8  # of a box, in the diagram's own units


@captioned(
    "network",
    "Boxes for the levels of the network, down on the left and up on the right, joined by "
    "arrows",
    "The network, from its configuration: rows, columns and channels of each level, with "
    "skips (dashed) and where time, label and objects enter.", "80%")
@styled
def network_diagram(config: Mapping[str, Any]) -> Figure:
    """Return the path of an image through the network: down on the left, up on the right.

    ``config`` is that of a `ClassConditionedUnet`. Boxes give rows × columns × channels and
    the layers of a level; dashed lines are skip connections; the label's objects are green.
    """
    patch, levels = config["patch_size"], len(config["channels"])
    widths = [config["class_emb_size"] // 4 * multiple for multiple in config["channels"]]
    transformer = config["backbone"] == "u_vit"
    tokens = config["conditioning"] == "object_tokens"
    ends = 1 + (patch > 1)  # boxes before the first level, and after the last
    deepest = ends + levels - (1 if transformer else 0)
    figure, axis = plt.subplots(figsize=(WIDTH, 0.75 * (deepest + 2)))

    def size(level: int) -> str:
        side = config["image_size"] // (patch * 2**level)
        return f"{side} × {side}"

    image = f"{config['image_size']} × {config['image_size']} × 3"
    down, up = [f"$x_t$: {image}"], [f"output: {image}"]
    if config.get("refine_channels"):
        up[0] = f"refined with $x_t$: {image}"
    if patch > 1:
        down.append(f"unshuffle by {patch}: {size(0)} × {3 * patch**2}")
        up.append(f"shuffle by {patch}")
    attending = [bool(block) for block in config["blocks"]]
    for level, channels in enumerate(widths[:-1] if transformer else widths):
        about = f"{size(level)} × {channels}" + (", attention" if attending[level] else "")
        layers = config["layers_per_block"]
        down.append(f"{about}\n{layers} residual")
        up.append(f"{about}\n{layers if transformer else layers + 1} residual")
    middle = f"{size(levels - 1)} × {widths[-1]}\n" + (
        f"{config['transformer_blocks']} transformer blocks" if transformer
        else "residual, attention, residual")
    for depth, (left, right) in enumerate(zip(down, up, strict=True)):
        _box(axis, -2.2, -depth, left, BLUE)
        _box(axis, 2.2, -depth, right, BLUE)
        if depth:
            _arrow(axis, (-2.2, 1 - depth - HIGH / 2), (-2.2, HIGH / 2 - depth))
            _arrow(axis, (2.2, HIGH / 2 - depth), (2.2, 1 - depth - HIGH / 2))
        if depth >= ends:
            _arrow(axis, (-2.2 + WIDE / 2, -depth), (2.2 - WIDE / 2, -depth), linestyle="--",
                   color="0.6")
    _box(axis, 0, -deepest, middle, BLUE)
    _arrow(axis, (-2.2, 1 - deepest - HIGH / 2), (-WIDE / 2, -deepest))
    _arrow(axis, (WIDE / 2, -deepest), (2.2, 1 - deepest - HIGH / 2))
    _box(axis, 0, 1, f"$e$ = MLP(sinusoid($t$)) + $Wy + b$: {config['class_emb_size']}\n"
                     "enters every level", ORANGE, wide=1.3 * WIDE)
    if config["layout"]:
        y = 1 - ends
        embedded = f"{size(0)} × {config['class_emb_size'] // 4}"
        _box(axis, 0, y, f"objects at\ntheir positions:\n{embedded}", GREEN, wide=0.4 * WIDE)
        _arrow(axis, (-0.2 * WIDE, y), (-2.2 + WIDE / 2, y), color=GREEN)
    if tokens:
        _box(axis, -2.2, -deepest, f"{widths[-1]} channels for each\nobject of the label", GREEN,
             wide=0.7 * WIDE, dx=-0.9)
        _arrow(axis, (-2.2 - 0.9 + 0.35 * WIDE, -deepest - 0.15), (-WIDE / 2, -deepest - 0.15),
               color=GREEN)
    axis.set(xlim=(-4.1, 3.6), ylim=(-deepest - 0.6, 1.6))
    axis.axis("off")
    return figure


def _box(axis: Axes, x: float, y: float, text: str, colour: str, wide: float = WIDE,
         dx: float = 0.0) -> None:
    axis.text(x + dx, y, text, ha="center", va="center", fontsize=7)
    axis.add_patch(plt.Rectangle((x + dx - wide / 2, y - HIGH / 2), wide, HIGH, facecolor=colour,
                                 alpha=0.15, edgecolor=colour))


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], **style: Any) -> None:
    axis.annotate("", end, start, arrowprops={"arrowstyle": "->", "linewidth": 1,
                                              "color": "0.2", **style})
