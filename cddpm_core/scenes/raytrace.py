"""Ray tracing, compiled by numba: camera rays, the shapes' surfaces, light and shadows.

Units are those of `render`: CLEVR units, radians, and pixels at 320x240. A shape is its index in
`data.labels.SHAPES`. Functions write into the arrays that come last.

A function compiled here is cached on disk with the functions and constants it uses. numba renews
the cache when this file changes, not when another one does: so import no constant or compiled
function from another module.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["CELL", "HEIGHT", "RADIUS", "WIDTH", "cast_shadow", "count_pixels", "light_ground",
           "shade_object"]

WIDTH, HEIGHT = 320, 240
RADIUS = 0.7  # half the height of all shapes
CELL = 2  # side of a shadow cell in pixels
_CUBE, _SPHERE, _CYLINDER = 0, 1, 2
_BEVEL = np.array([0.08, 0.0, 0.03])  # radius of the rounded edges
_BOUND = np.array([1.7321, 1.0, 1.4143])  # radius of the bounding sphere over RADIUS
_RAY_GRID = 2  # camera rays per pixel: this number squared
_jit = njit(cache=True, nogil=True, fastmath=True)


@_jit
def _pixel_ray(camera, u, v):
    """Unit direction of the camera ray through image point ``(u, v)``."""
    pitch, roll, focal = camera[2], camera[3], camera[4]
    a, b = (u - WIDTH / 2) / focal, (HEIGHT / 2 - v) / focal
    a, b = math.cos(roll) * a - math.sin(roll) * b, math.sin(roll) * a + math.cos(roll) * b
    y = math.cos(pitch) + b * math.sin(pitch)
    z = b * math.cos(pitch) - math.sin(pitch)
    norm = 1.0 / math.sqrt(a * a + y * y + z * z)
    return a * norm, y * norm, z * norm


@_jit
def _offset(shape, x, y, z, bevel):
    """Vector to ``(x, y, z)`` from the nearest point of the shape shrunk by its bevel."""
    if shape == _SPHERE:
        return x, y, z - RADIUS
    core = RADIUS - bevel
    z -= RADIUS
    dz = max(abs(z) - core, 0.0) * (1.0 if z > 0 else -1.0)
    if shape == _CUBE:
        dx = max(abs(x) - core, 0.0) * (1.0 if x > 0 else -1.0)
        dy = max(abs(y) - core, 0.0) * (1.0 if y > 0 else -1.0)
        return dx, dy, dz
    rho = math.sqrt(x * x + y * y)
    outside = max(rho - core, 0.0) / max(rho, 1e-9)
    return x * outside, y * outside, dz


@_jit
def _march(shape, ox, oy, oz, dx, dy, dz, bevel):
    """Distance along a unit ray in the object's coordinates to its surface, or -1."""
    bound = RADIUS * _BOUND[shape]
    z = oz - RADIUS
    b = ox * dx + oy * dy + z * dz
    inside = b * b - (ox * ox + oy * oy + z * z - bound * bound)
    if inside <= 0.0:
        return -1.0
    t, end = -b - math.sqrt(inside), -b + math.sqrt(inside)
    if shape == _SPHERE:
        return t
    for _ in range(32):
        vx, vy, vz = _offset(shape, ox + t * dx, oy + t * dy, oz + t * dz, bevel)
        gap = math.sqrt(vx * vx + vy * vy + vz * vz) - bevel
        if gap < 2e-3:
            return t
        t += gap
        if t > end:
            return -1.0
    return -1.0


@_jit
def _blocked(shape, ox, oy, dx, dy, dz):
    """Whether the ray from ground point ``(ox, oy, 0)`` along ``d`` meets the unbevelled shape."""
    if shape == _SPHERE:
        b = ox * dx + oy * dy - RADIUS * dz
        return b < 0 and b * b > (dx * dx + dy * dy + dz * dz) * (ox * ox + oy * oy)
    top = 2 * RADIUS / dz
    if shape == _CYLINDER:
        t = -(ox * dx + oy * dy) / max(dx * dx + dy * dy, 1e-9)
        t = min(max(t, 0.0), top)
        return (ox + t * dx) ** 2 + (oy + t * dy) ** 2 < RADIUS * RADIUS
    ix = 1.0 / (dx if abs(dx) > 1e-9 else 1e-9)
    iy = 1.0 / (dy if abs(dy) > 1e-9 else 1e-9)
    ax, bx = (-RADIUS - ox) * ix, (RADIUS - ox) * ix
    ay, by = (-RADIUS - oy) * iy, (RADIUS - oy) * iy
    return max(min(ax, bx), min(ay, by), 0.0) < min(max(ax, bx), max(ay, by), top)


@_jit
def _lamp_gain(lamps, axes, i, x, y, z, nx, ny, nz):
    """Lamp ``i``'s light per unit of intensity on a surface at a point with a unit normal."""
    lx, ly, lz = lamps[i, 0] - x, lamps[i, 1] - y, lamps[i, 2] - z
    square = lx * lx + ly * ly + lz * lz
    leaving = -(lx * axes[i, 0, 0] + ly * axes[i, 0, 1] + lz * axes[i, 0, 2])
    arriving = lx * nx + ly * ny + lz * nz
    if leaving <= 0 or arriving <= 0:
        return 0.0
    return leaving * arriving / (square * square)


@_jit
def light_ground(camera, lamps, axes, points, light):
    """Fill ``points`` (rows, columns, 2), the ground position that each shadow cell shows, and
    ``light`` (H, W, lamps, 3), the light from each lamp at each pixel's ground position."""
    for v in range(HEIGHT):
        for u in range(WIDTH):
            dx, dy, dz = _pixel_ray(camera, u + 0.5, v + 0.5)
            t = -camera[1] / dz
            x, y = t * dx, t * dy - camera[0]
            for i in range(len(lamps)):
                gain = _lamp_gain(lamps, axes, i, x, y, 0.0, 0.0, 0.0, 1.0)
                for c in range(3):
                    light[v, u, i, c] = gain * lamps[i, 6 + c]
    for v in range(points.shape[0]):
        for u in range(points.shape[1]):
            dx, dy, dz = _pixel_ray(camera, CELL * (u + 0.5), CELL * (v + 0.5))
            t = -camera[1] / dz
            points[v, u, 0], points[v, u, 1] = t * dx, t * dy - camera[0]


@_jit
def cast_shadow(shape, albedo, x, y, rotation, points, lamps, samples, bounce, cells):
    """Add one object's shadow and reflected light to the cells ``(rows, columns, lamps + 4)``.

    The channels are the visible fraction of each lamp and of the sky, which are multiplied, and
    the red, green and blue light that objects reflect, which is added. ``points`` are the cells'
    ground positions, ``samples`` the points of each lamp that shadow rays go to.

    Returns the first and last row of cells that changed.
    """
    cos, sin = math.cos(rotation), math.sin(rotation)
    bound = RADIUS * _BOUND[shape]
    count, num_lamps = samples.shape[1], len(lamps)
    first, last = points.shape[0], 0
    for v in range(points.shape[0]):
        for u in range(points.shape[1]):
            px, py = points[v, u, 0] - x, points[v, u, 1] - y
            square = px * px + py * py
            touched = square < 36.0 * RADIUS * RADIUS
            if touched:
                # The fraction of the sky that a sphere hides from a point on the ground.
                h = square + RADIUS * RADIUS
                hidden = RADIUS**3 / (h * math.sqrt(h))
                cells[v, u, num_lamps] *= 1.0 - hidden
                shine = hidden * (1.0 - hidden) * bounce[0] * bounce[2]  # dark where they touch
                for c in range(3):
                    cells[v, u, num_lamps + 1 + c] += shine * albedo[c]
            for i in range(num_lamps):
                lx, ly, lz = lamps[i, 0] - x - px, lamps[i, 1] - y - py, lamps[i, 2]
                length = math.sqrt(lx * lx + ly * ly + lz * lz)
                along = (RADIUS * lz - px * lx - py * ly) / length
                apart = square + RADIUS * RADIUS - along * along
                reach = bound + 0.7072 * lamps[i, 5] * max(along, 0.0) / length
                if along < -bound or apart > reach * reach:
                    continue
                ox, oy = cos * px + sin * py, cos * py - sin * px
                hits = 0
                for s in range(count):
                    sx, sy = samples[i, s, 0] - x - px, samples[i, s, 1] - y - py
                    dx, dy = cos * sx + sin * sy, cos * sy - sin * sx
                    if _blocked(shape, ox, oy, dx, dy, samples[i, s, 2]):
                        hits += 1
                if hits:
                    touched = True
                    cells[v, u, i] *= 1.0 - hits / count
            if touched:
                first, last = min(first, v), max(last, v)
    return first, last


@_jit
def shade_object(shape, albedo, x, y, rotation, camera, lamps, axes, ambient, bounce, box, layer):
    """Fill ``layer`` (h, w, 4) with one object's premultiplied linear colour and coverage."""
    cos, sin = math.cos(rotation), math.sin(rotation)
    bevel = _BEVEL[shape]
    ox, oy, oz = -x, -camera[0] - y, camera[1]
    ox, oy = cos * ox + sin * oy, cos * oy - sin * ox
    for row in range(layer.shape[0]):
        for column in range(layer.shape[1]):
            red, green, blue, cover = 0.0, 0.0, 0.0, 0.0
            for k in range(_RAY_GRID * _RAY_GRID):
                # Rays spread over 1.5 pixels, the width of Blender's pixel filter.
                u = box[0] + column - 0.25 + 1.5 * (k % _RAY_GRID + 0.5) / _RAY_GRID
                v = box[1] + row - 0.25 + 1.5 * (k // _RAY_GRID + 0.5) / _RAY_GRID
                gx, gy, dz = _pixel_ray(camera, u, v)
                dx, dy = cos * gx + sin * gy, cos * gy - sin * gx
                t = _march(shape, ox, oy, oz, dx, dy, dz, bevel)
                if t < 0:
                    continue
                nx, ny, nz = _offset(shape, ox + t * dx, oy + t * dy, oz + t * dz, bevel)
                norm = 1.0 / max(math.sqrt(nx * nx + ny * ny + nz * nz), 1e-9)
                nx, ny, nz = nx * norm, ny * norm, nz * norm
                nx, ny = cos * nx - sin * ny, sin * nx + cos * ny
                px, py, pz = t * gx, t * gy - camera[0], camera[1] + t * dz
                sky, floor = 0.5 * (1 + nz) / bounce[0], 0.5 * (1 - nz) * bounce[1]
                r, g, b = sky * ambient[0], sky * ambient[1], sky * ambient[2]
                r, g, b = r + floor, g + floor, b + floor
                for i in range(len(lamps)):
                    gain = _lamp_gain(lamps, axes, i, px, py, pz, nx, ny, nz) / bounce[0]
                    r += gain * lamps[i, 6]
                    g += gain * lamps[i, 7]
                    b += gain * lamps[i, 8]
                red, green, blue = red + r, green + g, blue + b
                cover += 1.0
            scale = 1.0 / (_RAY_GRID * _RAY_GRID)
            layer[row, column, 0] = red * scale * albedo[0]
            layer[row, column, 1] = green * scale * albedo[1]
            layer[row, column, 2] = blue * scale * albedo[2]
            layer[row, column, 3] = cover * scale


@_jit
def count_pixels(shapes, positions, camera, step, seen, whole):
    """Add up each object's visible pixels, and those it would have alone, on every step-th row
    and column; ``positions`` (k, 3) are x, y and rotation."""
    for v in range(step // 2, HEIGHT, step):
        for u in range(step // 2, WIDTH, step):
            gx, gy, gz = _pixel_ray(camera, u + 0.5, v + 0.5)
            nearest, owner = 1e9, -1
            for k in range(len(shapes)):
                x, y, rotation = positions[k, 0], positions[k, 1], positions[k, 2]
                cos, sin = math.cos(rotation), math.sin(rotation)
                ox, oy = -x, -camera[0] - y
                t = _march(
                    shapes[k], cos * ox + sin * oy, cos * oy - sin * ox, camera[1],
                    cos * gx + sin * gy, cos * gy - sin * gx, gz, _BEVEL[shapes[k]],
                )  # fmt: skip
                if t > 0:
                    whole[k] += step * step
                    if t < nearest:
                        nearest, owner = t, k
            if owner >= 0:
                seen[owner] += step * step
