"""The shapes' surfaces and camera rays, compiled.

Units are those of `render`: CLEVR units, radians, and pixels at 320x240. A shape is its index in
`data.labels.SHAPES`; ``bodies`` (k, 5) are objects: shape, x, y, cosine and sine of the rotation.
Functions write into the arrays that come last.
"""

from __future__ import annotations

import math

import numpy as np

from cddpm_core.scenes.compiled import compiled

__all__ = ["BOUND", "HEIGHT", "RADIUS", "WIDTH", "count_pixels", "crossing", "march", "pixel_ray",
           "surface_gap"]

WIDTH, HEIGHT = 320, 240
RADIUS = 0.58  # half the height of all shapes
BOUND = np.array([1.7321, 1.0, 1.4143])  # radius of the bounding sphere over RADIUS
_CUBE, _SPHERE, _CYLINDER = 0, 1, 2
_BEVEL = np.array([0.25, 0.0, 0.0464]) * RADIUS  # radius of the rounded edges


@compiled
def pixel_ray(camera, u, v):
    """Unit direction of the camera ray through image point ``(u, v)``."""
    pitch, focal = camera[2], camera[3]
    a, b = (u - WIDTH / 2) / focal, (HEIGHT / 2 - v) / focal
    y = math.cos(pitch) + b * math.sin(pitch)
    z = b * math.cos(pitch) - math.sin(pitch)
    norm = 1.0 / math.sqrt(a * a + y * y + z * z)
    return a * norm, y * norm, z * norm


@compiled
def surface_gap(shape, x, y, z):
    """Distance (a lower bound) of ``(x, y, z)`` to the surface, and a vector along its normal."""
    z -= RADIUS
    if shape == _SPHERE:
        return math.sqrt(x * x + y * y + z * z) - RADIUS, x, y, z
    core = RADIUS - _BEVEL[shape]
    dz = max(abs(z) - core, 0.0)
    if shape == _CUBE:  # its edges are rounded by the norm with exponent 3
        dx, dy = max(abs(x) - core, 0.0), max(abs(y) - core, 0.0)
        gap = (dx * dx * dx + dy * dy * dy + dz * dz * dz) ** (1 / 3) - _BEVEL[shape]
        return gap, math.copysign(dx * dx, x), math.copysign(dy * dy, y), math.copysign(dz * dz, z)
    rho = math.sqrt(x * x + y * y)
    out = max(rho - core, 0.0)
    gap = math.sqrt(out * out + dz * dz) - _BEVEL[shape]
    out /= max(rho, 1e-9)
    return gap, x * out, y * out, math.copysign(dz, z)


@compiled
def crossing(shape, ox, oy, oz, dx, dy, dz):
    """Where a ray enters and leaves the unbevelled shape, in lengths of ``d``: no hit if in > out.

    ``o`` and ``d`` are in the object's coordinates; no component of ``d`` may be 0.
    """
    z = oz - RADIUS
    low, high = -1e9, 1e9
    if shape != _SPHERE:
        a, b = (-RADIUS - z) / dz, (RADIUS - z) / dz
        low, high = min(a, b), max(a, b)
    if shape == _CUBE:
        a, b = (-RADIUS - ox) / dx, (RADIUS - ox) / dx
        low, high = max(low, min(a, b)), min(high, max(a, b))
        a, b = (-RADIUS - oy) / dy, (RADIUS - oy) / dy
        return max(low, min(a, b)), min(high, max(a, b))
    if shape == _CYLINDER:
        z, dz = 0.0, 0.0
    square = dx * dx + dy * dy + dz * dz
    b = (ox * dx + oy * dy + z * dz) / square
    inside = b * b - (ox * ox + oy * oy + z * z - RADIUS * RADIUS) / square
    if inside <= 0.0:
        return 1.0, 0.0
    root = math.sqrt(inside)
    return max(low, -b - root), min(high, -b + root)


@compiled
def march(shape, ox, oy, oz, dx, dy, dz):
    """Distance along a unit ray in the object's coordinates to its surface, or -1."""
    t, end = crossing(shape, ox, oy, oz, dx, dy, dz)
    if t > end:
        return -1.0
    if shape == _SPHERE:
        return t
    for _ in range(32):
        gap, _, _, _ = surface_gap(shape, ox + t * dx, oy + t * dy, oz + t * dz)
        if gap < 1e-3:
            return t
        t += gap
        if t > end:
            return -1.0
    return -1.0


@compiled
def count_pixels(bodies, camera, step, seen, whole):
    """Add up each body's visible pixels, and those it would have alone, on every step-th row
    and column."""
    for v in range(step // 2, HEIGHT, step):
        for u in range(step // 2, WIDTH, step):
            gx, gy, gz = pixel_ray(camera, u + 0.5, v + 0.5)
            nearest, owner = 1e9, -1
            for k in range(len(bodies)):
                cos, sin = bodies[k, 3], bodies[k, 4]
                ox, oy = -bodies[k, 1], -camera[0] - bodies[k, 2]
                t = march(
                    int(bodies[k, 0]), cos * ox + sin * oy, cos * oy - sin * ox, camera[1],
                    cos * gx + sin * gy, cos * gy - sin * gx, gz,
                )  # fmt: skip
                if t > 0:
                    whole[k] += step * step
                    if t < nearest:
                        nearest, owner = t, k
            if owner >= 0:
                seen[owner] += step * step
