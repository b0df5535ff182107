"""Data sets: training images with their conditions, and the conditions to sample for."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from cddpm_core.config.code_version import code_hash
from cddpm_core.config.errors import UserError
from cddpm_core.config.files import atomic
from cddpm_core.config.progress import progress
from cddpm_core.data import labels as label_files
from cddpm_core.data.images import find_images, load_image, to_float
from cddpm_core.data.positions import find_positions, scene_layouts

__all__ = ["ConditionDataset", "IclevrDataset"]


class IclevrDataset(Dataset):
    """The training images of a data folder.

    Item ``i`` is an image, float (3, H, W) in [-1, 1], and its multi-hot label, float (24,).

    Args:
        folder: the data folder.
        image_size: side of the square images in pixels.
        leave_out: conditions, in any order of names, whose images are not taken.
        in_memory: hold the resized set as uint8 (N, H, W, 3) in ``pixels``,
            221 MB for the lab's 18,009 images, instead of reading files again.
        cache: a folder to keep that resized set in. It is read from there while names, sizes and
            times of the image files, and the code that reads them, stay the same.
        missing: "error", or "skip" to leave out images that are named but not there.

    Raises `UserError` for label files and images that are missing or cannot be read.
    """

    def __init__(self, folder: str | Path, image_size: int = 64, in_memory: bool = True,
                 leave_out: Iterable[Iterable[str]] = (), cache: str | Path | None = None,
                 missing: str = "error") -> None:
        folder = Path(folder)
        train = label_files.read_train(folder / "train.json")
        if (folder / "objects.json").exists():
            label_files.read_objects(folder / "objects.json")
        hidden = {frozenset(names) for names in leave_out}
        paths = find_images(folder, list(train), missing)
        # An image that is left out still locates what the next frame of its scene adds.
        self._listed = [(file, path, train[file]) for file, path in paths.items()]
        kept = {path: names for _, path, names in self._listed if frozenset(names) not in hidden}
        if not kept:
            raise UserError(f"{folder / 'train.json'}: expected conditions that are not left out, "
                            "found none")
        self.folder, self.image_size = folder, image_size
        self.files, self.conditions = list(kept), list(kept.values())
        self.labels = torch.stack([label_files.to_multi_hot(names) for names in self.conditions])
        self.pixels = None
        if in_memory:
            self.pixels = self._read_all() if cache is None else self._read_once(Path(cache))

    def _read_once(self, cache: Path) -> np.ndarray:
        files = [(path.name, (at := path.stat()).st_size, at.st_mtime_ns) for path in self.files]
        about = repr((code_hash("cddpm_core.data.images"), self.image_size, files))
        key = hashlib.sha256(about.encode()).hexdigest()[:12]
        path = cache / f"{key}.npy"
        try:
            pixels = np.load(path, allow_pickle=False)
            wanted = (len(self), self.image_size, self.image_size, 3)
            if pixels.dtype == np.uint8 and pixels.shape == wanted:
                return pixels
        except (OSError, ValueError, EOFError):
            pass  # not there yet, or damaged: the images have it all
        pixels = self._read_all()
        with contextlib.suppress(UserError, OSError), atomic(path) as new, new.open("wb") as file:
            np.save(file, pixels)
        return pixels

    def _read_all(self) -> np.ndarray:
        pixels = np.empty((len(self), self.image_size, self.image_size, 3), np.uint8)
        with progress(total=len(self), desc="reading images", unit="img") as bar:
            for index, image in enumerate(self._images()):
                pixels[index] = image
                bar.update()
        return pixels

    def _images(self) -> Iterator[np.ndarray]:
        """The pixels of one image after the other, held or read."""
        if self.pixels is not None:
            yield from self.pixels
            return
        with ThreadPoolExecutor() as pool:
            yield from pool.map(lambda path: load_image(path, self.image_size), self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return to_float(self.pixels_of([index])[0]), self.labels[index]

    def batch(self, indices: Sequence[int] | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images (B, 3, H, W) and labels (B, 24) of many items at once."""
        return to_float(self.pixels_of(indices)), self.labels[indices]

    def pixels_of(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Return the images of many items as they are held, uint8 (B, H, W, 3)."""
        held = self.pixels is not None
        return torch.from_numpy(self.pixels[indices] if held else np.stack(
            [load_image(self.files[i], self.image_size) for i in indices]))

    @functools.cached_property
    def positions(self) -> torch.Tensor:
        """The position of each object in each image, float (N, 24, 2); see `find_positions`."""
        files, paths, conditions = zip(*self._listed, strict=True)
        number = {path: i for i, path in enumerate(paths)}
        rows = [number[path] for path in self.files]
        kept = dict(zip(rows, range(len(self)), strict=True))

        def read(index: int) -> np.ndarray:
            if index in kept and self.pixels is not None:
                return self.pixels[kept[index]]
            return load_image(paths[index], self.image_size)

        found = find_positions(files, conditions, read, wanted=rows)
        return torch.from_numpy(found[rows])

    def layouts(self) -> np.ndarray:
        """Return the positions of the objects of whole scenes; see `scene_layouts`."""
        return scene_layouts(self.positions.numpy(), self.conditions)

    @functools.cached_property
    def fingerprint(self) -> dict[str, int | str]:
        """What a checkpoint says of its data: number of images, SHA-256 of labels and pixels.

        It is the same with the images in memory and without; these are then all read for it.
        """
        pixels = hashlib.sha256()
        for image in self._images():
            pixels.update(image)
        return {"images": len(self), "labels": hashlib.sha256(self.labels.numpy()).hexdigest(),
                "pixels": pixels.hexdigest()}

    def spaced(self, count: int) -> np.ndarray:
        """Return the numbers of ``count`` images, or of all if there are fewer, evenly spaced."""
        return np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).astype(int))

    def mean(self, max_images: int = 6000) -> torch.Tensor:
        """Return the mean image, (3, H, W), of at most ``max_images``, evenly spaced."""
        return self.batch(self.spaced(max_images))[0].mean(0)


class ConditionDataset:
    """The conditions to sample for: those of ``test`` or ``new_test``, or of a file's path.

    ``labels`` are their multi-hot vectors, float (N, 24); ``conditions`` holds the names.
    """

    def __init__(self, source: str | Path) -> None:
        self.name = Path(source).stem
        named = str(source) == self.name  # and not a path of a file
        self.conditions = label_files.read_conditions(
            label_files.condition_file(self.name) if named else source)
        self.labels = torch.stack([label_files.to_multi_hot(names) for names in self.conditions])

    def __len__(self) -> int:
        return len(self.conditions)
