"""The 24 objects of i-CLEVR, their indices, and the lab's label files.

``index = 8 * shape + colour`` with the shapes and colours in the order below. A condition is a
tuple of one or more object names. As a tensor it is a multi-hot float vector (24,) that keeps
their order: 1 for the first name, 1/64 less for each further one, 0 for objects not named. In
i-CLEVR that is the order in which the objects were placed, the first at the centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cddpm_core.config.errors import UserError, did_you_mean, shown
from cddpm_core.config.files import read_json

if TYPE_CHECKING:
    import torch

__all__ = ["COLOURS", "CONDITION_FILES", "OBJECTS", "SHAPES", "check_names", "condition_file",
           "from_multi_hot", "read_conditions", "read_objects", "read_train",
           "to_multi_hot"]

SHAPES = ("cube", "sphere", "cylinder")
# CLEVR's published colours, as RGB of 255.
COLOURS = {
    "gray": (87, 87, 87), "red": (173, 35, 35), "blue": (42, 75, 215), "green": (29, 105, 20),
    "brown": (129, 74, 25), "purple": (129, 38, 192), "cyan": (41, 208, 208),
    "yellow": (255, 238, 51)}
OBJECTS = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
CONDITION_FILES = ("test", "new_test")

_INDEX = {name: i for i, name in enumerate(OBJECTS)}
_STEP = 1 / 64  # exact in bfloat16, and all 24 objects stay above one half


def check_names(names: Any, where: str) -> tuple[str, ...]:
    """Return known, distinct object names; else a `UserError` whose sentence starts ``where``."""
    if not isinstance(names, list | tuple):
        raise UserError(f"{where}: expected a list of object names, found {shown(names)}")
    if not names:
        raise UserError(f"{where}: the label list is empty, expected at least one object name")
    for name in names:
        if not isinstance(name, str) or name not in _INDEX:
            raise UserError(f"{where}: unknown label {shown(name)}{did_you_mean(name, OBJECTS)}, "
                            "expected a colour and a shape such as 'red sphere'")
    if len(set(names)) != len(names):
        raise UserError(f"{where}: an object is named twice in {shown(list(names))}")
    return tuple(names)


def to_multi_hot(names: Sequence[str]) -> torch.Tensor:
    """Return the (24,) float vector of a condition; `UserError` if a name is unknown.

    Entries above one half belong to the named objects, greater ones to those named earlier.
    """
    import torch  # commands that only name objects need not wait for it

    multi_hot = torch.zeros(len(OBJECTS))
    for position, name in enumerate(check_names(names, "labels")):
        multi_hot[_INDEX[name]] = 1 - position * _STEP
    return multi_hot


def from_multi_hot(multi_hot: torch.Tensor) -> tuple[str, ...]:
    """Return the names whose entries of a (24,) vector are above one half, greatest first.

    Names of equal entries come in the order of their indices.
    """
    if multi_hot.shape != (len(OBJECTS),):
        raise ValueError(f"expected shape ({len(OBJECTS)},), found {tuple(multi_hot.shape)}")
    order = multi_hot.argsort(descending=True, stable=True).tolist()
    return tuple(OBJECTS[i] for i in order if multi_hot[i] > 0.5)


def read_objects(path: str | Path) -> dict[str, int]:
    """Return ``objects.json``: the 24 names with their indices, all different.

    The file is only checked: the package uses names, and the indices of `OBJECTS`.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected names with indices, found {type(found).__name__}")
    names: dict[int, str] = {}
    for name in {**found, **_INDEX}:
        if name not in _INDEX:
            raise UserError(f"{path}: unknown object {shown(name)}{did_you_mean(name, OBJECTS)}")
        if name not in found:
            raise UserError(f"{path}: {name!r} is missing, expected all {len(OBJECTS)} objects")
        index = found[name]
        if type(index) is not int or names.setdefault(index, name) != name:
            other = f", which is that of {names[index]!r}" if type(index) is int else ""
            raise UserError(f"{path}: {name!r} has index {shown(index)}{other}, expected "
                            f"{_INDEX[name]}")
    return found


def read_train(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Return ``train.json``: file name -> condition, in file order."""
    found = read_json(path)
    if not isinstance(found, dict) or not found:
        raise UserError(f"{path}: expected a non-empty object of file name to label list, found "
                        f"{shown(found)}")
    return {file: check_names(names, f"{path}: {shown(file)}") for file, names in found.items()}


def read_conditions(path: str | Path) -> list[tuple[str, ...]]:
    """Return a condition file such as ``test.json``: a list of conditions, in file order."""
    found = read_json(path)
    if not isinstance(found, list) or not found:
        raise UserError(f"{path}: expected a non-empty list of label lists, found {shown(found)}")
    return [check_names(names, f"{path}: row {row}") for row, names in enumerate(found)]


def condition_file(name: str) -> Path:
    """Return the path of a label file shipped with the package: ``test`` or ``new_test``."""
    if name not in CONDITION_FILES:
        raise UserError(f"conditions: unknown file {name!r}{did_you_mean(name, CONDITION_FILES)}, "
                        f"expected one of {', '.join(CONDITION_FILES)}")
    return Path(str(resources.files("cddpm_core.data") / "lab" / f"{name}.json"))
