"""The scene behind a real frame: its lamps and its objects, found by rendering."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import binary_opening, label
from scipy.optimize import least_squares, minimize

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import typed_path
from cddpm_core.config.folders import folder_of_pictures, pictures_in
from cddpm_core.data.images import folder_files, open_image
from cddpm_core.data.labels import OBJECTS, SHAPES, read_train
from cddpm_core.scenes.render import (
    CAMERA,
    HEIGHT,
    RADIUS,
    WIDTH,
    Lighting,
    object_box,
    project,
    render_frames,
)
from cddpm_core.scenes.scene import LAMP_SHIFT, Scene, SceneObject

__all__ = ["Comparison", "compare_folder", "fit_lamps", "fit_objects", "reference_frames",
           "unproject"]

_MIN_PIXELS = 60  # at 320x240, of a patch of differences that is taken for an object
_TOLERANCE = 0.5  # of 255: how much worse the fit of a frame that continues a scene may be


@dataclass(frozen=True)
class Comparison:
    """A real frame and the same scene rendered, both uint8 (240, 320, 3).

    ``difference`` is the mean absolute difference in levels of 255 after both are squashed to
    64x64, ``difference_in_boxes`` that inside the bounding boxes of the scene's objects.
    """

    file: str
    real: np.ndarray
    rendered: np.ndarray
    scene: Scene
    difference: float
    difference_in_boxes: float


def unproject(u: float, v: float, z: float = RADIUS) -> tuple[float, float]:
    """Return ground coordinates (x, y) of the point at height ``z`` seen at pixel (u, v)."""
    def squared_distance(ground: np.ndarray) -> float:
        seen = project(ground[:1], ground[1:], np.full(1, z))
        return float((seen[0][0] - u) ** 2 + (seen[1][0] - v) ** 2)

    x, y = minimize(squared_distance, np.zeros(2), method="Nelder-Mead",
                    bounds=[(-10, 10), (-CAMERA[0] + 3, 20)]).x
    return float(x), float(y)


def fit_lamps(frame: np.ndarray, objects: Sequence[SceneObject] = (),
              start: np.ndarray | None = None) -> np.ndarray:
    """Return the ``lamp_shift`` (3, 3) whose light on the ground is nearest to a frame's.

    The frame is uint8 (240, 320, 3). Means of 4x4 pixels outside the boxes of the ``objects`` are
    compared, robustly, because there may be more objects than are given.
    """
    ground = np.ones((HEIGHT, WIDTH), bool)
    for each in objects:
        left, top, right, bottom = object_box(each)
        ground[top:bottom, left:right] = False
    ground = ground[2::4, 2::4]
    truth = _coarse(frame)[ground]

    def residuals(values: np.ndarray) -> np.ndarray:
        light = Lighting(values.reshape(3, 3) - 2)
        return (_coarse(render_frames(objects, lighting=light)[0])[ground] - truth).ravel()

    first = np.zeros(9) if start is None else start.ravel().clip(-LAMP_SHIFT, LAMP_SHIFT)
    # The values are shifts plus 2, because steps are relative.
    found = least_squares(residuals, 2 + first, loss="soft_l1", f_scale=2.0, diff_step=0.02,
                          bounds=(1.95 - LAMP_SHIFT, 2.05 + LAMP_SHIFT), max_nfev=12).x
    return found.reshape(3, 3) - 2


def _coarse(frame: np.ndarray) -> np.ndarray:
    return frame.reshape(HEIGHT // 4, 4, WIDTH // 4, 4, 3).mean((1, 3), dtype=np.float32)


def fit_objects(frame: np.ndarray, names: Sequence[str] | None = None, known: Scene | None = None,
                max_objects: int = 5) -> Scene:
    """Return the scene of a frame, uint8 (240, 320, 3).

    First the lamps are found, then objects one by one where the frame differs most from the scene
    found so far: of the unused ``names`` (by default of all 24) the one whose render is nearest to
    the frame, at the position and rotation that fit best. Without ``names`` it stops when no
    difference of an object's size is left. ``known`` is a scene of a part of the objects.
    """
    truth, found = frame.astype(np.float32), list(known.objects) if known else []
    shift = known.lamp_shift if known else fit_lamps(frame)
    light = Lighting(shift)
    left = None if names is None else [n for n in names if n not in {o.name for o in found}]
    while len(found) < max_objects and left != []:
        patch = _largest_difference(_render(found, light), truth)
        if patch is None and left is None:
            break
        x, y = unproject(*(patch or (WIDTH / 2, HEIGHT / 2)))
        unused = left or [n for n in OBJECTS if n not in {o.name for o in found}]
        candidates = [SceneObject(name, x, y, 0.0) for name in unused]
        candidates.sort(key=lambda o: _error([*found, o], light, truth))
        refined = [_refine(found, candidate, light, truth) for candidate in candidates[:3]]
        best = min(refined, key=lambda o: _error([*found, o], light, truth))
        better = _error([*found, best], light, truth) / _error(found, light, truth)
        if left is None and better > 0.97:
            break
        found.append(best)
        if left:
            left.remove(best.name)
    if not known:
        shift = fit_lamps(frame, found, shift)
        light = Lighting(shift)
    for index in range(len(known.objects) if known else 0, len(found)):
        others = found[:index] + found[index + 1:]
        if left is None:  # from a better position, another shape may fit better
            colour = found[index].name.split()[0]
            names = {f"{colour} {shape}" for shape in SHAPES} - {o.name for o in others}
            again = [_refine(others, found[index]._replace(name=name), light, truth)
                     for name in sorted(names)]
            found[index] = min(again, key=lambda o: _error([*others, o], light, truth))
        found[index] = _refine(others, found[index], light, truth, evaluations=60)
    return Scene(tuple(found), shift)


def _render(objects: Sequence[SceneObject], light: Lighting) -> np.ndarray:
    return render_frames(objects, lighting=light)[0].astype(np.float32)


def _error(objects: Sequence[SceneObject], light: Lighting, truth: np.ndarray) -> float:
    return float(np.square(_render(objects, light) - truth).mean())


def _refine(others: Sequence[SceneObject], candidate: SceneObject, light: Lighting,
            truth: np.ndarray, evaluations: int = 35) -> SceneObject:
    """Return the object at the position and rotation nearby that fit the frame best."""
    name, *start = candidate
    # The rotation shows only on a cube.
    steps = [0.25, 0.3, 0.4] if name.endswith("cube") else [0.25, 0.3]
    free = len(steps)

    def with_values(values: np.ndarray) -> SceneObject:
        return SceneObject(name, *map(float, values), *start[free:])

    def cost(values: np.ndarray) -> float:
        if abs(values[0]) > 10 or not 3 - CAMERA[0] < values[1] < 20:
            return math.inf
        return _error([*others, with_values(values)], light, truth)

    first = np.array(start[:free])
    simplex = np.vstack([first, first + np.diag(steps)])
    found = minimize(cost, first, method="Nelder-Mead",
                     options={"initial_simplex": simplex, "maxfev": evaluations,
                              "xatol": 0.01, "fatol": 1e-3})
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


def reference_frames(folder: str | Path) -> list[tuple[Path, Sequence[str] | None]]:
    """Return images, or raise `UserError`, and the names of their objects if there are labels."""
    folder = typed_path(folder)
    if not folder.is_dir():
        raise UserError(f"reference: {folder} is not a folder, expected one with real frames")
    if (folder / "train.json").exists():
        labels = read_train(folder / "train.json")
        return [(path, labels[name]) for name, path in folder_files(folder).found.items()]
    return [(path, None) for path in pictures_in(folder_of_pictures(folder))]


def compare_folder(folder: str | Path, max_frames: int = 6) -> list[Comparison]:
    """Return the first 4:3 frames of a folder, each with its scene rendered again.

    A frame is taken as a continuation of the scene before it if that explains it about as well.
    Raises `UserError` if there is no such image.
    """
    found: list[Comparison] = []
    for path, names in reference_frames(folder):
        name, frame = path.name, _read_frame(path)
        if frame is None:
            continue
        before = found[-1].scene if found else None
        fits = before and (names is None or {o.name for o in before.objects} <= set(names))
        best = _comparison(name, frame, fit_objects(frame, names, before)) if fits else None
        if (best is None or _overlapping(best.scene.objects)
                or best.difference > found[-1].difference + _TOLERANCE):
            alone = _comparison(name, frame, fit_objects(frame, names))
            best = min((c for c in (best, alone) if c), key=lambda c: c.difference)
        found.append(best)
        if len(found) == max_frames:
            break
    if not found:
        raise UserError(f"reference: no 4:3 image in {folder}, expected real frames of 320x240")
    return found


def _overlapping(objects: Sequence[SceneObject]) -> bool:
    """Whether one object stands inside another, which shows that a frame begins a new scene."""
    return any(math.dist(a[1:3], b[1:3]) < RADIUS for a, b in combinations(objects, 2))


def _read_frame(path: Path) -> np.ndarray | None:
    """Return an image as uint8 (240, 320, 3), None if it is not 4:3."""
    picture = open_image(path)
    fits = abs(picture.width * 3 - picture.height * 4) <= 8
    return np.asarray(picture.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)) if fits else None


def _comparison(name: str, real: np.ndarray, scene: Scene) -> Comparison:
    rendered = _render(scene.objects, Lighting(scene.lamp_shift)).astype(np.uint8)
    inside = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for scene_object in scene.objects:
        left, top, right, bottom = object_box(scene_object)
        inside[top:bottom, left:right] = 255
    difference = np.abs(_squash(rendered) - _squash(real)).mean(-1)
    boxes = _squash(inside)[..., 0] > 127
    return Comparison(name, real, rendered, scene, float(difference.mean()),
                      float(difference[boxes].mean()) if boxes.any() else 0.0)


def _squash(frame: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize((64, 64), Image.Resampling.BILINEAR), float)
