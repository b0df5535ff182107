"""Images and their labels, read from the lab's layout whoever made the files.

A data folder holds ``train.json``, ``objects.json`` and the images, in
``iclevr/``, ``images/`` or beside the JSON files.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from cddpm_core.errors import UserError
from cddpm_core.labels import (
    condition_file,
    read_conditions,
    read_objects,
    read_train,
    to_multi_hot,
)
from cddpm_core.layout import find_places, scene_layouts
from cddpm_core.params import Params
from cddpm_core.runs import Run, atomic, progress
from cddpm_core.scenes import RENDERER_VERSION, render_dataset

__all__ = ["ConditionDataset", "DataSource", "FolderFiles", "IclevrDataset", "check_folder",
           "data_source", "folder_files", "left_out", "load_image", "to_tensor", "varying_rows"]

MOST_PIXELS = 30_000_000  # of an image file, of which memory has to hold several copies
READING_VERSION = 1  # of `load_image`: raised when the same file gives other pixels
IMAGE_FOLDERS = ("iclevr", "images", ".")


def load_image(path: str | Path, image_size: int = 64) -> np.ndarray:
    """Return an image as uint8 (image_size, image_size, 3), squashed to a square as the lab does.

    Any mode Pillow reads is turned into RGB, 16 bits into 8, transparency over
    black. Raises `UserError` for a missing or unreadable file.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, expected at most "
                                 f"{MOST_PIXELS:,}")
            if image.mode.startswith("I"):  # which Pillow would clip to 255, not scale
                image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
            if image.mode in ("P", "LA", "PA") or "transparency" in image.info:
                image = image.convert("RGBA")
            if image.mode == "RGBA":
                image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
            small = image.convert("RGB").resize((image_size, image_size), Image.Resampling.BILINEAR)
            return np.array(small)
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except Exception as error:
        raise UserError(f"{path}: not a readable image ({error})") from None


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """Return uint8 (..., H, W, 3) pixels as float (..., 3, H, W) in [-1, 1]."""
    # A view of other strides would go on through a network, whose group norms are slow on them.
    channels_first = np.ascontiguousarray(np.moveaxis(pixels, -1, -3))
    return torch.from_numpy(channels_first).float() / 127.5 - 1


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
        train = {file: names for file, names in train.items() if frozenset(names) not in hidden}
        if not train:
            raise UserError(f"{folder / 'train.json'}: expected label sets that are not left out, "
                            "found none")
        self.folder, self.image_size = folder, image_size
        self.files = _image_paths(folder, list(train))
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
        """Where each object stands in each image, float (N, 24, 2); see `layout.find_places`."""
        def read(index: int) -> np.ndarray:
            if self.pixels is not None:
                return self.pixels[index]
            return load_image(self.files[index], self.image_size)

        return torch.from_numpy(find_places([path.name for path in self.files], self.label_sets,
                                            read))

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


@dataclass(frozen=True)
class FolderFiles:
    """The images of a data folder: those ``train.json`` names, and what is there.

    ``images`` is the folder they are in; ``missing`` are named and not there,
    ``surplus`` are PNG files there that are not named.
    """

    images: Path
    named: tuple[str, ...]
    missing: tuple[str, ...]
    surplus: tuple[str, ...]


def folder_files(folder: str | Path) -> FolderFiles:
    """Return which images a data folder should have and has; reads ``train.json`` alone."""
    folder = Path(folder).expanduser()
    return _files(folder, list(read_train(folder / "train.json")))


def _files(folder: Path, named: Sequence[str]) -> FolderFiles:
    present = {part: {p.name for p in (folder / part).iterdir()} if (folder / part).is_dir()
               else set() for part in IMAGE_FOLDERS}
    part = max(IMAGE_FOLDERS, key=lambda name: sum(file in present[name] for file in named))
    pictures = {name for name in present[part] if name.lower().endswith(".png")}
    return FolderFiles(folder / part, tuple(named),
                       tuple(file for file in named if file not in present[part]),
                       tuple(sorted(pictures - set(named))))


def _image_paths(folder: Path, named: Sequence[str]) -> list[Path]:
    files = _files(folder, named)
    if files.missing:
        surplus = (f", and {len(files.surplus)} are there that it does not name"
                   if files.surplus else "")
        raise UserError(f"{files.images / files.missing[0]}: no such image; {len(files.missing)} "
                        f"of the {len(named)} images that train.json names are missing{surplus}")
    return [files.images / file for file in named]


def check_folder(folder: str | Path) -> None:
    """Raise `UserError` if a data folder lacks labels or images; reads no image."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"data: {folder} is not a folder, expected one with train.json "
                        "and the images")
    _image_paths(folder, list(read_train(folder / "train.json")))


@dataclass(frozen=True)
class DataSource:
    """Where the images come from, said beside every figure.

    ``kind`` is ``real`` or ``rendered``; ``sha256`` is the hash of ``train.json``.
    """

    kind: str
    folder: Path
    heldout: Path | None
    sha256: str

    def describe(self) -> str:
        """Return a phrase for captions."""
        return "real i-CLEVR images" if self.kind == "real" else "rendered scenes (embedded data)"


def data_source(params: Params, run: Run) -> DataSource:
    """Return the user's data folder, or the embedded data, rendered now if it is not there yet."""
    if params.data:
        folder = Path(params.data).expanduser()
        check_folder(folder)
        return DataSource("real", folder, None, _hash(folder / "train.json"))
    rendered = []
    for split, scenes in (("train", params.num_scenes), ("heldout", params.heldout_scenes)):
        # The held-out scenes draw from seeds no training split reaches.
        seed = params.data_seed + (0 if split == "train" else 2**31)
        folder = run.cache / f"data/{split}-v{RENDERER_VERSION}-{scenes}-seed{params.data_seed}"
        if not (folder / "train.json").exists():
            render_dataset(folder, num_scenes=scenes, seed=seed)
        rendered.append(folder)
    return DataSource("rendered", *rendered, _hash(rendered[0] / "train.json"))


def left_out(params: Params) -> set[frozenset[str]]:
    """Return the label sets that training is not to see, by ``params.holdout``."""
    files = ("test", "new_test") if params.holdout == "test_conditions" else ()
    return {frozenset(names) for file in files for names in ConditionDataset(file).label_sets}


def _hash(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        raise UserError(f"{path}: no such file, expected the labels of the images") from None
