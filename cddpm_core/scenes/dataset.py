"""Rendered data sets: to a folder in the lab's layout, or in memory."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from isal import isal_zlib
from PIL import Image

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import atomic, write_json
from cddpm_core.config.progress import progress as progress_bar
from cddpm_core.config.seeds import numpy_generator
from cddpm_core.data.labels import OBJECTS
from cddpm_core.scenes.render import HEIGHT, RADIUS, WIDTH, Lighting, project, render_frames
from cddpm_core.scenes.scene import MAX_OBJECTS, SceneObject, scene_of

__all__ = ["file_name", "render_dataset", "render_set", "write_labels"]


def file_name(scene: int, frame: int) -> str:
    """Return the lab's name of one frame of one scene."""
    return f"CLEVR_train_{scene:06d}_{frame}.png"


def render_dataset(folder: str | Path, *, num_scenes: int, seed: int, split: str = "train",
                   frames: int = 3, workers: int | None = None, progress: bool = True) -> None:
    """Write ``num_scenes * frames`` images in the lab's layout.

    ``folder/iclevr/CLEVR_train_NNNNNN_F.png`` (320x240 RGB), ``folder/objects.json`` and last,
    atomically, ``folder/train.json``: a folder that has it is complete. The bytes depend on the
    seed, the name of the ``split`` and the options, not on the number of threads, ``workers``.
    """
    if num_scenes < 1:
        raise UserError(f"num_scenes: expected at least 1, found {num_scenes}")
    folder = Path(folder)
    images = folder / "iclevr"
    images.mkdir(parents=True, exist_ok=True)

    def write_scene(index: int) -> list[list[str]]:
        scene, rendered = _render_scene(seed, split, index, frames)
        for frame, image in enumerate(rendered):
            # Atomic because another run may render the same scenes into this folder.
            with atomic(images / file_name(index, frame)) as temporary:
                temporary.write_bytes(_png(image))
        return [[o.name for o in scene[: frame + 1]] for frame in range(frames)]

    write_labels(folder, _map_scenes(write_scene, num_scenes, workers, progress))


def write_labels(folder: Path, labels: Sequence[Sequence[Sequence[str]]]) -> None:
    """Write ``objects.json`` and, last, ``train.json``; ``labels`` are names by scene and frame."""
    train = {file_name(i, k): names
             for i, rows in enumerate(labels) for k, names in enumerate(rows)}
    write_json(folder / "objects.json", {name: i for i, name in enumerate(OBJECTS)})
    write_json(folder / "train.json", train)


def render_set(num_images: int, seed: int, split: str, max_objects: int = MAX_OBJECTS,
               size: int = 64, *, probabilities: Sequence[float] | None = None,
               workers: int | None = None, progress: bool = False
               ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images, their multi-hot labels and the positions of their objects, in memory.

    Every scene gives frames of 1 to ``max_objects`` objects, squashed to a square as torchvision's
    ``Resize`` does: uint8 ``(N, size, size, 3)``. Labels are float ``(N, 24)``; positions
    ``(N, 24, 2)`` are columns and rows in pixels, NaN for absent objects. ``probabilities`` are
    those of `sample_scene`. Scenes of another ``split`` are other scenes, whatever the seed.
    """

    def render_scene(index: int) -> tuple[list[np.ndarray], list[int], np.ndarray]:
        scene, rendered = _render_scene(seed, split, index, max_objects, probabilities)
        frames = [np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR))
                  for frame in rendered]
        x, y = np.array([(o.x, o.y) for o in scene]).T
        u, v = project(x, y, np.full_like(x, RADIUS))
        centres = np.stack([u * size / WIDTH, v * size / HEIGHT], axis=1)
        return frames, [OBJECTS.index(o.name) for o in scene], centres

    images = np.empty((num_images, size, size, 3), np.uint8)
    labels = np.zeros((num_images, len(OBJECTS)), np.float32)
    positions = np.full((num_images, len(OBJECTS), 2), np.nan, np.float32)
    scenes = _map_scenes(render_scene, -(-num_images // max_objects), workers, progress)
    for n in range(num_images):
        frames, objects, centres = scenes[n // max_objects]
        shown = objects[: n % max_objects + 1]
        images[n], labels[n, shown] = frames[n % max_objects], 1.0
        positions[n, shown] = centres[: len(shown)]
    return images, labels, positions


def _render_scene(seed: int, split: str, index: int, num_objects: int,
                  probabilities: Sequence[float] | None = None
                  ) -> tuple[tuple[SceneObject, ...], np.ndarray]:
    """Return the objects of a scene and its frames of one object, two, and so on."""
    scene = scene_of(seed, split, index, num_objects, probabilities)
    grain = numpy_generator(seed, "grain", split, index)
    return scene.objects, render_frames(scene.objects, first=1,
                                        lighting=Lighting(scene.lamp_shift), grain=grain)


def _map_scenes(function: Callable, count: int, workers: int | None, progress: bool) -> list:
    """Return ``[function(0), ...]`` from threads: the kernels and the PNG writer free the GIL."""
    pool = ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1))
    results = []
    try:
        with progress_bar(total=count, desc="rendering", unit="scene", disable=not progress) as bar:
            for result in pool.map(function, range(count)):
                results.append(result)
                bar.update()
    finally:
        pool.shutdown(cancel_futures=True)  # so that an interrupted run stops at once
    return results


def _png(image: np.ndarray) -> bytes:
    """Return the PNG file of a uint8 image (h, w, 3), each row with the filter "Sub".

    Pillow, which tries every filter, takes many times longer for the same size; zlib four times.
    """
    height, width, _ = image.shape
    flat = image.reshape(height, -1)
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = 1  # "Sub": each pixel less its left neighbour
    rows[:, 1:4] = flat[:, :3]
    rows[:, 4:] = flat[:, 3:] - flat[:, :-3]
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR" + header, b"IDAT" + isal_zlib.compress(rows, 1), b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", isal_zlib.crc32(chunk))
        for chunk in chunks)
