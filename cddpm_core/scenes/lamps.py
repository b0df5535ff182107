"""CLEVR's lamps: where they stand, how they shine, and how they are seen by the ray tracer."""

from __future__ import annotations

import math

import numpy as np

from cddpm_core.scenes.light import GROUND

__all__ = ["LAMPS", "YAW", "lamp_rows", "lamp_samples"]

YAW = 0.85484  # of the camera: the angle from Blender's x axis to x here, radians
# One lamp per row, which faces the origin: position in Blender's axes, side of its square, power
# (W), colour. Key, fill, back.
LAMPS = np.array([
    [6.44671, -2.90517, 4.25840, 0.5, 100.0, 1.0, 0.93231, 0.81666],
    [-4.67112, -4.01360, 3.01122, 0.5, 30.0, 0.76167, 0.81772, 1.0],
    [-1.16850, 2.64602, 5.81574, 1.0, 50.0, 1.0, 1.0, 1.0],
])  # fmt: skip
# The sun: direction, angle across (radians), strength (W per square unit).
_SUN, _SUN_ANGLE, _SUN_STRENGTH = np.array([0.41450, -0.19458, 0.88901]), 0.19934, 0.45
_FAR = 1000.0  # distance of the square that stands for the sun
_LAMP_GRID = 4  # shadow rays per lamp: this number squared


def _to_view(points: np.ndarray) -> np.ndarray:
    """Return points (..., 3) in Blender's axes in the camera's: right, away, up."""
    c, s = math.cos(YAW), math.sin(YAW)
    return points @ np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def lamp_rows(lamp_shift: np.ndarray | float) -> np.ndarray:
    """Return the lamps and the sun as rows of `light`, in the camera's axes."""
    position = _to_view(LAMPS[:, :3] + lamp_shift)
    # Blender's area lamps give a white ground a radiance of power * albedo / (4 pi) / distance^2.
    colour = LAMPS[:, 4:5] * LAMPS[:, 5:] * GROUND / (4 * np.pi)
    sun = _to_view(_SUN)
    position = np.vstack([position, _FAR * sun])
    side = [*LAMPS[:, 3], math.sqrt(np.pi) * _FAR * math.tan(_SUN_ANGLE / 2)]
    colour = np.vstack([colour, np.full(3, _FAR**2 * _SUN_STRENGTH * GROUND / np.pi)])
    facing = -position / np.linalg.norm(position, axis=1, keepdims=True)
    return np.column_stack([position, facing, side, colour])


def lamp_samples(lamps: np.ndarray) -> np.ndarray:
    """Return points (lamps, n, 3) of each lamp's square, its corners first."""
    across = np.cross(lamps[:, 3:6], [0.0, 0.0, 1.0])
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)
    axes = np.stack([across, np.cross(lamps[:, 3:6], across)], axis=1)
    grid = (np.arange(_LAMP_GRID) + 0.5) / _LAMP_GRID - 0.5
    plane = np.stack([g.ravel() for g in np.meshgrid(grid, grid)])
    plane = plane[:, np.argsort(-np.abs(plane).sum(0), kind="stable")]
    return lamps[:, None, :3] + lamps[:, 6, None, None] * np.einsum("ks,lkd->lsd", plane, axes)
