"""CLEVR's ground: flat where the objects stand, and curved up to a wall behind them.

Its profile is that of the mesh in CLEVR's public ``base_scene.blend``.
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import PchipInterpolator

from cddpm_core.scenes.surfaces import HEIGHT, WIDTH

__all__ = ["ambient_light", "ground_in_view"]

# The unit vector, on the ground, that points to the wall: x (right of the camera), y (away).
_TO_WALL = np.array([-0.2690, 0.9631])
# Distance along it, and height, in CLEVR units.
_HEIGHT = PchipInterpolator(*np.array([
    [-10.00, 0.000], [-1.06, 0.003], [3.47, 0.025], [6.58, 0.085], [8.70, 0.185],
    [9.79, 0.277], [10.61, 0.377], [11.35, 0.502], [12.01, 0.657], [12.61, 0.844],
    [13.15, 1.069], [13.63, 1.336], [14.07, 1.651], [14.46, 2.018], [14.80, 2.443],
    [15.18, 3.038], [15.45, 3.611], [15.70, 4.263], [15.93, 4.998], [16.14, 5.825],
    [16.37, 6.949], [16.59, 8.227], [16.76, 9.421], [17.13, 12.502], [17.57, 17.053],
    [18.08, 23.135],
]).T)  # fmt: skip
# Radiance from light that the wall reflects, from the top of the image to its bottom.
_REFLECTED = [0.0203, 0.0226, 0.0217, 0.0185, 0.0160, 0.0140, 0.0128, 0.0118, 0.0109, 0.0103,
              0.0099, 0.0094, 0.0092]


def ground_in_view(camera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of the ground that pixels show and their unit normals, (240, 320, 3)."""
    _, height, pitch, focal = camera
    u, v = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    a, b = (u - WIDTH / 2) / focal, (HEIGHT / 2 - v) / focal
    ray = np.stack([a, np.cos(pitch) + b * np.sin(pitch), b * np.cos(pitch) - np.sin(pitch)],
                   axis=-1)
    eye = np.array([0.0, -camera[0], height])
    near, far = np.full(u.shape, 4.0), np.full(u.shape, 60.0)
    for _ in range(30):  # bisection
        middle = (near + far) / 2
        point = eye + middle[..., None] * ray
        above = point[..., 2] > _HEIGHT(point[..., :2] @ _TO_WALL)
        near, far = np.where(above, middle, near), np.where(above, far, middle)
    point = eye + near[..., None] * ray
    slope = _HEIGHT(point[..., :2] @ _TO_WALL, 1)
    normal = np.stack([-slope * _TO_WALL[0], -slope * _TO_WALL[1], np.ones_like(slope)], axis=-1)
    return point, normal / np.linalg.norm(normal, axis=-1, keepdims=True)


def ambient_light() -> np.ndarray:
    """Return the radiance (240, 320) that the empty ground has from light reflected by the wall.

    Fitted to Cycles' render of the ground with all lamps, less the light that comes straight from
    them. Most of it is the sun's, which does not move.
    """
    rows = np.interp(np.arange(HEIGHT) + 0.5, np.linspace(0, HEIGHT, len(_REFLECTED)), _REFLECTED)
    columns = np.linspace(1.03, 0.97, WIDTH)
    return (rows[:, None] * columns).astype(np.float32)
