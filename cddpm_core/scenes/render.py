"""Pixels of an i-CLEVR-like scene: one camera, three area lamps, matte objects on grey ground.

Light is linear until the sRGB curve at the end; objects have CLEVR's published colours (RGB / 255
as linear albedo). Ground coordinates are CLEVR units: x to the right of the camera, y away from
it, the origin where the object at the image centre stands. The numbers below were fitted by least
squares to one real scene of five frames: first camera and object positions to the silhouettes,
then lamps and ambient light to the ground and the shadows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from cddpm_core.data.labels import COLOURS, SHAPES
from cddpm_core.scenes.compose import encode, light_rows, over
from cddpm_core.scenes.raytrace import (
    CELL,
    HEIGHT,
    RADIUS,
    WIDTH,
    cast_shadow,
    count_pixels,
    light_ground,
    shade_object,
)

__all__ = ["HEIGHT", "RADIUS", "WIDTH", "Lighting", "object_box", "project", "render_frames",
           "visible_pixels"]

# Distance behind the origin, height, downward pitch, roll (radians), focal length (pixels:
# CLEVR's 35 mm lens on a 32 mm film).
CAMERA = np.array([11.966, 6.111, 0.470, 0.0020, 350.0])
# One lamp per row: position, the ground point it faces, side of its square, and the radiance of
# the ground at unit distance (red, green, blue). Front key, left fill, back.
LAMPS = np.array(
    [
        [2.226, -8.001, 4.173, 0.530, 1.280, 0.447, 6.410, 6.012, 5.057],
        [-6.738, 0.891, 2.361, 0.594, 0.646, 0.529, 1.761, 1.934, 2.433],
        [1.283, 2.490, 5.569, -0.606, 0.691, 1.255, 3.667, 3.708, 3.496],
    ]
)
AMBIENT = np.array([0.1336, 0.1342, 0.1342])
# Albedo of the ground, its mean radiance seen from an object, and the radiance of an object seen
# from the ground per unit of its albedo.
BOUNCE = np.array([0.810, 0.163, 0.509])
# Rubber's faint gloss reflects a little of every colour.
_ALBEDO = {colour: 0.98 * np.array(rgb) / 255.0 + 0.02 for colour, rgb in COLOURS.items()}
_LAMP_GRID = 4  # shadow rays per lamp: this number squared


def _srgb_curve(size: int = 16384) -> np.ndarray:
    x = np.arange(size) / (size - 1)
    y = np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-9) ** (1 / 2.4) - 0.055)
    return np.rint(255 * y).astype(np.uint8)


_CURVE = _srgb_curve()


def _lamp_axes(lamps: np.ndarray) -> np.ndarray:
    """Return, for each lamp, the unit vectors of its facing and of its square's sides."""
    facing = np.concatenate([lamps[:, 3:5] - lamps[:, :2], -lamps[:, 2:3]], axis=1)
    facing /= np.linalg.norm(facing, axis=1, keepdims=True)
    side = np.cross(facing, [0.0, 0.0, 1.0])
    side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-9)
    return np.stack([facing, side, np.cross(facing, side)], axis=1)


class Lighting:
    """Camera and lamps, and what depends on them alone: the light on the empty ground.

    ``lamp_shift`` (3, 3) moves the lamps from their fitted positions, in CLEVR units.
    """

    def __init__(self, lamp_shift: np.ndarray | float = 0.0) -> None:
        lamps = LAMPS.copy()
        lamps[:, :3] += lamp_shift
        self.camera, self.lamps, self.ambient, self.bounce = CAMERA, lamps, AMBIENT, BOUNCE
        self.axes = _lamp_axes(lamps)
        grid = (np.arange(_LAMP_GRID) + 0.5) / _LAMP_GRID - 0.5
        a, b = np.meshgrid(grid, grid)
        plane = np.stack([a.ravel(), b.ravel()])
        self.samples = lamps[:, None, :3] + lamps[:, 5, None, None] * np.einsum(
            "ks,lkd->lsd", plane, self.axes[:, 1:]
        )
        self.points = np.empty((HEIGHT // CELL, WIDTH // CELL, 2), np.float32)
        self.light = np.empty((HEIGHT, WIDTH, len(lamps), 3), np.float32)
        light_ground(CAMERA, lamps, self.axes, self.points, self.light)
        self.ground = self.light.sum(2) + AMBIENT.astype(np.float32)


@lru_cache(maxsize=1)
def _standard_lighting() -> Lighting:
    return Lighting()


def project(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the image points ``(u, v)`` in pixels at 320x240 of points above the ground."""
    back, height, pitch, roll, focal = CAMERA
    y, z = y + back, z - height
    depth = y * math.cos(pitch) - z * math.sin(pitch)
    a, b = x / depth, (z * math.cos(pitch) + y * math.sin(pitch)) / depth
    u = WIDTH / 2 + focal * (math.cos(roll) * a + math.sin(roll) * b)
    v = HEIGHT / 2 - focal * (math.cos(roll) * b - math.sin(roll) * a)
    return u, v


def _box(shape: int, x: float, y: float) -> np.ndarray:
    """Return left, top, right, bottom (exclusive) pixels that bound the object in the image."""
    half = RADIUS * (1.4143 if shape == 0 else 1.0)
    u, v = project(*np.meshgrid([x - half, x + half], [y - half, y + half], [0.0, 2 * RADIUS]))
    corners = [u.min() - 1, v.min() - 1, u.max() + 2, v.max() + 2]
    return np.clip(corners, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT]).astype(np.int64)


def object_box(scene_object: tuple[str, float, float, float]) -> np.ndarray:
    """Return left, top, right, bottom (exclusive) pixels at 320x240 that bound an object."""
    name, x, y, _ = scene_object
    return _box(SHAPES.index(name.split()[1]), x, y)


def render_frames(
    objects: Sequence[tuple[str, float, float, float]],
    *,
    first: int | None = None,
    lighting: Lighting | None = None,
) -> np.ndarray:
    """Return ``(k, 240, 320, 3)`` uint8 sRGB frames; frame i shows the first ``first + i`` objects.

    An object is (name, x, y, rotation in radians). By default only the frame with all of them is
    rendered. Objects cast shadows on the ground, not on one another.
    """
    lighting = lighting or _standard_lighting()
    first = len(objects) if first is None else first
    frames = np.empty((len(objects) - first + 1, HEIGHT, WIDTH, 3), np.uint8)
    cells = np.ones((*lighting.points.shape[:2], len(lighting.lamps) + 4), np.float32)
    cells[..., -3:] = 0.0
    ground = lighting.ground.copy()
    layers = []
    for count, (name, x, y, rotation) in enumerate(objects, start=1):
        colour, shape_name = name.split()
        shape, albedo = SHAPES.index(shape_name), _ALBEDO[colour]
        top, bottom = cast_shadow(
            shape, albedo, x, y, rotation,
            lighting.points, lighting.lamps, lighting.samples, lighting.bounce, cells,
        )  # fmt: skip
        light_rows(
            lighting.light, lighting.ambient, cells, CELL * (top - 1), CELL * (bottom + 2), ground
        )
        box = _box(shape, x, y)
        layer = np.empty((box[3] - box[1], box[2] - box[0], 4), np.float32)
        shade_object(
            shape, albedo, x, y, rotation,
            lighting.camera, lighting.lamps, lighting.axes, lighting.ambient, lighting.bounce,
            box, layer,
        )  # fmt: skip
        layers.append((math.hypot(x, y + lighting.camera[0]), box, layer))
        if count >= first:
            linear = ground.copy()
            for _, box, layer in sorted(layers, key=lambda item: -item[0]):
                over(layer, box, linear)
            encode(linear, _CURVE, frames[count - first])
    return frames


def visible_pixels(
    objects: Sequence[tuple[str, float, float, float]],
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many pixels of each object are visible, and how many would be without the others.

    Both are counts ``(k,)`` at 320x240, estimated on every fourth row and column.
    """
    shapes = np.array([SHAPES.index(name.split()[1]) for name, *_ in objects])
    positions = np.array([position for _, *position in objects], dtype=np.float64)
    seen, whole = np.zeros(len(objects), np.int64), np.zeros(len(objects), np.int64)
    count_pixels(shapes, positions, CAMERA, 4, seen, whole)
    return seen, whole
