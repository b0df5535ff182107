"""Sampling i-CLEVR-like scenes: which objects, where, how they are rotated, and their light.

The first object stands at the image centre and each further one around it, as in
i-CLEVR's instructions ("in front of", "behind", "left of", "right of"); the rules on
gaps, margins and visibility are those of CLEVR's generator, and so is the light: each lamp
moves, once a scene. A frame shows the first k objects of a scene, so its label list is that
of the frame before plus one name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cddpm_core.config.errors import UserError
from cddpm_core.config.seeds import numpy_generator
from cddpm_core.data.labels import OBJECTS
from cddpm_core.scenes.render import RADIUS, visible_pixels

__all__ = ["MAX_OBJECTS", "Scene", "SceneObject", "sample_scene", "scene_of"]

MAX_OBJECTS = 5
REACH = 3.935  # bound of |x| + |y| of a centre, in CLEVR units: its square, seen from a corner
GAP = 0.663  # minimum between the circles around two objects
MARGIN = 0.166  # minimum offset along x and y, so that left, right, front, behind are unambiguous
MIN_PIXELS = 200  # visible of each object at 320x240 (CLEVR's rule) ...
MIN_VISIBLE = 0.35  # ... and this fraction of it
LAMP_SHIFT = 1.0  # how far each lamp moves at most, along each axis
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


class Scene(NamedTuple):
    """Objects, and how far the key, fill and back lamp are moved.

    ``lamp_shift`` is (3, 3), a row for each lamp, along the x, y and z axes of CLEVR's file.
    """

    objects: tuple[SceneObject, ...]
    lamp_shift: np.ndarray


def scene_of(seed: int, split: str, index: int, num_objects: int,
             probabilities: Sequence[float] | None = None) -> Scene:
    """Return scene ``index`` of a data set: it depends on nothing but the arguments."""
    return sample_scene(numpy_generator(seed, "scene", split, index), num_objects, probabilities)


def sample_scene(rng: np.random.Generator, num_objects: int,
                 probabilities: Sequence[float] | None = None) -> Scene:
    """Sample a scene of 1 to 5 objects of different names; every prefix of them is a scene too.

    ``probabilities`` are those of the 24 objects, which add up to 1; equal by default. Raises
    `UserError` for another number of objects.
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
            shift = rng.uniform(-LAMP_SHIFT, LAMP_SHIFT, (3, 3))
            return Scene(tuple(scene), shift)
    raise RuntimeError(f"no scene of {', '.join(names)} found in {MAX_ATTEMPTS} attempts")


def _sample_beside(scene: Sequence[SceneObject], name: str,
                   rng: np.random.Generator) -> SceneObject | None:
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
    return all(math.hypot(x - o.x, y - o.y) >= 2 * RADIUS + GAP
               and min(abs(x - o.x), abs(y - o.y)) >= MARGIN for o in others)


def _sufficiently_visible(objects: Sequence[SceneObject]) -> bool:
    seen, whole = visible_pixels(objects)
    return bool(np.all((seen >= MIN_PIXELS) & (seen >= MIN_VISIBLE * whole)))
