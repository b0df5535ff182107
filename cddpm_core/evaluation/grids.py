"""Grid pictures, as torchvision's ``make_grid`` writes them, cut back into their images.

In such a picture, all cells have the same size; ``padding`` pixels of one colour lie around and
between them, and cells without an image at the end of the last row have that colour too. A grid
with padding is recognised by these lines alone. Without padding, cells are looked for whose
edges are where neighbouring pixels differ most.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cddpm_core.config.errors import UserError

__all__ = ["Grid", "cut_grid", "reduced"]

MIN_CELL, MAX_PADDING = 8, 64  # pixels


class Grid(NamedTuple):
    """How a picture is divided: sizes in its pixels, and how many cells."""

    height: int
    width: int
    padding: int
    rows: int
    columns: int

    def cells(self, picture: np.ndarray) -> np.ndarray:
        """Return all cells of a picture (H, W, 3), row by row, (N, height, width, 3)."""
        p = self.padding
        tiles = picture[p:, p:] if p else picture
        return np.stack([tiles[y:y + self.height, x:x + self.width]
                         for y in range(0, self.rows * (self.height + p), self.height + p)
                         for x in range(0, self.columns * (self.width + p), self.width + p)])

    def __str__(self) -> str:
        return (f"{self.columns} x {self.rows} cells of {self.width} x {self.height} pixels with "
                f"{self.padding} between")


class _Axis(NamedTuple):
    """A division of one side of a picture, and how many lines of one colour it leaves over."""

    size: int
    padding: int
    count: int
    unexplained: int


def cut_grid(picture: np.ndarray, *, cell: int = 0, padding: int | None = None, columns: int = 0,
             expected: int = 0, where: str = "picture") -> tuple[np.ndarray, Grid]:
    """Return the images of a grid picture, uint8 (N, h, w, 3), and how it was divided.

    Args:
        picture: uint8 (H, W, 3). If it is lossy, lines need not be exactly of one colour.
        cell, padding, columns: what is known of the grid, in pixels of the picture: the width of
            a cell, the pixels between cells, the number of columns. 0 and None: not known.
        expected: the number of images there should be, to choose between divisions that fit
            equally well. 0: not known.
        where: what the sentence of an error begins with.

    Raises `UserError` if no division fits; the sentence says what was found.
    """
    grid, lossy = _find(picture, cell, padding, columns, expected)
    if grid is None:
        height, width = picture.shape[:2]
        given = ", ".join(f"{name} {value}" for name, value in (
            ("cell", cell or None), ("padding", padding), ("columns", columns or None))
            if value is not None)
        free = _find(picture, 0, None, 0, expected)[0] if given else None
        found = (f"and {free}" if free else "and no lines of one colour between cells of one size")
        wanted = (f" as a grid with {given}" if given else
                  ", give --cell, --padding and --columns if it is a grid")
        raise UserError(f"{where}: cannot be cut into images{wanted}; found {width} x {height} "
                        f"pixels {found}")
    cells = grid.cells(picture)
    colour = picture[0, 0] if grid.padding else cells[-1, 0, 0]
    filled = np.flatnonzero(~_plain(_away(cells, colour).reshape(len(cells), -1), lossy))
    count = int(filled[-1]) + 1 if len(filled) else len(cells)
    # A row without any image is none that `make_grid` writes, so its images are of one colour.
    count = max(count, len(cells) - grid.columns + 1)
    return cells[:count], grid


def reduced(images: np.ndarray) -> tuple[np.ndarray, int]:
    """Return images (N, H, W, 3) that were enlarged pixel by pixel at their own size.

    The second value is the factor; 1 if they are not enlarged.
    """
    height, width = images.shape[1:3]
    for factor in range(min(height, width) // MIN_CELL, 1, -1):
        small = images[:, ::factor, ::factor]
        if (height % factor == 0 and width % factor == 0 and np.ptp(images, (1, 2)).any()
                and np.array_equal(small.repeat(factor, 1).repeat(factor, 2), images)):
            return small, factor
    return images, 1


def _find(picture: np.ndarray, cell: int, padding: int | None, columns: int,
          expected: int) -> tuple[Grid | None, bool]:
    """Return the division, and whether lines are only nearly of one colour, as in a JPEG."""
    if padding == 0 or not np.ptp(picture, (0, 1)).any():
        return _by_edges(picture, cell, columns, expected), True
    for lossy in (False, True):
        if grid := _by_lines(picture, lossy, cell, padding, columns, expected):
            return grid, lossy
    return None if padding else _by_edges(picture, cell, columns, expected), True


def _away(pixels: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """How far pixels (..., 3) are from a colour on average over the channels, of 255 levels."""
    return np.abs(pixels.astype(np.int16) - colour.astype(np.int16)).mean(-1)


def _plain(away: np.ndarray, lossy: bool) -> np.ndarray:
    """Whether each row of distances to a colour, (N, pixels), is all of that colour."""
    if not lossy:
        return away.max(1) == 0
    # Lines of 2 pixels are 2 levels away in common JPEGs, 20 in those of low quality with strong
    # colours; lines through images are over 70.
    return (away.mean(1) <= 24) & (np.percentile(away, 95, axis=1) <= 48)


def _by_lines(picture: np.ndarray, lossy: bool, cell: int, padding: int | None, columns: int,
              expected: int) -> Grid | None:
    """Return the division that explains the most lines of the colour of the first pixel."""
    away = _away(picture, picture[0, 0])
    rows, cols = _plain(away, lossy), _plain(away.T, lossy)
    best, least = None, None
    down: dict[int, list[_Axis]] = {}
    for axis in _divisions(rows, padding):
        down.setdefault(axis.padding, []).append(axis)
    for x in _divisions(cols, padding):
        for y in down.get(x.padding, ()):
            count = x.count * y.count
            if (cell and x.size != cell) or (columns and x.count != columns) or count == 1:
                continue
            cost = (x.unexplained + y.unexplained, not _holds(count, x.count, expected),
                    x.size != y.size, -count)
            if least is None or cost < least:
                best, least = Grid(y.size, x.size, x.padding, y.count, x.count), cost
    return best


def _holds(cells: int, columns: int, expected: int) -> bool:
    return not expected or cells - columns < expected <= cells


def _divisions(lines: np.ndarray, padding: int | None) -> Iterator[_Axis]:
    """Yield each division of one side whose lines are all there."""
    length, starts = len(lines), np.flatnonzero(lines)
    if not len(starts) or starts[0] != 0:
        return
    for p in range(1, MAX_PADDING + 1) if padding is None else [padding]:
        if not lines[:p].all() or length <= p:
            return
        for count in range(1, (length - p) // (p + MIN_CELL) + 1):
            step, rest = divmod(length - p, count)
            if rest == 0 and lines[np.arange(count + 1)[:, None] * step + np.arange(p)].all():
                yield _Axis(step - p, p, count, len(starts) - (count + 1) * p)


def _by_edges(picture: np.ndarray, cell: int, columns: int, expected: int) -> Grid | None:
    """Return the division into square cells without padding at whose edges pixels differ most."""
    height, width = picture.shape[:2]
    if cell or columns:
        side = cell or width // columns
        if not side or height % side or width % side:
            return None
        grid = Grid(side, side, 0, height // side, width // side)
        return grid if columns in (0, grid.columns) else None
    jumps = [np.abs(np.diff(picture.astype(np.int16), axis=axis)).mean((1 - axis, 2))
             for axis in (0, 1)]
    best, most = None, 0.0
    for side in range(2 * MIN_CELL, min(height, width) + 1):
        grid = Grid(side, side, 0, height // side, width // side)
        if height % side or width % side or grid.rows * grid.columns == 1 or not _holds(
                grid.rows * grid.columns, grid.columns, expected):
            continue
        edges = np.concatenate([jump[side - 1::side] for jump in jumps])
        inside = np.concatenate([np.delete(jump, np.s_[side - 1::side]) for jump in jumps])
        clear = (edges.mean() - inside.mean()) * len(edges)**0.5
        if edges.mean() > 1.5 * inside.mean() and clear > most:
            best, most = grid, clear
    return best
