"""Blender and CLEVR's assets on this machine: found, checked, and named in a version."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from cddpm_core.config.code_version import code_hash
from cddpm_core.config.errors import UserError
from cddpm_core.config.files import sha256_of, typed_path
from cddpm_core.data.labels import COLOURS, OBJECTS

__all__ = ["Blender", "check_assets", "cycles_version", "find_blender"]

BASE = "base_scene.blend"
ASSETS = (BASE, "materials/Rubber.blend",
          *(f"shapes/{name}.blend" for name in ("SmoothCube_v2", "Sphere", "SmoothCylinder")))
OLDEST = (2, 93)
WANTED = "expected Blender 2.93 or later"
# What decides the frames of a seed, besides Blender and the assets. Code that only shades scenes
# for the ray tracer is not among it: frames that took days are not rendered again for its sake.
_MODULES = ("scenes.scene", "scenes.blender_script", "config.seeds")


class Blender(NamedTuple):
    """A program that can be run, and its version, such as 3.4.1."""

    program: Path
    version: str


def find_blender(given: str | Path = "") -> Blender:
    """Return the Blender of a path, or that on the PATH; `UserError` if there is none to use."""
    program = typed_path(given) if str(given) else shutil.which("blender")
    if program is None:
        raise UserError(f"blender: no program of this name on the PATH, {WANTED}; install it, or "
                        "name its path with -p blender")
    try:
        return _known(Path(program), Path(program).stat().st_mtime_ns)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UserError(f"blender: {program} cannot be run ({reason}), {WANTED}") from None


@functools.lru_cache
def _known(program: Path, changed: int) -> Blender:
    said = subprocess.run([program, "--version"], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, errors="replace", timeout=120).stdout
    version = re.search(r"^Blender ((\d+)\.(\d+)\S*)", said, re.MULTILINE)
    if not version:
        raise UserError(f"blender: {program} is not Blender by what --version says, {WANTED}")
    if (int(version[2]), int(version[3])) < OLDEST:
        raise UserError(f"blender: {program} is Blender {version[1]}, {WANTED}")
    return Blender(program, version[1])


def check_assets(folder: str | Path) -> Path:
    """Return the absolute path of CLEVR's assets; `UserError` if one is missing."""
    folder = typed_path(folder).absolute()
    for name in ASSETS:
        if not (folder / name).is_file():
            raise UserError(f"clevr_assets: {folder / name} does not exist, expected the folder "
                            "image_generation/data of CLEVR's repository clevr-dataset-gen")
    return folder


def cycles_version(blender: str, assets: str, samples: int, denoise: bool) -> str:
    """Return a name for frames that Cycles renders, such as ``cycles128-1c291ca36c2b``.

    It changes with the version of Blender, the content of the assets, samples, denoising, colours,
    objects, and the code that samples scenes or runs in Blender. Raises `UserError` if Blender or
    an asset is missing. No renderer is imported.
    """
    about = [find_blender(blender).version,
             [sha256_of(check_assets(assets) / name) for name in ASSETS], COLOURS, OBJECTS,
             code_hash(*(f"cddpm_core.{name}" for name in _MODULES))]
    version = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
    return f"cycles{samples}{'-denoised' * denoise}-{version}"
