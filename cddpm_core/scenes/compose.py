"""A frame from ground light, shadow cells and shaded objects, compiled by numba.

As in `raytrace`, nothing here may depend on a constant or compiled function of another module:
numba would not notice a change of it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["encode", "light_rows", "over"]

_jit = njit(cache=True, nogil=True, fastmath=True)


@_jit
def light_rows(light, ambient, cells, top, bottom, out):
    """Fill rows ``top`` to ``bottom`` (exclusive) of the ground's linear colour, (H, W, 3).

    The shadow cells are interpolated linearly, first between rows, then between columns.
    """
    rows, columns = cells.shape[0], cells.shape[1]
    cell, num_lamps = out.shape[0] // rows, light.shape[2]
    line = np.empty((columns, num_lamps + 4), np.float32)
    for v in range(max(top, 0), min(bottom, out.shape[0])):
        y = min(max((v + 0.5) / cell - 0.5, 0.0), rows - 1.001)
        j = int(y)
        below = np.float32(y - j)
        for i in range(columns):
            for k in range(num_lamps + 4):
                line[i, k] = cells[j, i, k] + (cells[j + 1, i, k] - cells[j, i, k]) * below
        for u in range(out.shape[1]):
            x = min(max((u + 0.5) / cell - 0.5, 0.0), columns - 1.001)
            i = int(x)
            right = np.float32(x - i)
            for c in range(3):
                sky = line[i, num_lamps] + (line[i + 1, num_lamps] - line[i, num_lamps]) * right
                k = num_lamps + 1 + c
                total = ambient[c] * sky + line[i, k] + (line[i + 1, k] - line[i, k]) * right
                for k in range(num_lamps):
                    visible = line[i, k] + (line[i + 1, k] - line[i, k]) * right
                    total += light[v, u, k, c] * visible
                out[v, u, c] = total


@_jit
def over(layer, box, out):
    """Composite an object's layer (h, w, 4), premultiplied, over its box of ``out`` (H, W, 3)."""
    for row in range(layer.shape[0]):
        for column in range(layer.shape[1]):
            keep = 1.0 - layer[row, column, 3]
            for c in range(3):
                v, u = box[1] + row, box[0] + column
                out[v, u, c] = out[v, u, c] * keep + layer[row, column, c]


@_jit
def encode(linear, curve, out):
    """Fill uint8 ``out`` from linear colour (H, W, 3) by the table of the sRGB curve."""
    top = len(curve) - 1
    for v in range(out.shape[0]):
        for u in range(out.shape[1]):
            for c in range(3):
                out[v, u, c] = curve[min(int(linear[v, u, c] * top + 0.5), top)]
