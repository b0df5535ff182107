"""The version of the rendered images, which names the cached data."""

from __future__ import annotations

import functools
import hashlib
import json
from typing import TYPE_CHECKING

from cddpm_core.config.code_version import code_hash
from cddpm_core.data.labels import COLOURS, OBJECTS
from cddpm_core.scenes.blender import cycles_version

if TYPE_CHECKING:
    from cddpm_core.config.schema import Params

__all__ = ["renderer_version", "scenes_version"]

# All that decides the scenes and the pixels of a seed.
_MODULES = ("scenes.surfaces", "scenes.light", "scenes.shade", "scenes.compose", "scenes.ground",
            "scenes.lamps", "scenes.render", "scenes.scene", "scenes.dataset", "config.seeds")


@functools.cache
def renderer_version() -> str:
    """Return 12 hex digits that change with the renderer's code, its colours or the objects.

    Comments, docstrings and the layout of the code do not matter. No renderer is imported.
    """
    code = code_hash(*(f"cddpm_core.{name}" for name in _MODULES))
    content = json.dumps([code, COLOURS, OBJECTS])
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def scenes_version(params: Params) -> str:
    """Return the version of the scenes that ``params`` asks for, by either renderer.

    Raises `UserError` if Blender or CLEVR's assets are needed and missing.
    """
    if params.renderer == "raytrace":
        return renderer_version()
    return cycles_version(params.blender, params.clevr_assets, params.cycles_samples,
                          params.cycles_denoise)
