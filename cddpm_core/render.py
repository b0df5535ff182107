"""Pixels of an i-CLEVR-like scene: one camera, three area lamps, matte objects on grey ground.

The model is physical and small. Light is linear until the sRGB curve at the end;
objects have CLEVR's published colours (RGB / 255 as linear albedo). Ground
coordinates are CLEVR units with x to the right of the camera, y away from it and
the image centre's object at the origin. The numbers below were fitted by least
squares: first camera and object positions to the silhouettes in one real scene of
five frames, then lamps and ambient light to the ground and shadows around them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from cddpm_core.labels import COLOURS, SHAPES
from cddpm_core.raytrace import (
    CELL,
    HEIGHT,
    RADIUS,
    WIDTH,
    cast_shadow,
    count_pixels,
    draw_object,
    encode,
    light_ground,
    light_rows,
    over,
)

__all__ = [
    "HEIGHT",
    "RADIUS",
    "RENDERER_VERSION",
    "WIDTH",
    "Stage",
    "object_box",
    "project",
    "render_frames",
    "visible_pixels",
]

RENDERER_VERSION = 3

# Distance behind the origin, height, downward pitch, roll (radians), focal length (pixels:
# CLEVR's 35 mm lens on a 32 mm film).
CAMERA = np.array([11.966, 6.111, 0.470, 0.0020, 350.0])
# One lamp a row: position, the ground point it faces, side of its square, and the radiance it
# gives the ground at unit distance (red, green, blue). Front key, left fill, back.
LAMPS = np.array(
    [
        [2.226, -8.001, 4.173, 0.530, 1.280, 0.447, 6.410, 6.012, 5.057],
        [-6.738, 0.891, 2.361, 0.594, 0.646, 0.529, 1.761, 1.934, 2.433],
        [1.283, 2.490, 5.569, -0.606, 0.691, 1.255, 3.667, 3.708, 3.496],
    ]
)
AMBIENT = np.array([0.1336, 0.1342, 0.1342])
# Albedo of the ground, its mean radiance as objects see it from above, and theirs per unit of
# albedo as the ground sees it.
BOUNCE = np.array([0.810, 0.163, 0.509])
_RGB = {
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}
# Rubber's faint gloss reflects a little of every colour.
ALBEDO = 0.98 * np.array([_RGB[colour] for colour in COLOURS]) / 255.0 + 0.02
_LAMP_GRID = 4  # shadow rays a lamp: this number squared


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


class Stage:
    """Camera, lamps and what they alone decide: each pixel's ground point and its light.

    ``lamp_shift`` ``(3, 3)`` moves the lamps from where they were fitted, in CLEVR units.
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
def _standard_stage() -> Stage:
    return Stage()


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


def object_box(placed: tuple[str, float, float, float]) -> np.ndarray:
    """Return left, top, right, bottom (exclusive) pixels at 320x240 that bound an object."""
    name, x, y, _ = placed
    return _box(SHAPES.index(name.split()[1]), x, y)


def render_frames(
    objects: Sequence[tuple[str, float, float, float]],
    *,
    first: int | None = None,
    stage: Stage | None = None,
) -> np.ndarray:
    """Return ``(k, 240, 320, 3)`` uint8 sRGB frames; frame i shows the first ``first + i`` objects.

    An object is (name, x, y, rotation in radians). By default only the frame with
    all of them is drawn. Objects cast shadows on the ground, not on one another.
    """
    stage = stage or _standard_stage()
    first = len(objects) if first is None else first
    frames = np.empty((len(objects) - first + 1, HEIGHT, WIDTH, 3), np.uint8)
    cells = np.ones((*stage.points.shape[:2], len(stage.lamps) + 4), np.float32)
    cells[..., -3:] = 0.0
    ground = stage.ground.copy()
    layers = []
    for count, (name, x, y, rotation) in enumerate(objects, start=1):
        colour, shape_name = name.split()
        shape, albedo = SHAPES.index(shape_name), ALBEDO[COLOURS.index(colour)]
        top, bottom = cast_shadow(
            shape, albedo, x, y, rotation,
            stage.points, stage.lamps, stage.samples, stage.bounce, cells,
        )  # fmt: skip
        light_rows(
            stage.light, stage.ambient, cells, CELL * (top - 1), CELL * (bottom + 2), ground
        )
        box = _box(shape, x, y)
        layer = np.empty((box[3] - box[1], box[2] - box[0], 4), np.float32)
        draw_object(
            shape, albedo, x, y, rotation,
            stage.camera, stage.lamps, stage.axes, stage.ambient, stage.bounce, box, layer,
        )  # fmt: skip
        layers.append((math.hypot(x, y + stage.camera[0]), box, layer))
        if count >= first:
            linear = ground.copy()
            for _, box, layer in sorted(layers, key=lambda item: -item[0]):
                over(layer, box, linear)
            encode(linear, _CURVE, frames[count - first])
    return frames


def visible_pixels(
    objects: Sequence[tuple[str, float, float, float]],
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many pixels of each object show, and how many would if it stood alone.

    Both are ``(k,)`` counts at 320x240, estimated on every fourth row and column.
    """
    shapes = np.array([SHAPES.index(name.split()[1]) for name, *_ in objects])
    places = np.array([place for _, *place in objects], dtype=np.float64)
    seen, whole = np.zeros(len(objects), np.int64), np.zeros(len(objects), np.int64)
    count_pixels(shapes, places, CAMERA, 4, seen, whole)
    return seen, whole
