"""Shaded objects, compiled. Bodies, lamps and units are those of `surfaces` and `light`."""

from __future__ import annotations

import math

from cddpm_core.scenes.compiled import compiled
from cddpm_core.scenes.light import GROUND, bounce, fresnel, lamp_gain, lit_fraction, rubber
from cddpm_core.scenes.surfaces import march, pixel_ray, surface_gap

__all__ = ["shade_object"]

_RAY_GRID = 2  # camera rays per pixel: this number squared


@compiled
def shade_object(number, bodies, albedo, camera, lamps, samples, patches, wall, box, layer):
    """Fill ``layer`` (h, w, 4) with one body's premultiplied linear colour and coverage.

    ``wall`` is the unit vector to the backdrop and the light from there, over pi. Several rays
    meet a pixel; one where they meet surfaces of nearly the same normal is lit once.
    """
    shape, bx, by = int(bodies[number, 0]), bodies[number, 1], bodies[number, 2]
    cos, sin = bodies[number, 3], bodies[number, 4]
    ox, oy, oz = -bx, -camera[0] - by, camera[1]
    ox, oy = cos * ox + sin * oy, cos * oy - sin * ox
    rays = _RAY_GRID * _RAY_GRID
    for row in range(layer.shape[0]):
        for column in range(layer.shape[1]):
            red, green, blue, cover = 0.0, 0.0, 0.0, 0.0
            r, g, b, mx, my, mz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for k in range(rays):
                # Rays spread over 1.5 pixels, the width of Blender's pixel filter.
                u = box[0] + column - 0.25 + 1.5 * (k % _RAY_GRID + 0.5) / _RAY_GRID
                v = box[1] + row - 0.25 + 1.5 * (k // _RAY_GRID + 0.5) / _RAY_GRID
                gx, gy, gz = pixel_ray(camera, u, v)
                dx, dy = cos * gx + sin * gy, cos * gy - sin * gx
                t = march(shape, ox, oy, oz, dx, dy, gz)
                if t < 0:
                    continue
                _, nx, ny, nz = surface_gap(shape, ox + t * dx, oy + t * dy, oz + t * gz)
                norm = 1.0 / max(math.sqrt(nx * nx + ny * ny + nz * nz), 1e-12)
                nx, ny, nz = nx * norm, ny * norm, nz * norm
                nx, ny = cos * nx - sin * ny, sin * nx + cos * ny
                if nx * mx + ny * my + nz * mz < 0.99:
                    mx, my, mz = nx, ny, nz
                    r, g, b = _light(
                        number, bodies, albedo, lamps, samples, patches, wall,
                        t * gx, t * gy - camera[0], camera[1] + t * gz, nx, ny, nz, gx, gy, gz,
                    )  # fmt: skip
                cover += 1.0
                red, green, blue = red + r, green + g, blue + b
            layer[row, column, 0] = red / rays
            layer[row, column, 1] = green / rays
            layer[row, column, 2] = blue / rays
            layer[row, column, 3] = cover / rays


@compiled
def _light(number, bodies, albedo, lamps, samples, patches, wall,
           x, y, z, nx, ny, nz, gx, gy, gz):  # fmt: skip
    """Linear colour of a body at a point with unit normal ``n``, seen along the unit ray ``g``."""
    facing = max(-(gx * nx + gy * ny + gz * nz), 1e-3)
    # The coloured layer reflects the light of all directions, the gloss that of the ground that
    # it mirrors.
    outer = fresnel(facing, 1.2)
    floor = 0.43 * (1.0 - nz) * (1.0 - outer)
    sky = max(nx * wall[0] + ny * wall[1] + nz * wall[2], 0.0) * (1.0 - outer)
    gloss = 0.8 * outer * min(max(0.5 - gz - 2.0 * facing * nz, 0.0), 1.0)
    r, g, b = bounce(patches, x, y, z, nx, ny, nz)
    red = albedo[0] * (floor * r + sky * wall[3]) + gloss * r
    green = albedo[1] * (floor * g + sky * wall[4]) + gloss * g
    blue = albedo[2] * (floor * b + sky * wall[5]) + gloss * b
    for i in range(len(lamps)):
        light = lamp_gain(lamps, i, x, y, z, nx, ny, nz) / GROUND
        if light == 0.0:
            continue
        light *= lit_fraction(bodies, number, lamps, samples, i, 2, x, y, z)
        lx, ly, lz = lamps[i, 0] - x, lamps[i, 1] - y, lamps[i, 2] - z
        norm = 1.0 / math.sqrt(lx * lx + ly * ly + lz * lz)
        lx, ly, lz = lx * norm, ly * norm, lz * norm
        hx, hy, hz = lx - gx, ly - gy, lz - gz
        norm = 1.0 / max(math.sqrt(hx * hx + hy * hy + hz * hz), 1e-9)
        coloured, white = rubber(
            facing, lx * nx + ly * ny + lz * nz,
            (hx * nx + hy * ny + hz * nz) * norm, -(hx * gx + hy * gy + hz * gz) * norm,
        )  # fmt: skip
        red += light * lamps[i, 7] * (coloured * albedo[0] + white)
        green += light * lamps[i, 8] * (coloured * albedo[1] + white)
        blue += light * lamps[i, 9] * (coloured * albedo[2] + white)
    return red, green, blue
