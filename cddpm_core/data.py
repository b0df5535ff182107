"""Data sets: training images with their labels, and the label sets to draw."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from cddpm_core.errors import UserError
from cddpm_core.images import READING_VERSION, image_paths, load_image, to_tensor
from cddpm_core.labels import (
    condition_file,
    read_conditions,
    read_objects,
    read_train,
    to_multi_hot,
)
from cddpm_core.layout import find_places, scene_layouts
from cddpm_core.runs import atomic, progress

__all__ = ["ConditionDataset", "IclevrDataset", "varying_rows"]


class IclevrDataset(Dataset):
    """The training images of a data folder.

    Item ``i`` is an image, float (3, image_size, image_size) in [-1, 1], and
    its multi-hot label, float (24,), in the order of ``train.json``.

    Args:
        folder: the data folder.
        image_size: side of the square images in pixels.
        leave_out: label sets, in any order of names, whose images are not taken.
        in_memory: hold the resized set as uint8 (N, H, W, 3) in ``pixels``,
            221 MB for the lab's 18,009 images, rather than read files again.
        cache: a folder to keep that resized set in, as ``.npy``. It is taken from there
            as long as names, sizes and times of the image files stay what they were.

    Raises `UserError` for missing or malformed label files and for missing or
    unreadable images, the missing ones before any image is read.
    """

    def __init__(self, folder: str | Path, image_size: int = 64, in_memory: bool = True,
                 leave_out: Iterable[Iterable[str]] = (), cache: str | Path | None = None) -> None:
        folder = Path(folder)
        train = read_train(folder / "train.json")
        if (folder / "objects.json").exists():
            read_objects(folder / "objects.json")
        hidden = {frozenset(names) for names in leave_out}
        self._listed = train
        train = {file: names for file, names in train.items() if frozenset(names) not in hidden}
        if not train:
            raise UserError(f"{folder / 'train.json'}: expected label sets that are not left out, "
                            "found none")
        self.folder, self.image_size = folder, image_size
        self.files = image_paths(folder, list(train))
        self.label_sets = list(train.values())
        self.labels = torch.stack([to_multi_hot(names) for names in self.label_sets])
        self.pixels = None
        if in_memory:
            self.pixels = self._read_all() if cache is None else self._read_once(Path(cache))

    def _read_once(self, cache: Path) -> np.ndarray:
        files = [(path.name, (at := path.stat()).st_size, at.st_mtime_ns) for path in self.files]
        about = repr((READING_VERSION, self.image_size, files))
        key = hashlib.sha256(about.encode()).hexdigest()[:12]
        path = cache / f"{key}.npy"
        try:
            pixels = np.load(path, allow_pickle=False)
            wanted = (len(self), self.image_size, self.image_size, 3)
            if pixels.dtype == np.uint8 and pixels.shape == wanted:
                return pixels
        except (OSError, ValueError, EOFError):
            pass  # not there yet, or damaged: what it holds is in the images
        pixels = self._read_all()
        with contextlib.suppress(UserError, OSError), atomic(path) as new, new.open("wb") as file:
            np.save(file, pixels)
        return pixels

    def _read_all(self) -> np.ndarray:
        pixels = np.empty((len(self), self.image_size, self.image_size, 3), np.uint8)
        with ThreadPoolExecutor() as pool, progress(total=len(self), desc="reading images",
                                                    unit="img") as bar:
            read = pool.map(lambda path: load_image(path, self.image_size), self.files)
            for index, image in enumerate(read):
                pixels[index] = image
                bar.update()
        return pixels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.pixels is not None:
            return to_tensor(self.pixels[index]), self.labels[index]
        return to_tensor(load_image(self.files[index], self.image_size)), self.labels[index]

    def batch(self, indices: Sequence[int] | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images (B, 3, H, W) and labels (B, 24) of many items at once."""
        if self.pixels is not None:
            return to_tensor(self.pixels[indices]), self.labels[indices]
        items = [self[int(i)] for i in indices]
        return torch.stack([x for x, _ in items]), torch.stack([y for _, y in items])

    @functools.cached_property
    def places(self) -> torch.Tensor:
        """Where each object stands in each image, float (N, 24, 2); see `layout.find_places`.

        An image that is left out still shows where the objects of the next one of its scene stand.
        """
        listed = list(self._listed)
        number = {file: i for i, file in enumerate(listed)}
        rows = [number[path.name] for path in self.files]
        kept = dict(zip(rows, range(len(self)), strict=True))

        def read(index: int) -> np.ndarray:
            if index in kept and self.pixels is not None:
                return self.pixels[kept[index]]
            return load_image(self.files[0].with_name(listed[index]), self.image_size)

        found = find_places(listed, list(self._listed.values()), read, wanted=rows)
        return torch.from_numpy(found[rows])

    def layouts(self) -> np.ndarray:
        """Return the places of the objects of whole scenes; see `layout.scene_layouts`."""
        return scene_layouts(self.places.numpy(), self.label_sets)

    def mean_and_std(self, most: int = 6000) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation of each pixel, floats (3, H, W).

        They are over up to ``most`` evenly spaced images in [-1, 1].
        """
        chosen = np.unique(np.linspace(0, len(self) - 1, min(most, len(self))).astype(int))
        total = squares = 0
        for part in np.array_split(chosen, max(1, len(chosen) // 256)):
            images = self.batch(part)[0].double()
            total, squares = total + images.sum(0), squares + (images**2).sum(0)
        mean = total / len(chosen)
        return mean.float(), (squares / len(chosen) - mean**2).clamp(min=0).sqrt().float()


def varying_rows(std: torch.Tensor, multiple: int = 1) -> tuple[int, int]:
    """Return the first row and the one after the last whose pixels vary over the images.

    A row varies where the standard deviation of a pixel, ``std`` (3, H, W) of images
    in [-1, 1], is above 2 of 255 levels. Rows are added until their number is a
    multiple of ``multiple``, a divisor of H.
    """
    height = std.shape[1]
    rows = torch.nonzero(std.amax((0, 2)) > 2 / 127.5).flatten().tolist() or [0, height - 1]
    count = -(-(rows[-1] + 1 - rows[0]) // multiple) * multiple
    top = max(0, min(rows[0] - (count - (rows[-1] + 1 - rows[0])) // 2, height - count))
    return top, top + count


class ConditionDataset(Dataset):
    """The label sets to draw: a condition file of the lab, ``test`` or ``new_test``, or a path.

    Item ``i`` is a multi-hot label, float (24,); ``label_sets`` holds the names.
    """

    def __init__(self, source: str | Path) -> None:
        known = isinstance(source, str) and not source.endswith(".json")
        self.name = source if known else Path(source).stem
        self.label_sets = read_conditions(condition_file(source) if known else source)
        self.labels = torch.stack([to_multi_hot(names) for names in self.label_sets])

    def __len__(self) -> int:
        return len(self.label_sets)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.labels[index]
