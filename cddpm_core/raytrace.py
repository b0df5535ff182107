"""The loops over pixels behind `render`, compiled: rays, shadows, light and colour.

All work in the units of `render`, and those it calls write into the array they are given.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["BEVEL", "CELL", "HEIGHT", "RADIUS", "WIDTH", "cast_shadow", "count_pixels",
           "draw_object", "encode", "light_ground", "light_rows", "over"]

WIDTH, HEIGHT = 320, 240
RADIUS = 0.7
BEVEL = np.array([0.08, 0.0, 0.03])
CELL = 2  # pixels a side of a shadow cell
_BOUND = np.array([1.7321, 1.0, 1.4143])  # radius of the bounding sphere over RADIUS
_NUM_LAMPS = 3  # rows of render.LAMPS
_RAY_GRID = 2  # camera rays a pixel: this number squared
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
    if shape == 1:
        return x, y, z - RADIUS
    core = RADIUS - bevel
    z -= RADIUS
    dz = max(abs(z) - core, 0.0) * (1.0 if z > 0 else -1.0)
    if shape == 0:
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
    if shape == 1:
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
    if shape == 1:
        b = ox * dx + oy * dy - RADIUS * dz
        return b < 0 and b * b > (dx * dx + dy * dy + dz * dz) * (ox * ox + oy * oy)
    top = 2 * RADIUS / dz
    if shape == 2:
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
    """Fill the ground point seen by each shadow cell and the light each lamp gives each pixel."""
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
    """Multiply in what one object leaves of each lamp and of the sky; add the light it reflects.

    The channels of a cell are the shares of the lamps, that of the sky, and red, green, blue.

    Returns the first and last row of cells that it touches.
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
                # The share of the sky that a sphere hides from a point on the ground.
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
def draw_object(shape, albedo, x, y, rotation, camera, lamps, axes, ambient, bounce, box, layer):
    """Fill ``layer`` (h, w, 4) with one object's premultiplied linear colour and coverage."""
    cos, sin = math.cos(rotation), math.sin(rotation)
    bevel = BEVEL[shape]
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
def light_rows(light, ambient, cells, top, bottom, out):
    """Fill rows of the ground's linear colour from the shadow cells, interpolating linearly."""
    rows, columns = cells.shape[0], cells.shape[1]
    line = np.empty((columns, _NUM_LAMPS + 4), np.float32)
    for v in range(max(top, 0), min(bottom, HEIGHT)):
        y = min(max((v + 0.5) / CELL - 0.5, 0.0), rows - 1.001)
        j = int(y)
        below = np.float32(y - j)
        for i in range(columns):
            for k in range(_NUM_LAMPS + 4):
                line[i, k] = cells[j, i, k] + (cells[j + 1, i, k] - cells[j, i, k]) * below
        for u in range(WIDTH):
            x = min(max((u + 0.5) / CELL - 0.5, 0.0), columns - 1.001)
            i = int(x)
            right = np.float32(x - i)
            for c in range(3):
                sky = line[i, _NUM_LAMPS] + (line[i + 1, _NUM_LAMPS] - line[i, _NUM_LAMPS]) * right
                k = _NUM_LAMPS + 1 + c
                total = ambient[c] * sky + line[i, k] + (line[i + 1, k] - line[i, k]) * right
                for k in range(_NUM_LAMPS):
                    share = line[i, k] + (line[i + 1, k] - line[i, k]) * right
                    total += light[v, u, k, c] * share
                out[v, u, c] = total


@_jit
def over(layer, box, out):
    for row in range(layer.shape[0]):
        for column in range(layer.shape[1]):
            keep = 1.0 - layer[row, column, 3]
            for c in range(3):
                v, u = box[1] + row, box[0] + column
                out[v, u, c] = out[v, u, c] * keep + layer[row, column, c]


@_jit
def encode(linear, curve, out):
    top = len(curve) - 1
    for v in range(HEIGHT):
        for u in range(WIDTH):
            for c in range(3):
                out[v, u, c] = curve[min(int(linear[v, u, c] * top + 0.5), top)]


@_jit
def count_pixels(shapes, places, camera, step, seen, whole):
    for v in range(step // 2, HEIGHT, step):
        for u in range(step // 2, WIDTH, step):
            gx, gy, gz = _pixel_ray(camera, u + 0.5, v + 0.5)
            nearest, owner = 1e9, -1
            for k in range(len(shapes)):
                x, y, rotation = places[k, 0], places[k, 1], places[k, 2]
                cos, sin = math.cos(rotation), math.sin(rotation)
                ox, oy = -x, -camera[0] - y
                t = _march(
                    shapes[k], cos * ox + sin * oy, cos * oy - sin * ox, camera[1],
                    cos * gx + sin * gy, cos * gy - sin * gx, gz, BEVEL[shapes[k]],
                )  # fmt: skip
                if t > 0:
                    whole[k] += step * step
                    if t < nearest:
                        nearest, owner = t, k
            if owner >= 0:
                seen[owner] += step * step
