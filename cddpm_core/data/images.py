"""The images of a data folder: which there are, and the pixels of one.

They lie in one of `IMAGE_FOLDERS`; ``train.json`` and ``objects.json`` beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cddpm_core.config.errors import UserError
from cddpm_core.data.labels import read_train

__all__ = ["IMAGE_FOLDERS", "FolderFiles", "check_folder", "find_image", "folder_files",
           "image_paths", "load_image", "open_image", "to_float"]

MAX_PIXELS = 30_000_000  # of an image file, of which memory has to hold several copies
IMAGE_FOLDERS = ("iclevr", "images", ".")


def load_image(path: str | Path, image_size: int = 64) -> np.ndarray:
    """Return an image as uint8 (image_size, image_size, 3), squashed to a square as the lab does.

    Raises `UserError` as `open_image` does.
    """
    small = open_image(path).resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.array(small)


def open_image(path: str | Path) -> Image.Image:
    """Return an image file of any mode as RGB; 16 bits become 8, transparent pixels black.

    Raises `UserError` for a missing or unreadable file.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, expected at most "
                                 f"{MAX_PIXELS:,}")
            if image.mode.startswith("I"):  # which Pillow would clip to 255, not scale
                image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
            if image.mode in ("P", "LA", "PA") or "transparency" in image.info:
                image = image.convert("RGBA")
            if image.mode == "RGBA":
                image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
            return image.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except Exception as error:
        raise UserError(f"{path}: not a readable image ({error})") from None


def to_float(pixels: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Return uint8 (..., H, W, 3) pixels as float (..., 3, H, W) in [-1, 1]."""
    # Contiguous, because group norms are slow on the strides of a permuted view.
    channels_first = torch.as_tensor(pixels).movedim(-1, -3).contiguous()
    return channels_first.float() / 127.5 - 1


@dataclass(frozen=True)
class FolderFiles:
    """The images of a data folder; ``images`` is the subfolder that holds them.

    ``missing`` files are named but absent, ``surplus`` PNG files are present but not named.
    """

    images: Path
    named: tuple[str, ...]
    missing: tuple[str, ...]
    surplus: tuple[str, ...]


def folder_files(folder: str | Path, named: Sequence[str] | None = None) -> FolderFiles:
    """Return which images a data folder has; ``named`` are by default those of ``train.json``."""
    folder = Path(folder).expanduser()
    named = list(read_train(folder / "train.json")) if named is None else named
    present = {part: {p.name for p in (folder / part).iterdir()} if (folder / part).is_dir()
               else set() for part in IMAGE_FOLDERS}
    part = max(IMAGE_FOLDERS, key=lambda name: sum(file in present[name] for file in named))
    pictures = {name for name in present[part] if name.lower().endswith(".png")}
    return FolderFiles(folder / part, tuple(named),
                       tuple(file for file in named if file not in present[part]),
                       tuple(sorted(pictures - set(named))))


def image_paths(folder: Path, named: Sequence[str]) -> list[Path]:
    """Return the paths of the images of a data folder; `UserError` if one is missing."""
    files = folder_files(folder, named)
    if files.missing:
        surplus = (f", and {len(files.surplus)} are there that it does not name"
                   if files.surplus else "")
        raise UserError(f"{files.images / files.missing[0]}: no such image; {len(files.missing)} "
                        f"of the {len(named)} images that train.json names are missing{surplus}")
    return [files.images / file for file in named]


def find_image(folder: Path, name: str) -> Path:
    """Return the path of one image of a data folder, whichever of `IMAGE_FOLDERS` it is in."""
    paths = [folder / part / name for part in IMAGE_FOLDERS]
    return next((path for path in paths if path.exists()), paths[-1])


def check_folder(folder: str | Path) -> None:
    """Raise `UserError` if a data folder lacks labels or images; reads no image."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"data: {folder} is not a folder, expected one with train.json "
                        "and the images")
    image_paths(folder, list(read_train(folder / "train.json")))
