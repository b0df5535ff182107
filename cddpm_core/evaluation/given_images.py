"""Images made elsewhere: a folder, a grid picture, several files, or a list of files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cddpm_core.config.errors import UserError, did_you_mean, shown
from cddpm_core.config.files import read_json, read_text, typed_path
from cddpm_core.config.folders import ARCHIVES, by_number, folder_of_pictures, pictures_in
from cddpm_core.data.images import open_image
from cddpm_core.evaluation.grids import cut_grid, reduced

__all__ = ["GivenImages", "read_images"]

LISTS = (".txt", ".json")
LOSSY = {"JPEG", "MPO", "WEBP"}
MAX_LIST = 10_000  # files


@dataclass(frozen=True)
class GivenImages:
    """Images and where they come from.

    ``pixels`` are uint8 (N, H, W, 3), ``names`` their files, or the cells of a grid. ``facts``
    say of the source what it ``is`` and of the images how many and how large they are.
    """

    source: str
    pixels: np.ndarray
    names: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pixels)


def read_images(source: str | Path | Sequence[str | Path], *, expected: int = 0, cell: int = 0,
                padding: int | None = None, columns: int = 0) -> GivenImages:
    """Return the images of a folder, of a grid picture, of several files or of a list of files.

    Files of a folder come in the order of the numbers in their names: 2.png before 10.png. A
    list is a text file with one path per line, or a JSON file with a list of paths; they are
    relative to its folder. ``expected`` is the number of images there should be, 0 if not known;
    ``cell``, ``padding`` and ``columns`` describe a grid, see `cut_grid`.

    Raises `UserError` for files that are missing or no images, images of several sizes, and a
    picture that cannot be cut.
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    if not sources:
        raise UserError("images: found no files, expected a folder, a grid picture, or files")
    paths = [typed_path(each) for each in sources]
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder{_near(path)}")
        if path.suffix.lower() in ARCHIVES:
            raise UserError(f"{path}: an archive, unpack it first")
    where = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    kind = "files"
    if len(paths) == 1 and paths[0].is_dir():
        kind, paths = "folder", pictures_in(folder_of_pictures(paths[0]))
    elif len(paths) == 1 and paths[0].suffix.lower() in LISTS:
        kind, paths = "list", _listed(paths[0])
    elif _is_lexical([path.name for path in paths]):
        paths = sorted(paths, key=by_number)  # as a shell gives them for *.png
    grid = len(paths) == 1 and _grid(paths[0], where, expected, cell, padding, columns)
    if grid:
        return grid
    if cell or columns or padding is not None:
        raise UserError(f"{where}: found {len(paths)} files, and cell, padding or columns, which "
                        "are those of one grid picture")
    pictures = [np.asarray(open_image(path)) for path in paths]
    return _given(where, kind, pictures, [path.name for path in paths], paths)


def _grid(path: Path, where: str, expected: int, cell: int, padding: int | None,
          columns: int) -> GivenImages | None:
    """The images of a grid picture; None if the file is itself the one image that is wanted."""
    picture = np.asarray(open_image(path))
    given = cell or columns or padding is not None
    if picture.shape[:2] == (64, 64) and not given:
        return None
    try:
        cells, grid = cut_grid(picture, cell=cell, padding=padding, columns=columns,
                               expected=expected, where=where)
    except UserError:
        if expected == 1 and not given:
            return None
        raise
    return _given(where, "grid", cells, [f"cell {i}" for i in range(len(cells))], [path],
                  cell=[grid.width, grid.height], padding=grid.padding, columns=grid.columns,
                  rows=grid.rows)


def _given(where: str, kind: str, pictures: Sequence[np.ndarray], names: Sequence[str],
           paths: Sequence[Path], **more: Any) -> GivenImages:
    for picture, name in zip(pictures, names, strict=True):
        if picture.shape != pictures[0].shape:
            sizes = [f"{p.shape[1]} x {p.shape[0]}" for p in (pictures[0], picture)]
            raise UserError(f"{where}: expected images of one size, found {names[0]} of "
                            f"{sizes[0]} and {name} of {sizes[1]} pixels")
    pixels, factor = reduced(np.stack(pictures))
    return GivenImages(where, pixels, tuple(names), {
        "source": where, "is": kind, "images": len(pixels), "width": pixels.shape[2],
        "height": pixels.shape[1], **({"enlarged": factor} if factor > 1 else {}), **more,
        "lossy": sorted({_format(path) for path in paths} & LOSSY),
        "gray": bool((pixels == pixels[..., :1]).all())})


def _format(path: Path) -> str:
    with Image.open(path) as image:
        return str(image.format)


def _listed(path: Path) -> list[Path]:
    if path.suffix.lower() == ".json":
        lines = read_json(path)
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise UserError(f"{path}: expected a list of paths of images")
    else:
        lines = [line.strip().strip('"') for line in read_text(path).splitlines()]
    named = [_beside(path, line) for line in lines if line]
    if not 0 < len(named) <= MAX_LIST:
        raise UserError(f"{path}: expected the paths of 1 to {MAX_LIST:,} images, found "
                        f"{len(named):,}")
    for number, file in enumerate(named, 1):
        if not os.path.isfile(file):
            raise UserError(f"{path}: entry {number}: {shown(str(file))} is no file{_near(file)}")
    return named


def _beside(path: Path, name: str) -> Path:
    """The file that a list names, on Windows perhaps."""
    given = path.parent / os.path.expanduser(name)
    return given if os.path.exists(given) else path.parent / name.replace("\\", "/")


def _is_lexical(names: Sequence[str]) -> bool:
    return list(names) == sorted(names) and all(re.search(r"\d", name) for name in names)


def _near(path: Path) -> str:
    """The nearest names in the folder of a path that does not exist."""
    try:
        return did_you_mean(path.name, [other.name for other in path.parent.iterdir()])
    except OSError:
        return ""
