"""The scene behind a real frame: which objects stand where, found by rendering and comparing."""

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

from cddpm_core.errors import UserError
from cddpm_core.labels import OBJECTS, read_train
from cddpm_core.render import CAMERA, HEIGHT, RADIUS, WIDTH, object_box, project, render_frames

__all__ = ["Comparison", "compare_folder", "fit_objects", "unproject"]

_SMALLEST = 60  # pixels at 320x240; a smaller leftover is no object
_MORE = 0.5  # of 255: by how much a frame of the same scene may differ more than the one before
_FAR_AWAY = ("gray sphere", 0.0, 2000.0, 0.0)  # what an empty ground is drawn with
Placed = tuple[str, float, float, float]


@dataclass(frozen=True)
class Comparison:
    """A real frame beside the same scene rendered, both uint8 (240, 320, 3).

    ``objects`` are (name, x, y, rotation); ``difference`` is the mean absolute difference
    of 0..255 after both are squashed to 64x64, ``difference_in_boxes`` that inside the
    objects' boxes.
    """

    file: str
    real: np.ndarray
    drawn: np.ndarray
    objects: tuple[Placed, ...]
    difference: float
    difference_in_boxes: float


def unproject(u: float, v: float, z: float = RADIUS) -> tuple[float, float]:
    """Return ground coordinates (x, y) of the point at height ``z`` seen at pixel (u, v)."""
    def miss(place: np.ndarray) -> float:
        seen = project(place[:1], place[1:], np.full(1, z))
        return float((seen[0][0] - u) ** 2 + (seen[1][0] - v) ** 2)

    x, y = minimize(miss, np.zeros(2), method="Nelder-Mead",
                    bounds=[(-12, 12), (-CAMERA[0] + 3, 30)]).x
    return float(x), float(y)


def fit_objects(frame: np.ndarray, names: Sequence[str] | None = None,
                known: Sequence[Placed] = (), most: int = 5) -> tuple[Placed, ...]:
    """Return the objects of a frame, uint8 (240, 320, 3), each as (name, x, y, rotation).

    Where the frame differs most from the scene found so far, an object is added: the
    one of ``names`` not used yet (by default of all 24) and the place and rotation that
    bring the render nearest to the frame. Without ``names`` it ends when nothing of an
    object's size is left over. ``known`` are objects to begin with.
    """
    truth = frame.astype(np.float32)
    found = list(known)
    left = None if names is None else [n for n in names if n not in {o[0] for o in found}]
    while len(found) < most and left != []:
        place = _largest_difference(_draw(found), truth)
        if place is None and left is None:
            break
        x, y = unproject(*(place or (WIDTH / 2, HEIGHT / 2)))
        free = left or [n for n in OBJECTS if n not in {o[0] for o in found}]
        likely = sorted(free, key=lambda n: _error([*found, (n, x, y, 0.0)], truth))[:3]
        tried = [_refine(found, (name, x, y, 0.0), truth) for name in likely]
        best = min(tried, key=lambda placed: _error([*found, placed], truth))
        if left is None and _error([*found, best], truth) > 0.97 * _error(found, truth):
            break
        found.append(best)
        if left is not None:
            left.remove(best[0])
    for index, placed in enumerate(found[len(known):], start=len(known)):
        others = found[:index] + found[index + 1:]
        found[index] = _refine(others, placed, truth)
    return tuple(found)


def _draw(objects: Sequence[Placed]) -> np.ndarray:
    return render_frames(list(objects) or [_FAR_AWAY])[0].astype(np.float32)


def _error(objects: Sequence[Placed], truth: np.ndarray) -> float:
    return float(np.square(_draw(objects) - truth).mean())


def _refine(others: Sequence[Placed], placed: Placed, truth: np.ndarray) -> Placed:
    """Return the object at the place and rotation nearby that suit the frame best."""
    name, *start = placed
    steps = [0.3, 0.4, 0.4] if name.endswith("cube") else [0.3, 0.4]  # only a cube's turn shows
    free = len(steps)

    def with_values(values: np.ndarray) -> Placed:
        return (name, *map(float, values), *start[free:])

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


def _largest_difference(drawn: np.ndarray, truth: np.ndarray) -> tuple[float, float] | None:
    """Return the centre (u, v) of the largest patch where two frames differ, if there is one."""
    difference = np.abs(drawn - truth)
    # Colour tells an object from a shadow; a gray object shows by level alone.
    patch = binary_opening(np.ptp(truth - drawn, axis=-1) + 0.5 * difference.max(-1) > 22,
                           iterations=2)
    parts, count = label(patch)
    if not count:
        return None
    sizes = np.bincount(parts.ravel())[1:]
    if sizes.max() < _SMALLEST:
        return None
    rows, columns = np.nonzero(parts == 1 + int(sizes.argmax()))
    return float(columns.mean()), float(rows.mean())


def compare_folder(folder: str | Path, most: int = 6) -> list[Comparison]:
    """Return up to ``most`` real frames of a folder, each beside its scene rendered again.

    With a ``train.json`` its first images are taken and its labels say what they show;
    otherwise all 4:3 images in the order of their names. A frame is taken to continue
    the scene before it if that already explains it. Raises `UserError` if there is
    no such image.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"reference: {folder} is not a folder, expected one with real frames")
    if (folder / "train.json").exists():
        wanted = list(read_train(folder / "train.json").items())[:most]
    else:
        wanted = [(path.name, None) for path in sorted(folder.glob("*.png"))]
    found: list[Comparison] = []
    before: tuple[Placed, ...] = ()
    for name, names in wanted:
        if len(found) == most:
            break
        frame = _read_frame(folder, name)
        if frame is None:
            continue
        fits = before and (names is None or {o[0] for o in before} <= set(names))
        seen = _comparison(name, frame, fit_objects(frame, names, before)) if fits else None
        if (seen is None or _overlapping(seen.objects)
                or seen.difference > found[-1].difference + _MORE):
            alone = _comparison(name, frame, fit_objects(frame, names))
            seen = min((s for s in (seen, alone) if s), key=lambda s: s.difference)
        found.append(seen)
        before = seen.objects
    if not found:
        raise UserError(f"reference: no 4:3 image in {folder}, expected real frames of 320x240")
    return found


def _overlapping(objects: Sequence[Placed]) -> bool:
    """Whether one object stands inside another: a sign of a scene that is another one."""
    return any(math.dist(a[1:3], b[1:3]) < RADIUS for a, b in combinations(objects, 2))


def _read_frame(folder: Path, name: str) -> np.ndarray | None:
    """Return an image as uint8 (240, 320, 3), None if it is not 4:3."""
    path = next((p for part in ("iclevr", "images", ".") if (p := folder / part / name).exists()),
                folder / name)
    try:
        with Image.open(path) as picture:
            if abs(picture.width * 3 - picture.height * 4) > 8:
                return None
            small = picture.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    except Exception as error:  # Pillow has many
        raise UserError(f"{path}: not a readable image ({type(error).__name__})") from None
    return np.asarray(small)


def _comparison(name: str, real: np.ndarray, objects: tuple[Placed, ...]) -> Comparison:
    drawn = _draw(objects).astype(np.uint8)
    inside = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for placed in objects:
        left, top, right, bottom = object_box(placed)
        inside[top:bottom, left:right] = 255
    small, boxes = np.abs(_squash(drawn) - _squash(real)).mean(-1), _squash(inside)[..., 0] > 127
    return Comparison(name, real, drawn, objects, float(small.mean()),
                      float(small[boxes].mean()) if boxes.any() else 0.0)


def _squash(frame: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize((64, 64), Image.Resampling.BILINEAR), float)
