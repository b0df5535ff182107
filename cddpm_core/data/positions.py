"""Positions of objects: what each frame of a scene adds to the one before.

i-CLEVR builds its scenes up object by object: ``CLEVR_train_000007_1.png`` shows what
``..._0.png`` shows and one object more, the last that its label names. No other annotation is
needed. In a data set without such frames the positions are unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from cddpm_core.data.labels import OBJECTS

__all__ = ["find_positions", "scene_layouts", "scene_numbers"]

_FRAME = re.compile(r"(.*_)(\d+)(\.\w+)?")
_FRACTION = 0.4  # of the greatest difference: below it lie shadows


def _centre(difference: np.ndarray) -> np.ndarray:
    """The weighted centre of what differs most, as fractions of width and height."""
    height, width = difference.shape
    weight = np.maximum(difference - _FRACTION * difference.max(), 0.0)
    if not weight.any():
        return np.full(2, np.nan)
    return np.array([weight.sum(0) @ (np.arange(width) + 0.5) / width,
                     weight.sum(1) @ (np.arange(height) + 0.5) / height]) / weight.sum()


def _smooth(difference: np.ndarray) -> np.ndarray:
    """Means of 3x3 pixels, so that no single one stands out."""
    padded = F.pad(torch.from_numpy(difference)[None], (1, 1, 1, 1), mode="replicate")
    return F.avg_pool2d(padded, 3, stride=1)[0].numpy()


def _frames_before(files: Sequence[str], conditions: Sequence[Sequence[str]]) -> dict[int, int]:
    """The number of each frame that adds an object to another, and that of the other."""
    frames = [_FRAME.fullmatch(file.lower()) for file in files]
    number = {(match[1], int(match[2])): i for i, match in enumerate(frames) if match}
    before = {}
    for i, (match, names) in enumerate(zip(frames, conditions, strict=True)):
        j = number.get((match[1], int(match[2]) - 1)) if match else None
        if j is not None and tuple(names[:-1]) == tuple(conditions[j]):
            before[i] = j
    return before


def scene_numbers(files: Sequence[str], conditions: Sequence[Sequence[str]]) -> np.ndarray:
    """Return the scene of each image, (N,): the index of the scene's first frame."""
    scenes, before = np.arange(len(files)), _frames_before(files, conditions)
    for i in sorted(before, key=lambda i: len(conditions[i])):
        scenes[i] = scenes[before[i]]
    return scenes


def find_positions(files: Sequence[str], conditions: Sequence[Sequence[str]],
                   read: Callable[[int], np.ndarray],
                   wanted: Iterable[int] | None = None) -> np.ndarray:
    """Return the position of each of the 24 objects in each image, float32 (N, 24, 2).

    Positions are fractions of width and height, those of absent or unknown objects NaN. ``read``
    gives the pixels (H, W, 3) of an image by its number. Only ``wanted`` images, by default all,
    and the earlier frames of their scenes are compared. The first object of every scene stands at
    the same position, which is where the first frames differ most from one another.
    """
    positions = np.full((len(files), len(OBJECTS), 2), np.nan, np.float32)
    before = _frames_before(files, conditions)
    first = [i for i, names in enumerate(conditions) if i not in before and len(names) == 1]
    if not before or len(first) < 2:
        return positions
    some = np.stack([read(i) for i in first[:1000]]).astype(np.float32)
    positions[first, [OBJECTS.index(conditions[i][0]) for i in first]] = _centre(
        _smooth(some.std(0).mean(-1)))
    chain = sorted(before, key=lambda i: len(conditions[i]))
    needed = set(range(len(files)) if wanted is None else wanted)
    for i in reversed(chain):
        if i in needed:
            needed.add(before[i])
    for i in chain:
        if i not in needed:
            continue
        j = before[i]
        added = _smooth(np.abs(read(i).astype(np.float32) - read(j)).mean(-1))
        positions[i] = positions[j]
        positions[i, OBJECTS.index(conditions[i][-1])] = _centre(added)
    return positions


def scene_layouts(positions: np.ndarray, conditions: Sequence[Sequence[str]],
                  max_scenes: int = 4096) -> np.ndarray:
    """Return the positions of the objects of whole scenes in the order of their names, (M, k, 2).

    The scenes are those with the largest number of objects, k, and all positions known; M is at
    most ``max_scenes``. The first n positions of a scene are a layout for any n names.
    """
    size = max(map(len, conditions))
    rows = [positions[i, [OBJECTS.index(name) for name in names]]
            for i, names in enumerate(conditions) if len(names) == size]
    known = [row for row in rows if not np.isnan(row).any()][:max_scenes]
    return np.stack(known) if known else np.zeros((0, size, 2), np.float32)
