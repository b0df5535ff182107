"""Where the objects of an image stand, found as what each frame of a scene adds to the one before.

i-CLEVR builds its scenes up object by object: ``CLEVR_train_000007_1.png`` shows what
``..._0.png`` shows and one object more, the last that its label names. No other annotation is
needed, and where a data set has no such frames the places are unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from cddpm_core.labels import OBJECTS

__all__ = ["find_places", "scene_layouts"]

_FRAME = re.compile(r"(.*_)(\d+)\.\w+")
_SHARE = 0.4  # of the greatest difference: what is above it is object, not shadow


def _centre(difference: np.ndarray) -> np.ndarray:
    """The weighted centre of what differs most, as shares of width and height."""
    height, width = difference.shape
    weight = np.maximum(difference - _SHARE * difference.max(), 0.0)
    if not weight.any():
        return np.full(2, np.nan)
    return np.array([weight.sum(0) @ (np.arange(width) + 0.5) / width,
                     weight.sum(1) @ (np.arange(height) + 0.5) / height]) / weight.sum()


def _smooth(difference: np.ndarray) -> np.ndarray:
    """Means of 3x3 pixels, so that no single one stands out."""
    padded = np.pad(difference, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9


def find_places(files: Sequence[str], label_sets: Sequence[Sequence[str]],
                read: Callable[[int], np.ndarray],
                wanted: Iterable[int] | None = None) -> np.ndarray:
    """Return where each of the 24 objects stands in each image, float32 (N, 24, 2).

    Places are shares of width and height, those of absent or unknown objects NaN. ``read`` gives
    the pixels (H, W, 3) of an image by its number; only ``wanted`` images, all by default, and
    those that their scenes begin with are compared. The first object of all scenes stands at one
    place, which is where the first frames differ most from one another.
    """
    places = np.full((len(files), len(OBJECTS), 2), np.nan, np.float32)
    number = {file: i for i, file in enumerate(files)}
    before, first = {}, []
    for i, (file, names) in enumerate(zip(files, label_sets, strict=True)):
        match = _FRAME.fullmatch(file)
        j = number.get(f"{match[1]}{int(match[2]) - 1}{file[match.end(2):]}") if match else None
        if j is not None and tuple(names[:-1]) == tuple(label_sets[j]):
            before[i] = j
        elif len(names) == 1:
            first.append(i)
    if not before or len(first) < 2:
        return places
    some = np.stack([read(i) for i in first[:1000]]).astype(np.float32)
    places[first, [OBJECTS.index(label_sets[i][0]) for i in first]] = _centre(
        _smooth(some.std(0).mean(-1)))
    chain = sorted(before, key=lambda i: len(label_sets[i]))
    needed = set(range(len(files)) if wanted is None else wanted)
    for i in reversed(chain):
        if i in needed:
            needed.add(before[i])
    for i in chain:
        if i not in needed:
            continue
        j = before[i]
        added = _smooth(np.abs(read(i).astype(np.float32) - read(j)).mean(-1))
        places[i] = places[j]
        places[i, OBJECTS.index(label_sets[i][-1])] = _centre(added)
    return places


def scene_layouts(places: np.ndarray, label_sets: Sequence[Sequence[str]],
                  most: int = 4096) -> np.ndarray:
    """Return the places of the objects of whole scenes in the order of their labels, (M, k, 2).

    The scenes are those of the most objects, k, all of known places; M is at most ``most``. They
    stand at random, whatever they are: the first n places of a scene are a layout for any n names.
    """
    size = max(map(len, label_sets))
    rows = [places[i, [OBJECTS.index(name) for name in names]]
            for i, names in enumerate(label_sets) if len(names) == size]
    known = [row for row in rows if not np.isnan(row).any()][:most]
    return np.stack(known) if known else np.zeros((0, size, 2), np.float32)
