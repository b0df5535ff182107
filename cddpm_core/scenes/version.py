"""The version of rendered images, which names the cached data; Blender on this machine."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cddpm_core.config.code_version import code_hash
from cddpm_core.config.errors import UserError
from cddpm_core.config.files import sha256_of, typed_path
from cddpm_core.data.labels import COLOURS, OBJECTS

if TYPE_CHECKING:
    from cddpm_core.config.schema import Params

__all__ = ["BASE", "Blender", "check_assets", "cycles_version", "find_blender", "renderer_version",
           "scenes_version"]

# All that decides the scenes and the pixels of a seed.
_RAY_TRACER = ("scenes.surfaces", "scenes.light", "scenes.shade", "scenes.compose",
               "scenes.ground", "scenes.lamps", "scenes.render", "scenes.scene",
               "scenes.dataset", "config.seeds")
# What decides the frames of a seed, besides Blender and the assets. Code that only shades scenes
# for the ray tracer is not among it: frames that took days are not rendered again for its sake.
_CYCLES = ("scenes.scene", "scenes.blender_script", "config.seeds")
BASE = "base_scene.blend"
ASSETS = (BASE, "materials/Rubber.blend",
          *(f"shapes/{name}.blend" for name in ("SmoothCube_v2", "Sphere", "SmoothCylinder")))
OLDEST = (2, 93)
WANTED = "expected Blender 2.93 or later"


@functools.cache
def renderer_version() -> str:
    """Return 12 hex digits that change with the renderer's code, its colours or the objects.

    Comments, docstrings and the layout of the code do not matter. No renderer is imported.
    """
    return _hash([_code(_RAY_TRACER), COLOURS, OBJECTS])


def scenes_version(params: Params) -> str:
    """Return the version of the scenes that ``params`` asks for, by either renderer.

    Raises `UserError` if Blender or CLEVR's assets are needed and missing.
    """
    if params.renderer == "raytrace":
        return renderer_version()
    return cycles_version(params.blender, params.clevr_assets, params.cycles_samples,
                          params.cycles_denoise)


def cycles_version(blender: str, assets: str, samples: int, denoise: bool) -> str:
    """Return a name for frames that Cycles renders, such as ``cycles128-1c291ca36c2b``.

    It changes with the version of Blender, the content of the assets, samples, denoising, colours,
    objects, and the code that samples scenes or runs in Blender. Raises `UserError` if Blender or
    an asset is missing. No renderer is imported.
    """
    program, folder = find_blender(blender), check_assets(assets)
    about = [program.version, [sha256_of(folder / name) for name in ASSETS], COLOURS, OBJECTS,
             _code(_CYCLES)]
    return f"cycles{samples}{'-denoised' * denoise}-{_hash(about)}"


def _code(modules: Sequence[str]) -> str:
    return code_hash(*(f"cddpm_core.{name}" for name in modules))


def _hash(about: list[Any]) -> str:
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]


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
