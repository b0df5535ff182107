"""Pixels of an i-CLEVR-like scene: CLEVR's camera, lamps, ground and rubber.

Camera, lamps, ground and rubber are those of CLEVR's public ``base_scene.blend``, the radius that
of i-CLEVR. Light is linear until the sRGB curve at the end; objects have CLEVR's published colours
(RGB / 255 as linear albedo). Ground coordinates are CLEVR units: x to the right of the camera, y
away from it, the origin where the object at the image centre stands. Light that is reflected more
than once is approximated, by numbers chosen by comparison with frames of Blender's Cycles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from cddpm_core.config.seeds import numpy_generator
from cddpm_core.data.labels import COLOURS, SHAPES
from cddpm_core.scenes.compose import encode, light_rows, over
from cddpm_core.scenes.ground import ambient_light, ground_in_view
from cddpm_core.scenes.lamps import lamp_rows, lamp_samples
from cddpm_core.scenes.light import body_shine, cast_shadow, light_ground, light_patches
from cddpm_core.scenes.shade import shade_object
from cddpm_core.scenes.surfaces import HEIGHT, RADIUS, WIDTH, count_pixels

__all__ = ["HEIGHT", "RADIUS", "WIDTH", "Lighting", "object_box", "project", "render_frames",
           "visible_pixels"]

# Distance behind the origin, height, downward pitch (it looks at the origin; radians), focal
# length (pixels: a 35 mm lens on a 32 mm film).
CAMERA = np.array([9.91546, 5.34366, math.atan2(5.34366, 9.91546), 350.0])
# What reaches an object from the wall, over pi, and the unit vector it comes from.
_WALL = np.array([-0.244, 0.873, 0.423, 0.0272, 0.0272, 0.0270])
_DIRECTIONS = 16  # from which an object's reflected light is computed
_CELL = 2  # side of a shadow cell in pixels


def _curve(size: int = 16384) -> np.ndarray:
    """Return sRGB levels (0 to 255) of linear colours from 0 to 1, and the grain there (size, 2).

    The grain is that of Cycles with 128 samples: its standard deviation in levels.
    """
    x = np.arange(size) / (size - 1)
    level = np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-9) ** (1 / 2.4) - 0.055)
    grain = np.minimum(1.93 * (105 / np.maximum(255 * level, 1)) ** 1.8, 2.0)
    return np.stack([255 * level, grain], axis=1).astype(np.float32)


def _grain(size: int = 262_147) -> np.ndarray:
    """Return standard normal noise (size, 3), its channels correlated by 0.88 as in Cycles."""
    noise = numpy_generator(0, "grain").standard_normal((size, 4), np.float32)
    return math.sqrt(0.88) * noise[:, :1] + math.sqrt(0.12) * noise[:, 1:]


def _ground_patches() -> np.ndarray:
    """Return patches of the ground around an object: x, y and area (96, 3)."""
    edges = RADIUS * np.array([0.2, 0.7, 1.1, 1.5, 2.1, 3.0, 4.5, 7.5, 14.0])
    angles = 2 * np.pi * (np.arange(12) + 0.5) / 12
    rings = []
    for inner, outer in pairwise(edges):
        r = math.sqrt(inner * outer)
        area = np.pi * (outer**2 - inner**2) / len(angles)
        rings.append(np.stack([r * np.cos(angles), r * np.sin(angles), 0 * angles + area], axis=1))
    return np.concatenate(rings)


_CURVE = _curve()
_PATCHES = _ground_patches()
_GRAIN = _grain()
_NO_GRAIN = np.zeros((1, 3), np.float32)


@lru_cache(maxsize=1)
def _ground() -> tuple[np.ndarray, ...]:
    """Return the ground's points and normals in the cells (rows, columns, 3), and its ambient."""
    in_view = (*ground_in_view(CAMERA), ambient_light())
    return tuple(
        each.reshape(HEIGHT // _CELL, _CELL, WIDTH // _CELL, _CELL, -1).mean((1, 3)).squeeze()
        for each in in_view)


class Lighting:
    """The lamps of a scene, and the light of each on the empty ground, in cells of 2x2 pixels.

    ``lamp_shift`` (3, 3) moves the key, fill and back lamp along Blender's axes, in CLEVR units.
    """

    def __init__(self, lamp_shift: np.ndarray | float = 0.0) -> None:
        self.points, normals, self.ambient = _ground()
        self.lamps = lamp_rows(lamp_shift)
        self.samples = lamp_samples(self.lamps)
        self.gains = np.empty((*self.points.shape[:2], len(self.lamps)), np.float32)
        light_ground(self.points, normals, self.lamps, self.gains)
        self.colours = self.lamps[:, 7:].astype(np.float32)


@lru_cache(maxsize=1)
def _standard_lighting() -> Lighting:
    return Lighting()


def project(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the image points ``(u, v)`` in pixels at 320x240 of points above the ground."""
    back, height, pitch, focal = CAMERA
    y, z = y + back, z - height
    depth = y * math.cos(pitch) - z * math.sin(pitch)
    up = z * math.cos(pitch) + y * math.sin(pitch)
    return WIDTH / 2 + focal * x / depth, HEIGHT / 2 - focal * up / depth


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


def _bodies(objects: Sequence[tuple[str, float, float, float]]) -> np.ndarray:
    """Return objects as rows of `surfaces`: shape, x, y, cosine and sine of rotation (k, 5)."""
    rows = [(SHAPES.index(name.split()[1]), x, y, math.cos(rotation), math.sin(rotation))
            for name, x, y, rotation in objects]
    return np.array(rows, np.float64).reshape(-1, 5)


def render_frames(objects: Sequence[tuple[str, float, float, float]], *, first: int | None = None,
                  lighting: Lighting | None = None,
                  grain: np.random.Generator | None = None) -> np.ndarray:
    """Return ``(k, 240, 320, 3)`` uint8 sRGB frames; frame i shows the first ``first + i`` objects.

    An object is (name, x, y, rotation in radians). By default only the frame with all of them is
    rendered. ``grain`` adds the noise of a path tracer with 128 samples per pixel.
    """
    light = lighting or _standard_lighting()
    first = len(objects) if first is None else first
    frames = np.empty((len(objects) - first + 1, HEIGHT, WIDTH, 3), np.uint8)
    cells = np.ones((*light.points.shape[:2], len(light.lamps) + 4), np.float32)
    cells[..., -3:] = 0.0
    ground = np.empty((HEIGHT, WIDTH, 3), np.float32)
    light_rows(light.gains, light.colours, light.ambient, cells, 0, HEIGHT, ground)
    bodies = _bodies(objects)
    layers: list[tuple] = []
    for count in range(len(objects) + 1):
        if count:
            present, body = bodies[:count], bodies[count - 1 : count]
            shaded = [k for k in range(count - 1) if _shades(body[0], bodies[k], light.lamps)]
            layers.append(())
            for k in [*shaded, count - 1]:
                albedo = np.array(COLOURS[objects[k][0].split()[0]]) / 255.0
                layers[k], patches = _shade(k, present, albedo, light)
            shine = np.empty((_DIRECTIONS, 3))
            body_shine(body, albedo, light.lamps, patches, shine)
            top, bottom = cast_shadow(body, light.points, light.lamps, light.samples, shine, cells)
            light_rows(light.gains, light.colours, light.ambient, cells,
                       _CELL * (top - 1), _CELL * (bottom + 2), ground)
        if count >= first:
            linear = ground.copy()
            for _, box, layer in sorted(layers, key=lambda entry: -entry[0]):
                over(layer, box, linear)
            start = grain.integers(len(_GRAIN)) if grain else 0
            encode(linear, _CURVE, _GRAIN if grain else _NO_GRAIN, start, frames[count - first])
    return frames


def _shade(number: int, bodies: np.ndarray, albedo: np.ndarray, light: Lighting) -> tuple:
    """Return a body's distance from the camera, its box and its layer; and the ground's patches."""
    shape, x, y = bodies[number, :3]
    patches = np.empty((len(_PATCHES), 6))
    ambient = light.ambient[len(light.ambient) // 2].mean()
    light_patches(number, bodies, light.lamps, light.samples, ambient, _PATCHES, patches)
    box = _box(int(shape), x, y)
    layer = np.empty((box[3] - box[1], box[2] - box[0], 4), np.float32)
    shade_object(number, bodies, albedo, CAMERA, light.lamps, light.samples, patches, _WALL,
                 box, layer)
    return (math.hypot(x, y + CAMERA[0]), box, layer), patches


def _shades(body: np.ndarray, other: np.ndarray, lamps: np.ndarray) -> bool:
    """Return whether ``body`` may stand between a lamp and the ``other``."""
    away = lamps[:, :3] - [other[1], other[2], RADIUS]
    length = np.linalg.norm(away, axis=1)
    beside = np.array([body[1] - other[1], body[2] - other[2], 0.0])
    along = away @ beside / length
    apart = np.sqrt(np.maximum(beside @ beside - along**2, 0.0))
    reach = 2 * 1.5 * RADIUS + 0.71 * lamps[:, 6] * along / length
    return bool(np.any((along > 0) & (apart < reach)))


def visible_pixels(objects: Sequence[tuple[str, float, float, float]]
                   ) -> tuple[np.ndarray, np.ndarray]:
    """Return how many pixels of each object are visible, and how many would be without the others.

    Both are counts ``(k,)`` at 320x240, estimated on every fourth row and column.
    """
    bodies = _bodies(objects)
    seen, whole = np.zeros(len(bodies), np.int64), np.zeros(len(bodies), np.int64)
    count_pixels(bodies, CAMERA, 4, seen, whole)
    return seen, whole
