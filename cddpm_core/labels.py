"""The 24 objects of i-CLEVR, their indices, and the lab's label files.

``index = 8 * shape + colour`` with the shapes and colours in the order below.
A label set is a tuple of one or more object names; as a tensor it is a
multi-hot float vector of shape ``(24,)`` that keeps their order: 1 for the first
name, 1/64 less for each further one, 0 for objects not named. In i-CLEVR that is the
order in which the objects were placed, the first of them at the centre.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cddpm_core.errors import UserError, did_you_mean, shown

if TYPE_CHECKING:
    import torch

__all__ = [
    "COLOURS",
    "CONDITION_FILES",
    "OBJECTS",
    "SHAPES",
    "check_names",
    "condition_file",
    "from_multi_hot",
    "read_conditions",
    "read_json",
    "read_objects",
    "read_train",
    "to_multi_hot",
]

SHAPES = ("cube", "sphere", "cylinder")
COLOURS = ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow")
OBJECTS = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
CONDITION_FILES = ("test", "new_test")
MOST_BYTES = 50_000_000  # of a label file

_INDEX = {name: i for i, name in enumerate(OBJECTS)}
_STEP = 1 / 64  # exact in bfloat16, and all 24 objects stay above one half


def check_names(names: Any, where: str) -> tuple[str, ...]:
    """Return ``names`` as a tuple of known, distinct object names.

    ``where`` says where they were found and opens the sentence of the
    `UserError` raised for anything else.
    """
    if not isinstance(names, list | tuple):
        raise UserError(f"{where}: expected a list of object names, found {shown(names)}")
    if not names:
        raise UserError(f"{where}: the label list is empty, expected at least one object name")
    for name in names:
        if not isinstance(name, str) or name not in _INDEX:
            raise UserError(
                f"{where}: unknown label {shown(name)}{did_you_mean(name, OBJECTS)}, "
                "expected a colour and a shape such as 'red sphere'"
            )
    if len(set(names)) != len(names):
        raise UserError(f"{where}: an object is named twice in {shown(list(names))}")
    return tuple(names)


def to_multi_hot(names: Sequence[str], where: str = "labels") -> torch.Tensor:
    """Return the ``(24,)`` float vector of the names in their order; `UserError` if one is unknown.

    Its entries above one half are the names'; the greater one is named before the other.
    """
    import torch  # so late because commands that only name objects need not wait for it

    multi_hot = torch.zeros(len(OBJECTS))
    for place, name in enumerate(check_names(names, where)):
        multi_hot[_INDEX[name]] = 1 - place * _STEP
    return multi_hot


def from_multi_hot(multi_hot: torch.Tensor) -> tuple[str, ...]:
    """Return the names whose entry of the ``(24,)`` vector is above one half, greatest first.

    Those of equal entries are in the order of their indices.
    """
    if multi_hot.shape != (len(OBJECTS),):
        raise ValueError(f"expected shape ({len(OBJECTS)},), found {tuple(multi_hot.shape)}")
    order = multi_hot.argsort(descending=True, stable=True).tolist()
    return tuple(OBJECTS[i] for i in order if multi_hot[i] > 0.5)


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file; `UserError` if it is missing or malformed."""
    path = Path(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path}: expected at most {MOST_BYTES:,} bytes, "
                            f"found {path.stat().st_size:,}")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: malformed JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None


def read_objects(path: str | Path) -> dict[str, int]:
    """Return ``objects.json``, which must give the 24 names the indices the evaluator knows."""
    found = read_json(path)
    if found == _INDEX:
        return found
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected names with indices, found {type(found).__name__}")
    for name, index in found.items():
        if name not in _INDEX:
            raise UserError(f"{path}: unknown object {shown(name)}{did_you_mean(name, OBJECTS)}")
        if index != _INDEX[name]:
            raise UserError(f"{path}: {name!r} has index {shown(index)}, expected {_INDEX[name]}")
    missing = next(name for name in OBJECTS if name not in found)
    raise UserError(f"{path}: {missing!r} is missing, expected all {len(OBJECTS)} objects")


def read_train(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Return ``train.json``: file name -> label set, in file order."""
    found = read_json(path)
    if not isinstance(found, dict) or not found:
        raise UserError(f"{path}: expected a non-empty object of file name to label list")
    return {file: check_names(names, f"{path}: {shown(file)}") for file, names in found.items()}


def read_conditions(path: str | Path) -> list[tuple[str, ...]]:
    """Return a condition file such as ``test.json``: a list of label sets, in file order."""
    found = read_json(path)
    if not isinstance(found, list) or not found:
        raise UserError(f"{path}: expected a non-empty list of label lists")
    return [check_names(names, f"{path}: row {row}") for row, names in enumerate(found)]


def condition_file(name: str) -> Path:
    """Return the path of a label file shipped with the package: ``test`` or ``new_test``."""
    if name not in CONDITION_FILES:
        raise UserError(
            f"conditions: unknown file {name!r}{did_you_mean(name, CONDITION_FILES)}, "
            f"expected one of {', '.join(CONDITION_FILES)}"
        )
    return Path(str(resources.files("cddpm_core") / "lab" / f"{name}.json"))
