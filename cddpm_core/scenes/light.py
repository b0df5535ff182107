"""Light of the lamps, compiled: shadows, rubber, and what ground and objects send one another.

A row of ``lamps`` (k, 10) is position, unit vector of its facing, side of its square, and colour
of the ground's radiance at unit distance; ``samples`` (k, n, 3) are points of each square. Bodies
and units are those of `surfaces`. Functions write into the arrays that come last.
"""

from __future__ import annotations

import math

from cddpm_core.scenes.compiled import compiled
from cddpm_core.scenes.surfaces import BOUND, RADIUS, crossing

__all__ = ["GROUND", "body_shine", "bounce", "cast_shadow", "fresnel", "lamp_gain", "light_ground",
           "light_patches", "lit_fraction", "rubber"]

GROUND = 0.8  # albedo of the ground


@compiled
def lit_fraction(bodies, skip, lamps, samples, i, step, x, y, z):
    """Fraction of every ``step``-th sample of lamp ``i`` that no body but ``skip`` hides.

    The first samples are the corners of its square.
    """
    visible = 1.0
    for k in range(len(bodies)):
        if k == skip:
            continue
        shape = int(bodies[k, 0])
        bound = RADIUS * BOUND[shape]
        px, py, pz = bodies[k, 1] - x, bodies[k, 2] - y, RADIUS - z
        lx, ly, lz = lamps[i, 0] - x, lamps[i, 1] - y, lamps[i, 2] - z
        square = lx * lx + ly * ly + lz * lz
        along = (px * lx + py * ly + pz * lz) / square
        apart = px * px + py * py + pz * pz - along * along * square
        reach = bound + 0.7072 * lamps[i, 6] * max(along, 0.0)
        if apart > reach * reach or (along < 0 and along * along * square > bound * bound):
            continue
        cos, sin = bodies[k, 3], bodies[k, 4]
        ox, oy = -cos * px - sin * py, sin * px - cos * py
        hits, count = 0, 0
        for s in range(0, samples.shape[1], step):
            sx, sy, sz = samples[i, s, 0] - x, samples[i, s, 1] - y, samples[i, s, 2] - z
            t, end = crossing(shape, ox, oy, z, cos * sx + sin * sy, cos * sy - sin * sx, sz)
            hits += max(t, 0.0) < min(end, 1.0)
            count += 1
            if hits == count == 4:  # at its edge: taken to hide the whole lamp
                break
        visible *= 1.0 - hits / count
    return visible


@compiled
def lamp_gain(lamps, i, x, y, z, nx, ny, nz):
    """A lamp's light per unit of intensity on a surface at a point with a unit normal."""
    lx, ly, lz = lamps[i, 0] - x, lamps[i, 1] - y, lamps[i, 2] - z
    square = lx * lx + ly * ly + lz * lz
    leaving = -(lx * lamps[i, 3] + ly * lamps[i, 4] + lz * lamps[i, 5])
    arriving = lx * nx + ly * ny + lz * nz
    if leaving <= 0 or arriving <= 0:
        return 0.0
    return leaving * arriving / (square * square)


@compiled
def fresnel(cosine, eta):
    """Reflected fraction of unpolarised light at a dielectric."""
    g = math.sqrt(eta * eta - 1.0 + cosine * cosine)
    a, b = (g - cosine) / (g + cosine), (g + cosine)
    b = (cosine * b - 1.0) / (cosine * (g - cosine) + 1.0)
    return 0.5 * a * a * (1.0 + b * b)


@compiled
def rubber(facing, cos_light, nh, ih):
    """Reflection of CLEVR's rubber over that of a white diffuse surface: its part that takes the
    colour, and its part that does not.

    Diffuse and velvet (Ashikhmin's, sigma 0.6) mixed by Fresnel's factor for 1.4, and that mixed
    with gloss (Beckmann's, alpha 0.35, albedo 0.8) by the factor for 1.2. ``facing``, ``nh`` are
    cosines of the normal with the view and with the half vector, ``ih`` of view and half vector.
    """
    cosine2 = min(max(nh * nh, 1e-6), 1.0 - 1e-6)
    tangent2 = (1.0 - cosine2) / cosine2
    shadowing = min(1.0, 2.0 * nh * min(facing, cos_light) / max(ih, 1e-6))
    sine4 = (1.0 - cosine2) * (1.0 - cosine2)
    velvet = math.exp(-1.0 / (tangent2 * 0.36)) / (0.36 * sine4) * shadowing
    gloss = math.exp(-tangent2 / 0.1225) / (0.1225 * cosine2 * cosine2) * shadowing
    scale = 0.25 / (facing * max(cos_light, 1e-6))
    inner, outer = fresnel(facing, 1.4), fresnel(facing, 1.2)
    coloured = (1.0 - outer) * ((1.0 - inner) + inner * scale * velvet)
    return coloured, outer * 0.8 * scale * gloss


@compiled
def light_ground(points, normals, lamps, gains):
    """Fill ``gains`` (.., lamps) with each lamp's light at ``points`` (.., 3) of the ground."""
    for v in range(points.shape[0]):
        for u in range(points.shape[1]):
            for i in range(len(lamps)):
                gains[v, u, i] = lamp_gain(
                    lamps, i, points[v, u, 0], points[v, u, 1], points[v, u, 2],
                    normals[v, u, 0], normals[v, u, 1], normals[v, u, 2],
                )  # fmt: skip


@compiled
def distance_beside(shape, cos, sin, dx, dy):
    """Distance from a body's axis, which is RADIUS at its outline on the ground."""
    if shape != 0:
        return math.sqrt(dx * dx + dy * dy) + 1e-9
    return max(abs(cos * dx + sin * dy), abs(cos * dy - sin * dx)) + 1e-9


@compiled
def cast_shadow(body, points, lamps, samples, shine, cells):
    """Add the shadow and reflected light of one ``body`` (1, 5) to ``cells`` (rows, columns,
    lamps + 4), whose ground positions are ``points`` (rows, columns, 3).

    The channels are the visible fractions of each lamp and of the sky, which are multiplied, and
    the red, green and blue light that objects reflect, which is added: ``shine`` (directions, 3)
    is the body's radiance seen from each direction. Returns the first and last row that changed.
    """
    num_lamps = len(lamps)
    shape, cos, sin = int(body[0, 0]), body[0, 3], body[0, 4]
    first, last = points.shape[0], 0
    for v in range(points.shape[0]):
        for u in range(points.shape[1]):
            x, y, z = points[v, u, 0], points[v, u, 1], points[v, u, 2]
            px, py = x - body[0, 1], y - body[0, 2]
            square = px * px + py * py
            if shape != 1 and square < 2 * RADIUS * RADIUS:
                beside = distance_beside(shape, cos, sin, px, py)
                if beside < RADIUS:  # of what lies under it, only the edge can be seen
                    px, py = px * 1.01 * RADIUS / beside, py * 1.01 * RADIUS / beside
                    x, y = body[0, 1] + px, body[0, 2] + py
                    square = px * px + py * py
            touched = square < 25.0 * RADIUS * RADIUS
            if touched:
                # The fraction of the sky that a sphere hides from a point on the ground.
                h = square + RADIUS * RADIUS
                hidden = RADIUS**3 / (h * math.sqrt(h))
                # Near a sphere its dark underside is seen, near the others a wall.
                shown = hidden * (1.0 - hidden) if shape == 1 else 1.3 * hidden
                cells[v, u, num_lamps] *= 1.0 - hidden
                turn = (math.atan2(py, px) / (2 * math.pi) + 1.0) * len(shine)
                a, part = int(turn) % len(shine), turn - int(turn)
                for c in range(3):
                    seen = shine[a, c] + part * (shine[(a + 1) % len(shine), c] - shine[a, c])
                    cells[v, u, num_lamps + 1 + c] += GROUND * shown * seen
            for i in range(num_lamps):
                visible = lit_fraction(body, -1, lamps, samples, i, 1, x, y, z)
                if visible < 1.0:
                    touched = True
                    cells[v, u, i] *= visible
            if touched:
                first, last = min(first, v), max(last, v)
    return first, last


@compiled
def light_patches(number, bodies, lamps, samples, ambient, offsets, patches):
    """Fill ``patches`` (count, 6) with the ground around body ``number``: x, y, area, radiance.

    They lie at ``offsets`` (count, 3) from the body: x, y and area, set to 0 where it stands.
    """
    shape, cos, sin = bodies[number, 0], bodies[number, 3], bodies[number, 4]
    for p in range(len(patches)):
        dx, dy = offsets[p, 0], offsets[p, 1]
        x, y = bodies[number, 1] + dx, bodies[number, 2] + dy
        under = shape != 1 and distance_beside(shape, cos, sin, dx, dy) < RADIUS
        patches[p, 0], patches[p, 1] = x, y
        patches[p, 2] = 0.0 if under else offsets[p, 2]
        for c in range(3):
            patches[p, 3 + c] = ambient
        for i in range(len(lamps)):
            light = lamp_gain(lamps, i, x, y, 0.0, 0.0, 0.0, 1.0)
            if light > 0:
                light *= lit_fraction(bodies, -1, lamps, samples, i, 5, x, y, 0.0)
                for c in range(3):
                    patches[p, 3 + c] += light * lamps[i, 7 + c]


@compiled
def bounce(patches, x, y, z, nx, ny, nz):
    """Mean radiance (3) of the ground seen from a point by a surface with a unit normal."""
    red, green, blue, total = 0.0, 0.0, 0.0, 1e-9
    for p in range(len(patches)):
        px, py, area = patches[p, 0] - x, patches[p, 1] - y, patches[p, 2]
        arriving = px * nx + py * ny - z * nz
        if arriving > 0:
            square = px * px + py * py + z * z
            form = area * arriving * z / (square * (square + area / math.pi))
            total += form
            red += form * patches[p, 3]
            green += form * patches[p, 4]
            blue += form * patches[p, 5]
    return red / total, green / total, blue / total


@compiled
def body_shine(body, albedo, lamps, patches, shine):
    """Fill ``shine`` (directions, 3) with a body's radiance seen from each direction.

    It is that of its vertical surfaces that face the direction, or up to 60 degrees beside it.
    """
    for a in range(len(shine)):
        for c in range(3):
            shine[a, c] = 0.0
        for turn in range(-1, 2):
            angle = 2 * math.pi * a / len(shine) + turn * math.pi / 3
            nx, ny = math.cos(angle), math.sin(angle)
            x, y = body[0, 1] + RADIUS * nx, body[0, 2] + RADIUS * ny
            weight = 0.5 if turn == 0 else 0.25
            red, green, blue = bounce(patches, x, y, RADIUS, nx, ny, 0.0)
            red, green, blue = 0.5 * red, 0.5 * green, 0.5 * blue  # half of what it faces
            for i in range(len(lamps)):
                share = lamp_gain(lamps, i, x, y, RADIUS, nx, ny, 0.0) / GROUND
                red += share * lamps[i, 7]
                green += share * lamps[i, 8]
                blue += share * lamps[i, 9]
            shine[a, 0] += weight * albedo[0] * red
            shine[a, 1] += weight * albedo[1] * green
            shine[a, 2] += weight * albedo[2] * blue
