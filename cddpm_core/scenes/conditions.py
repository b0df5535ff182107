"""Renders of given conditions, to look at beside images that are sampled for them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np
from PIL import Image

from cddpm_core.config.seeds import numpy_generator
from cddpm_core.data.labels import OBJECTS, check_names
from cddpm_core.scenes.render import Lighting, render_frames
from cddpm_core.scenes.scene import Scene, scene_of

__all__ = ["render_conditions", "scene_for"]

SPLIT = "reference"  # neither that of training nor that of held-out scenes


def scene_for(names: Sequence[str], seed: int, index: int = 0) -> Scene:
    """Return scene ``index`` of a condition of 1 to 5 objects, which are placed in its order.

    Raises `UserError` for other names or numbers of objects.
    """
    names = check_names(names, "scene_for")
    probabilities = np.array([name in names for name in OBJECTS]) / len(names)
    split = f"{SPLIT} {index} {', '.join(names)}"
    # Scenes of these objects in all orders, until one has the right one: one of six, for three.
    scenes = (scene_of(seed, split, i, len(names), probabilities) for i in count())
    return next(scene for scene in scenes if tuple(o.name for o in scene.objects) == names)


def render_conditions(conditions: Sequence[Sequence[str]], seed: int = 0,
                      size: int = 64) -> np.ndarray:
    """Return an image of each condition, uint8 (N, size, size, 3): scenes like those of training.

    None of them is a training scene or a held-out one.
    """
    images = np.empty((len(conditions), size, size, 3), np.uint8)
    for index, names in enumerate(conditions):
        scene = scene_for(names, seed, index)
        frame, = render_frames(scene.objects, lighting=Lighting(scene.lamp_shift),
                               grain=numpy_generator(seed, "grain", SPLIT, index))
        images[index] = np.asarray(Image.fromarray(frame).resize(
            (size, size), Image.Resampling.BILINEAR))
    return images
