"""A frame from the light on the ground, shadow cells and shaded objects, compiled."""

from __future__ import annotations

import numpy as np

from cddpm_core.scenes.compiled import compiled

__all__ = ["encode", "light_rows", "over"]


@compiled
def light_rows(gains, colours, ambient, cells, top, bottom, out):
    """Fill rows ``top`` to ``bottom`` (exclusive) of the ground's linear colour, (H, W, 3).

    For cells of pixels (rows, columns), ``gains`` (.., lamps) times ``colours`` (lamps, 3) is the
    light of each lamp, ``ambient`` that of the surroundings, and ``cells`` (.., lamps + 4) what
    `cast_shadow` makes of them. Their product is interpolated linearly, between rows and columns.
    """
    rows, columns, num_lamps = gains.shape
    cell = out.shape[0] // rows
    line = np.empty((columns, 3), np.float32)
    two = np.empty((2, columns, 3), np.float32)
    filled = -1
    for v in range(max(top, 0), min(bottom, out.shape[0])):
        y = min(max((v + 0.5) / cell - 0.5, 0.0), rows - 1.001)
        j = int(y)
        if j != filled:
            for row in range(2):
                for i in range(columns):
                    sky = ambient[j + row, i] * cells[j + row, i, num_lamps]
                    for c in range(3):
                        light = sky + cells[j + row, i, num_lamps + 1 + c]
                        for k in range(num_lamps):
                            light += colours[k, c] * gains[j + row, i, k] * cells[j + row, i, k]
                        two[row, i, c] = light
            filled = j
        below = np.float32(y - j)
        for i in range(columns):
            for c in range(3):
                line[i, c] = two[0, i, c] + (two[1, i, c] - two[0, i, c]) * below
        for u in range(out.shape[1]):
            x = min(max((u + 0.5) / cell - 0.5, 0.0), columns - 1.001)
            i = int(x)
            right = np.float32(x - i)
            for c in range(3):
                out[v, u, c] = line[i, c] + (line[i + 1, c] - line[i, c]) * right


@compiled
def over(layer, box, out):
    """Composite an object's layer (h, w, 4), premultiplied, over its box of ``out`` (H, W, 3)."""
    for row in range(layer.shape[0]):
        for column in range(layer.shape[1]):
            keep = 1.0 - layer[row, column, 3]
            for c in range(3):
                v, u = box[1] + row, box[0] + column
                out[v, u, c] = out[v, u, c] * keep + layer[row, column, c]


@compiled
def encode(linear, curve, noise, start, out):
    """Fill uint8 ``out`` (H, W, 3) from linear colour by a table, plus ``noise`` (n, 3).

    ``curve`` (entries, 2) has the level of each linear colour from 0 to 1, and the standard
    deviation of the noise there. ``noise`` is read from row ``start`` on, around its end.
    """
    top, n = len(curve) - 1, start
    for v in range(out.shape[0]):
        for u in range(out.shape[1]):
            for c in range(3):
                entry = min(int(linear[v, u, c] * top + 0.5), top)
                level = curve[entry, 0] + curve[entry, 1] * noise[n, c] + 0.5
                out[v, u, c] = min(max(int(level), 0), 255)
            n = n + 1 if n + 1 < len(noise) else 0
