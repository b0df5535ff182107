"""Sampling i-CLEVR-like scenes: which objects, where, and how they are rotated.

The first object stands at the image centre and each further one around it, as in
i-CLEVR's instructions ("in front of", "behind", "left of", "right of"); the rules on
gaps, margins and visibility are those of CLEVR's generator. A frame shows the first
k objects of a scene, so its label list is that of the frame before plus one name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cddpm_core.config.errors import UserError
from cddpm_core.data.labels import OBJECTS
from cddpm_core.scenes.render import RADIUS, Lighting, render_frames, visible_pixels

__all__ = ["MAX_OBJECTS", "SceneObject", "jittered_lighting", "render", "sample_scene"]

MAX_OBJECTS = 5
REACH = 4.75  # bound of |x| + |y| of a centre: CLEVR's square, seen from its corner
GAP = 0.8  # minimum between the circles around two objects, in CLEVR units
MARGIN = 0.2  # minimum offset along x and y, so that left, right, front and behind are unambiguous
MIN_PIXELS = 200  # visible of each object at 320x240 (CLEVR's rule) ...
MIN_VISIBLE = 0.35  # ... and this fraction of it
MAX_LIGHT_JITTER = 1.0  # as in CLEVR; the lamps stand at least 2.4 units above the ground
MAX_ATTEMPTS = 100  # to sample a scene; the first practically always succeeds
_POSITION_ATTEMPTS = 100  # to find room for an object


class SceneObject(NamedTuple):
    """One object: its name, ground position in CLEVR units, and rotation in radians.

    ``x`` points to the camera's right, ``y`` away from it; the first object of every scene
    stands at the origin.
    """

    name: str
    x: float
    y: float
    rotation: float


def sample_scene(
    rng: np.random.Generator, num_objects: int, probabilities: Sequence[float] | None = None
) -> tuple[SceneObject, ...]:
    """Sample a scene of 1 to 5 objects of different names; every prefix of it is a scene too.

    ``probabilities`` are those of the 24 objects, which add up to 1; equal by default.
    """
    if not 1 <= num_objects <= MAX_OBJECTS:
        raise UserError(f"num_objects: expected 1 to {MAX_OBJECTS}, found {num_objects}")
    if probabilities is None:
        chosen = rng.permutation(len(OBJECTS))[:num_objects]
    else:
        chosen = rng.choice(len(OBJECTS), num_objects, replace=False, p=probabilities)
    names = [OBJECTS[i] for i in chosen]
    for _ in range(MAX_ATTEMPTS):
        scene = [SceneObject(names[0], 0.0, 0.0, _rotation(rng))]
        for name in names[1:]:
            added = _sample_beside(scene, name, rng)
            if added is None:
                break
            scene.append(added)
        if len(scene) == num_objects:
            return tuple(scene)
    raise RuntimeError(f"no scene of {', '.join(names)} found in {MAX_ATTEMPTS} attempts")


def _sample_beside(
    scene: Sequence[SceneObject], name: str, rng: np.random.Generator
) -> SceneObject | None:
    """Return a further object at a random position that obeys the rules, None if none is found."""
    for _ in range(_POSITION_ATTEMPTS):
        across, along = rng.uniform(-REACH, REACH, 2)
        x, y = (across + along) / 2, (across - along) / 2
        candidate = SceneObject(name, x, y, _rotation(rng))
        if _fits(candidate, scene) and _sufficiently_visible([*scene, candidate]):
            return candidate
    return None


def _rotation(rng: np.random.Generator) -> float:
    return float(rng.uniform(0, 2 * math.pi))


def _fits(candidate: SceneObject, others: Sequence[SceneObject]) -> bool:
    x, y = candidate.x, candidate.y
    return all(
        math.hypot(x - o.x, y - o.y) >= 2 * RADIUS + GAP
        and min(abs(x - o.x), abs(y - o.y)) >= MARGIN
        for o in others
    )


def _sufficiently_visible(objects: Sequence[SceneObject]) -> bool:
    seen, whole = visible_pixels(objects)
    return bool(np.all((seen >= MIN_PIXELS) & (seen >= MIN_VISIBLE * whole)))


def render(
    scene: Sequence[SceneObject],
    *,
    light_jitter: float = 0.0,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Return the ``(240, 320, 3)`` uint8 sRGB image of a scene.

    Each lamp moves by up to ``light_jitter`` CLEVR units along each axis, sampled from ``rng``.
    """
    return render_frames(scene, lighting=jittered_lighting(rng, light_jitter))[0]


def jittered_lighting(rng: np.random.Generator | None, light_jitter: float) -> Lighting | None:
    """Return a lighting with its lamps moved, or None for the standard one."""
    if not 0 <= light_jitter <= MAX_LIGHT_JITTER:
        raise UserError(
            f"light_jitter: expected 0 to {MAX_LIGHT_JITTER} CLEVR units, found {light_jitter}"
        )
    if light_jitter == 0:
        return None
    return Lighting((rng or np.random.default_rng(0)).uniform(-light_jitter, light_jitter, (3, 3)))
