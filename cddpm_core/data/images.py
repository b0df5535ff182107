"""The images of a data folder: which there are, and the pixels of one.

They lie in one of `IMAGE_FOLDERS`; ``train.json`` and ``objects.json`` beside it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import typed_path
from cddpm_core.config.folders import ARCHIVES, FolderFiles, archives, elsewhere, look_up
from cddpm_core.data.labels import read_train

__all__ = ["IMAGE_FOLDERS", "check_folder", "find_images", "folder_files", "load_image",
           "open_image", "to_float"]

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
        if not os.path.getsize(path):
            raise ValueError("the file is empty")
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


def folder_files(folder: str | Path, named: Sequence[str] | None = None) -> FolderFiles:
    """Return which images a data folder has, see `look_up`; ``named``: those of ``train.json``."""
    folder = typed_path(folder)
    named = list(read_train(folder / "train.json")) if named is None else named
    return look_up(folder, named, IMAGE_FOLDERS)


def find_images(folder: Path, named: Sequence[str], missing: str = "error") -> dict[str, Path]:
    """Return the paths of the named images of a data folder.

    Raises `UserError` if one is missing; with ``missing`` "skip" only if all are.
    """
    files = folder_files(folder, named)
    if files.missing and (missing == "error" or not files.found):
        surplus = (f", and {len(files.surplus)} are there that it does not name"
                   if files.surplus else "")
        skip = "; missing: skip leaves them out" if files.found else ""
        raise UserError(f"{files.images / files.missing[0]}: no such image; {len(files.missing)} "
                        f"of the {len(named)} images that train.json names are missing"
                        f"{surplus}{archives(folder)}{skip}")
    return files.found


def check_folder(folder: str | Path, missing: str = "error") -> None:
    """Raise `UserError` if a data folder lacks labels or images; reads no image."""
    folder = typed_path(folder)
    if not folder.is_dir():
        unpack = "; unpack it first" if folder.suffix.lower() in ARCHIVES else ""
        raise UserError(f"data: {folder} is not a folder, expected one with train.json "
                        f"and the images{unpack}")
    if not (folder / "train.json").exists():
        raise UserError(f"{folder / 'train.json'}: no such file{elsewhere(folder, 'train.json')}")
    find_images(folder, list(read_train(folder / "train.json")), missing)
