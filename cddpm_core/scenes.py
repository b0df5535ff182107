"""Where the objects of an i-CLEVR-like scene stand, and writing such scenes as a data set.

The first object stands at the image centre and each further one around it, as in
i-CLEVR's instructions ("in front of", "behind", "left of", "right of"); the rules on
gaps, margins and visibility are those of CLEVR's generator. A frame shows the first
k objects of a scene, so its label list is the one before plus one name.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cddpm_core.errors import UserError
from cddpm_core.labels import OBJECTS
from cddpm_core.render import (
    HEIGHT,
    RADIUS,
    RENDERER_VERSION,
    WIDTH,
    Stage,
    project,
    render_frames,
    visible_pixels,
)
from cddpm_core.runs import atomic, write_json
from cddpm_core.runs import progress as progress_bar

__all__ = [
    "MAX_OBJECTS",
    "RENDERER_VERSION",
    "SceneObject",
    "file_name",
    "render",
    "render_dataset",
    "render_set",
    "sample_scene",
]

MAX_OBJECTS = 5
REACH = 4.75  # |x| + |y| of a centre at most: CLEVR's square, seen from its corner
GAP = 0.8  # between the circles around two objects' feet, in CLEVR units
MARGIN = 0.2  # left-right and front-behind offsets are at least this, so that the words hold
MIN_PIXELS = 200  # of each object must show at 320x240 (CLEVR's rule) ...
MIN_SHARE = 0.35  # ... and this share of it
MAX_LIGHT_JITTER = 1.0  # CLEVR's own; the lamps stand 2.4 units and more above the ground


@dataclass(frozen=True)
class SceneObject:
    """One object: its name, ground position in CLEVR units, and rotation in radians.

    ``x`` points to the camera's right, ``y`` away from it; the origin is where the
    first object of every scene stands.
    """

    name: str
    x: float
    y: float
    rotation: float


def _fits(x: float, y: float, others: Sequence[SceneObject]) -> bool:
    return all(
        math.hypot(x - o.x, y - o.y) >= 2 * RADIUS + GAP
        and min(abs(x - o.x), abs(y - o.y)) >= MARGIN
        for o in others
    )


def _shows(objects: Sequence[SceneObject]) -> bool:
    seen, whole = visible_pixels(_plain(objects))
    return bool(np.all((seen >= MIN_PIXELS) & (seen >= MIN_SHARE * whole)))


def _plain(objects: Sequence[SceneObject]) -> list[tuple[str, float, float, float]]:
    return [(o.name, o.x, o.y, o.rotation) for o in objects]


def sample_scene(
    rng: np.random.Generator, num_objects: int, chances: Sequence[float] | None = None
) -> tuple[SceneObject, ...]:
    """Draw a scene of 1 to 5 objects of different names; every prefix of it is a scene too.

    ``chances`` are those of the 24 objects, which add up to 1; equal by default.
    """
    if not 1 <= num_objects <= MAX_OBJECTS:
        raise UserError(f"num_objects: expected 1 to {MAX_OBJECTS}, found {num_objects}")
    if chances is None:
        drawn = rng.permutation(len(OBJECTS))[:num_objects]
    else:
        drawn = rng.choice(len(OBJECTS), num_objects, replace=False, p=chances)
    names = [OBJECTS[i] for i in drawn]
    while True:
        scene = [SceneObject(names[0], 0.0, 0.0, float(rng.uniform(0, 2 * math.pi)))]
        for name in names[1:]:
            for _ in range(100):
                across, along = rng.uniform(-REACH, REACH, 2)
                x, y = (across + along) / 2, (across - along) / 2
                candidate = SceneObject(name, x, y, float(rng.uniform(0, 2 * math.pi)))
                if _fits(x, y, scene) and _shows([*scene, candidate]):
                    scene.append(candidate)
                    break
            else:
                break
        if len(scene) == num_objects:
            return tuple(scene)


def render(
    scene: Sequence[SceneObject],
    *,
    light_jitter: float = 0.0,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Return the ``(240, 320, 3)`` uint8 sRGB image of a scene.

    Each lamp moves by up to ``light_jitter`` CLEVR units along each axis, drawn from ``rng``.
    """
    return render_frames(_plain(scene), stage=_stage(rng, light_jitter))[0]


def _stage(rng: np.random.Generator | None, light_jitter: float) -> Stage | None:
    """Return a stage with its lamps moved, or None for the standing one."""
    if not 0 <= light_jitter <= MAX_LIGHT_JITTER:
        raise UserError(
            f"light_jitter: expected 0 to {MAX_LIGHT_JITTER} CLEVR units, found {light_jitter}"
        )
    if light_jitter == 0:
        return None
    return Stage((rng or np.random.default_rng(0)).uniform(-light_jitter, light_jitter, (3, 3)))


def file_name(scene: int, frame: int) -> str:
    """Return the lab's name of one frame of one scene."""
    return f"CLEVR_train_{scene:06d}_{frame}.png"


def _rng(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _map(function: Callable, count: int, workers: int | None, progress: bool, title: str) -> list:
    """Return ``[function(0), ...]`` from threads: the kernels and the PNG writer free the GIL."""
    pool = ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1))
    try:
        results = pool.map(function, range(count))
        with progress_bar(total=count, desc=title, unit="scene", disable=not progress) as bar:
            return [(result, bar.update())[0] for result in results]
    finally:
        pool.shutdown(cancel_futures=True)  # so that an interrupted run stops at once


def render_dataset(
    folder: str | Path,
    *,
    num_scenes: int,
    seed: int,
    frames: int = 3,
    light_jitter: float = 0.0,
    workers: int | None = None,
    progress: bool = True,
) -> None:
    """Write ``num_scenes * frames`` images in the lab's layout.

    ``folder/iclevr/CLEVR_train_NNNNNN_F.png`` (320x240 RGB), ``folder/objects.json``
    and last, in one step, ``folder/train.json``: a folder that has it is complete.
    The bytes depend on the seed and the options alone, not on ``workers`` (threads).
    """
    if num_scenes < 1:
        raise UserError(f"num_scenes: expected at least 1, found {num_scenes}")
    folder = Path(folder)
    images = folder / "iclevr"
    images.mkdir(parents=True, exist_ok=True)

    def draw(index: int) -> list[list[str]]:
        rng = _rng(seed, index)
        scene = sample_scene(rng, frames)
        stage = _stage(rng, light_jitter)
        for frame, image in enumerate(render_frames(_plain(scene), first=1, stage=stage)):
            # Another run may be reading this very folder, having rendered the same scenes.
            with atomic(images / file_name(index, frame)) as temporary:
                temporary.write_bytes(_png(image))
        return [[o.name for o in scene[: frame + 1]] for frame in range(frames)]

    labels = _map(draw, num_scenes, workers, progress, "rendering")
    train = {
        file_name(i, k): names for i, rows in enumerate(labels) for k, names in enumerate(rows)
    }
    write_json(folder / "objects.json", {name: i for i, name in enumerate(OBJECTS)})
    write_json(folder / "train.json", train)


def _png(image: np.ndarray) -> bytes:
    """Return the PNG of an image ``(h, w, 3)``: each pixel less its left neighbour.

    Pillow tries every filter on every row, which takes twice the time for the same size.
    """
    height, width, _ = image.shape
    flat = image.reshape(height, -1)
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = 1  # the filter "Sub"
    rows[:, 1:4] = flat[:, :3]
    rows[:, 4:] = flat[:, 3:] - flat[:, :-3]
    packer = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", packer.compress(rows) + packer.flush()), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def render_set(
    num_images: int,
    seed: int,
    max_objects: int = MAX_OBJECTS,
    size: int = 64,
    *,
    chances: Sequence[float] | None = None,
    light_jitter: float = 0.0,
    workers: int | None = None,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images, their multi-hot labels and where the objects are, in memory.

    Every scene gives frames of 1 to ``max_objects`` objects, squashed to a square as
    torchvision's ``Resize`` does it: uint8 ``(N, size, size, 3)``. Labels are float
    ``(N, 24)``; centres ``(N, 24, 2)`` are columns and rows in pixels, NaN if absent.
    ``chances`` are those of `sample_scene`.
    """

    def draw(index: int) -> tuple[list[np.ndarray], list[int], np.ndarray]:
        # A key of two numbers, so that no seed gives a scene that `render_dataset` writes.
        rng = _rng(seed, 1, index)
        scene = sample_scene(rng, max_objects, chances)
        stage = _stage(rng, light_jitter)
        frames = [
            np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR))
            for frame in render_frames(_plain(scene), first=1, stage=stage)
        ]
        x, y = np.array([(o.x, o.y) for o in scene]).T
        u, v = project(x, y, np.full_like(x, RADIUS))
        centres = np.stack([u * size / WIDTH, v * size / HEIGHT], axis=1)
        return frames, [OBJECTS.index(o.name) for o in scene], centres

    images = np.empty((num_images, size, size, 3), np.uint8)
    labels = np.zeros((num_images, len(OBJECTS)), np.float32)
    places = np.full((num_images, len(OBJECTS), 2), np.nan, np.float32)
    drawn = _map(draw, -(-num_images // max_objects), workers, progress, "rendering")
    for n in range(num_images):
        frames, names, centres = drawn[n // max_objects]
        shown = names[: n % max_objects + 1]
        images[n], labels[n, shown] = frames[n % max_objects], 1.0
        places[n, shown] = centres[: len(shown)]
    return images, labels, places
