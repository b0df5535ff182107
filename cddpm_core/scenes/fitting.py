"""The scene behind a real frame: its objects and their positions, found by rendering."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import binary_opening, label
from scipy.optimize import minimize

from cddpm_core.config.errors import UserError
from cddpm_core.data.images import find_image
from cddpm_core.data.labels import OBJECTS, read_train
from cddpm_core.scenes.render import (
    CAMERA,
    HEIGHT,
    RADIUS,
    WIDTH,
    object_box,
    project,
    render_frames,
)
from cddpm_core.scenes.scene import SceneObject

__all__ = ["Comparison", "compare_folder", "fit_objects", "unproject"]

_MIN_PIXELS = 60  # at 320x240, of a patch of differences that is taken for an object
_TOLERANCE = 0.5  # of 255: how much worse the fit of a frame that continues a scene may be
_FAR_AWAY = SceneObject("gray sphere", 0.0, 2000.0, 0.0)  # renders as empty ground


@dataclass(frozen=True)
class Comparison:
    """A real frame and the same scene rendered, both uint8 (240, 320, 3).

    ``difference`` is the mean absolute difference in levels of 255 after both are squashed to
    64x64, ``difference_in_boxes`` that inside the bounding boxes of ``objects``.
    """

    file: str
    real: np.ndarray
    rendered: np.ndarray
    objects: tuple[SceneObject, ...]
    difference: float
    difference_in_boxes: float


def unproject(u: float, v: float, z: float = RADIUS) -> tuple[float, float]:
    """Return ground coordinates (x, y) of the point at height ``z`` seen at pixel (u, v)."""
    def squared_distance(ground: np.ndarray) -> float:
        seen = project(ground[:1], ground[1:], np.full(1, z))
        return float((seen[0][0] - u) ** 2 + (seen[1][0] - v) ** 2)

    x, y = minimize(squared_distance, np.zeros(2), method="Nelder-Mead",
                    bounds=[(-12, 12), (-CAMERA[0] + 3, 30)]).x
    return float(x), float(y)


def fit_objects(frame: np.ndarray, names: Sequence[str] | None = None,
                known: Sequence[SceneObject] = (), max_objects: int = 5) -> tuple[SceneObject, ...]:
    """Return the objects of a frame, uint8 (240, 320, 3).

    Objects are added one by one where the frame differs most from the scene found so far: of the
    unused ``names`` (by default of all 24) the one whose render is nearest to the frame, at the
    position and rotation that fit best. Without ``names`` it stops when no difference of an
    object's size is left. ``known`` are objects to start with.
    """
    truth = frame.astype(np.float32)
    found = list(known)
    left = None if names is None else [n for n in names if n not in {o.name for o in found}]
    while len(found) < max_objects and left != []:
        patch = _largest_difference(_render(found), truth)
        if patch is None and left is None:
            break
        x, y = unproject(*(patch or (WIDTH / 2, HEIGHT / 2)))
        unused = left or [n for n in OBJECTS if n not in {o.name for o in found}]
        candidates = [SceneObject(name, x, y, 0.0) for name in unused]
        candidates.sort(key=lambda o: _error([*found, o], truth))
        refined = [_refine(found, candidate, truth) for candidate in candidates[:3]]
        best = min(refined, key=lambda o: _error([*found, o], truth))
        if left is None and _error([*found, best], truth) > 0.97 * _error(found, truth):
            break
        found.append(best)
        if left is not None:
            left.remove(best.name)
    for index in range(len(known), len(found)):
        others = found[:index] + found[index + 1:]
        found[index] = _refine(others, found[index], truth)
    return tuple(found)


def _render(objects: Sequence[SceneObject]) -> np.ndarray:
    return render_frames(list(objects) or [_FAR_AWAY])[0].astype(np.float32)


def _error(objects: Sequence[SceneObject], truth: np.ndarray) -> float:
    return float(np.square(_render(objects) - truth).mean())


def _refine(others: Sequence[SceneObject], candidate: SceneObject,
            truth: np.ndarray) -> SceneObject:
    """Return the object at the position and rotation nearby that fit the frame best."""
    name, *start = candidate
    # The rotation shows only on a cube.
    steps = [0.3, 0.4, 0.4] if name.endswith("cube") else [0.3, 0.4]
    free = len(steps)

    def with_values(values: np.ndarray) -> SceneObject:
        return SceneObject(name, *map(float, values), *start[free:])

    def cost(values: np.ndarray) -> float:
        if abs(values[0]) > 12 or not 3 - CAMERA[0] < values[1] < 30:
            return math.inf
        return _error([*others, with_values(values)], truth)

    first = np.array(start[:free])
    simplex = np.vstack([first, first + np.diag(steps)])
    found = minimize(cost, first, method="Nelder-Mead",
                     options={"initial_simplex": simplex, "maxfev": 90, "xatol": 0.01,
                              "fatol": 1e-3})
    return with_values(found.x)


def _largest_difference(rendered: np.ndarray, truth: np.ndarray) -> tuple[float, float] | None:
    """Return the centre (u, v) of the largest patch where two frames differ, if there is one."""
    difference = np.abs(rendered - truth)
    # An object differs from a shadow in colour; a gray object differs in level alone.
    patch = binary_opening(np.ptp(truth - rendered, axis=-1) + 0.5 * difference.max(-1) > 22,
                           iterations=2)
    parts, count = label(patch)
    if not count:
        return None
    sizes = np.bincount(parts.ravel())[1:]
    if sizes.max() < _MIN_PIXELS:
        return None
    rows, columns = np.nonzero(parts == 1 + int(sizes.argmax()))
    return float(columns.mean()), float(rows.mean())


def compare_folder(folder: str | Path, max_frames: int = 6) -> list[Comparison]:
    """Return the first real frames of a folder, each with its scene rendered again.

    With a ``train.json`` they are its first images, and its labels name their objects; otherwise
    all 4:3 images in the order of their names. A frame is taken as a continuation of the scene
    before it if that explains it about as well. Raises `UserError` if there is no such image.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"reference: {folder} is not a folder, expected one with real frames")
    if (folder / "train.json").exists():
        wanted = list(read_train(folder / "train.json").items())[:max_frames]
    else:
        wanted = [(path.name, None) for path in sorted(folder.glob("*.png"))]
    found: list[Comparison] = []
    before: tuple[SceneObject, ...] = ()
    for name, names in wanted:
        if len(found) == max_frames:
            break
        frame = _read_frame(find_image(folder, name))
        if frame is None:
            continue
        fits = before and (names is None or {o.name for o in before} <= set(names))
        best = _comparison(name, frame, fit_objects(frame, names, before)) if fits else None
        if (best is None or _overlapping(best.objects)
                or best.difference > found[-1].difference + _TOLERANCE):
            alone = _comparison(name, frame, fit_objects(frame, names))
            best = min((c for c in (best, alone) if c), key=lambda c: c.difference)
        found.append(best)
        before = best.objects
    if not found:
        raise UserError(f"reference: no 4:3 image in {folder}, expected real frames of 320x240")
    return found


def _overlapping(objects: Sequence[SceneObject]) -> bool:
    """Whether one object stands inside another, which shows that a frame begins a new scene."""
    return any(math.dist(a[1:3], b[1:3]) < RADIUS for a, b in combinations(objects, 2))


def _read_frame(path: Path) -> np.ndarray | None:
    """Return an image as uint8 (240, 320, 3), None if it is not 4:3."""
    try:
        with Image.open(path) as picture:
            if abs(picture.width * 3 - picture.height * 4) > 8:
                return None
            small = picture.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    except Exception as error:  # Pillow has many
        raise UserError(f"{path}: not a readable image ({type(error).__name__})") from None
    return np.asarray(small)


def _comparison(name: str, real: np.ndarray, objects: tuple[SceneObject, ...]) -> Comparison:
    rendered = _render(objects).astype(np.uint8)
    inside = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for scene_object in objects:
        left, top, right, bottom = object_box(scene_object)
        inside[top:bottom, left:right] = 255
    difference = np.abs(_squash(rendered) - _squash(real)).mean(-1)
    boxes = _squash(inside)[..., 0] > 127
    return Comparison(name, real, rendered, objects, float(difference.mean()),
                      float(difference[boxes].mean()) if boxes.any() else 0.0)


def _squash(frame: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize((64, 64), Image.Resampling.BILINEAR), float)
